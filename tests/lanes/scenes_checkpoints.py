"""Scenes: write-ahead logs stay short, on both nodes, whatever programs do about them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support import images
from support.clients import connect, fill, follows, value
from support.cluster import Cluster
from support.lane import Run, registry
from support.node import Node
from support.processes import wait_until

CASES, case = registry()

PAGES = 200
SETTINGS = {"replication": {"checkpointPages": PAGES}}
FRAME_BYTES = 4096 + 24
STEPS_S = 4.0

_READER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
print(db.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
sys.stdin.read()
"""


def pages_of(node: Node, name: str) -> int:
    """Pages that the log's file has room for: it never shrinks on the primary."""
    path = images.backing(node, name, "wal")
    return path.stat().st_size // FRAME_BYTES if path.exists() else 0


def wal_of(node: Node, name: str) -> dict[str, int]:
    """What a node says about a log."""
    return (node.database(name) or {}).get("wal") or {"pages": 0, "writtenBack": 0}


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32)


def _restarts(node: Node, name: str) -> int:
    """How often a log started over: its header counts."""
    path = images.backing(node, name, "wal")
    return int.from_bytes(_start(path)[12:16], "big") if path.exists() else 0


def is_written_back(node: Node, name: str) -> bool:
    """Whether nearly nothing is left in the log alone."""
    found = wal_of(node, name)
    return found["pages"] - found["writtenBack"] <= PAGES


@contextlib.contextmanager
def without_checkpoints(path: Path, timeout_s: float = 0.0) -> Iterator[sqlite3.Connection]:
    """A writer that switched them off and does not wait for locks."""
    with connect(path, timeout_s=timeout_s, journal="WAL") as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)")
        yield db


def write_for(db: sqlite3.Connection, seconds: float, pause_s: float = 0.0) -> int:
    """Rows written one by one; an error ends it."""
    until, written = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
        written += 1
        if pause_s:
            time.sleep(pause_s)
    return written


@contextlib.contextmanager
def reader_in_another_process(path: Path) -> Iterator[int]:
    """A program that keeps its snapshot; gives its pid."""
    command = [sys.executable, "-c", _READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            process.stdout.readline()
            yield process.pid
        finally:
            process.stdin.close()
            process.wait(60)


@case
def the_log_is_bounded_on_both_nodes_without_a_programs_help(run: Run) -> None:
    _bounded(run)


@case
def the_log_is_bounded_while_commits_wait_for_replicas(run: Run) -> None:
    _bounded(run, mode="Quorum", acks=1)


def _bounded(run: Run, **replication: object) -> None:
    with run.cluster("bounded", replication={"checkpointPages": PAGES, **replication}) as cluster:
        path = cluster.primary.mount / "b.db"
        with without_checkpoints(path) as db:
            written, until = 0, time.monotonic() + 60
            while min(_restarts(node, "b.db") for node in (cluster.primary, cluster.replica)) < 4:
                written += write_for(db, 1.0)
                counts = [(node.name, _restarts(node, "b.db"), wal_of(node, "b.db")) for node in cluster.nodes]
                assert time.monotonic() < until, f"logs do not start over: {counts} after {written} rows"
            assert pages_of(cluster.primary, "b.db") < 2 * written, "it grew with every row"
            cluster.wait_synced("b.db")
            assert wait_until(lambda: is_written_back(cluster.primary, "b.db"), limit_s=30), "the primary's log"
            assert wait_until(lambda: is_written_back(cluster.replica, "b.db"), limit_s=30), "the replica's log"
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert value(cluster.replica.mount / "b.db", "SELECT count(*) FROM t") == written
        images.check_same(cluster, "b.db")


@case
def a_reader_that_pins_the_log_is_named_on_the_primary(run: Run) -> None:
    _pinned(run, "p.db", lambda cluster: cluster.primary)


@case
def a_reader_that_pins_the_log_of_a_replica_is_named_there(run: Run) -> None:
    _pinned(run, "q.db", lambda cluster: cluster.replica)


def _pinned(run: Run, name: str, where: Callable[[Cluster], Node]) -> None:
    with run.cluster("pin", **SETTINGS) as cluster:
        node, path = where(cluster), cluster.primary.mount / name
        with without_checkpoints(path) as db:
            written = write_for(db, 0.2)
            follows(cluster.replica, name, "SELECT count(*) FROM t", written)
            with reader_in_another_process(node.mount / name) as pid:
                written += write_for(db, 3.0)
                while written < 12 * PAGES:
                    written += write_for(db, 0.5)
                wait_until(lambda: _named(node, name) == pid, limit_s=60)
                assert _named(node, name) == pid, f"{_named(node, name)} is named, not {pid}: {node.info()}"
                lines = [line for line in node.get("/metrics").decode().splitlines() if "pinned" in line]
                assert f'sqlitecluster_db_wal_pinned_pid{{db="{name}"}} {pid}' in lines, f"no metric: {lines}"
                assert wait_until(lambda: _problems(node, name), limit_s=60), "no problem is reported"
                assert f"process {pid} " in _problems(node, name)[0]
            written += write_for(db, 0.1)
            assert wait_until(lambda: is_written_back(node, name), limit_s=60), f"it stays long: {wal_of(node, name)}"
            assert wait_until(lambda: not _problems(node, name) and _named(node, name) is None, limit_s=60)
            warnings = [
                line for line in node.log_tail(500).splitlines() if "starting over" in line and "warning" in line
            ]
            assert len(warnings) == 1, f"{len(warnings)} warnings: {warnings}"
            before, until = _restarts(node, name), time.monotonic() + 60
            while _restarts(node, name) == before and time.monotonic() < until:
                write_for(db, 0.5)
            assert _restarts(node, name) > before, f"it does not start over: {wal_of(node, name)}"
            cluster.wait_synced(name)
        images.check_same(cluster, name)


def _named(node: Node, name: str) -> int | None:
    pinned = (wal_of(node, name)).get("pinnedBy")
    return pinned["pid"] if isinstance(pinned, dict) else None


def _problems(node: Node, name: str) -> list[str]:
    problems = (node.info() or {}).get("problems", [])
    return [p["message"] for p in problems if p.get("db") == name and p["code"] == "WalPinned"]


@case
def a_kill_in_the_middle_of_a_write_back_damages_nothing(run: Run) -> None:
    with run.cluster("kill", **SETTINGS) as cluster:
        path = cluster.primary.mount / "k.db"
        with without_checkpoints(path, timeout_s=60.0) as db:
            written = 0
            for point in ("checkpoint.page", "checkpoint.before-backfilled", "checkpoint.closed-in") * 2:
                armed = cluster.primary.arm(point)
                deadline = time.monotonic() + 60
                while armed.exists() and time.monotonic() < deadline:
                    written += write_for(db, 0.2)
                assert not armed.exists(), f"{point} was not reached"
                written += write_for(db, 0.5)
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",), f"after a kill at {point}"
                assert db.execute("SELECT count(*) FROM t").fetchone() == (written,)
                assert wait_until(cluster.primary.is_ready, limit_s=60)
                cluster.wait_synced("k.db")
            images.check_same(cluster, "k.db")


@case
def programs_own_checkpoints_of_every_mode_run_beside_ours(run: Run) -> None:
    with run.cluster("modes", **SETTINGS) as cluster:
        path = cluster.primary.mount / "m.db"
        fill(path, 500, size=3000)
        wrong: list[str] = []
        ended = threading.Event()
        workers = [threading.Thread(target=_change, args=(path, i, ended, wrong)) for i in range(2)]
        workers += [threading.Thread(target=_read, args=(path, ended, wrong))]
        workers += [threading.Thread(target=_checkpoint, args=(path, ended, wrong))]
        for worker in workers:
            worker.start()
        ended.wait(STEPS_S * 4)
        ended.set()
        for worker in workers:
            worker.join(60)
        assert not wrong, f"{len(wrong)} errors: {wrong[:3]}"
        cluster.wait_synced("m.db")
        with connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        images.check_same(cluster, "m.db")


def _change(path: Path, seed: int, ended: threading.Event, wrong: list[str]) -> None:
    """Rows change all over the database, in transactions of different sizes; some grow it, some shrink it."""
    with connect(path) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("PRAGMA mmap_size=67108864")
        step = seed
        while not ended.is_set():
            step += 1
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute("UPDATE t SET v = randomblob(3000) WHERE id % 97 = ?", (step % 97,))
                db.execute("INSERT INTO t(v) SELECT randomblob(2000) FROM t LIMIT 20")
                if step % 10 == 0:
                    db.execute("DELETE FROM t WHERE id > 900")
                db.execute("COMMIT")
            except sqlite3.Error as error:
                wrong.append(f"writer: {error}")
                return


def _read(path: Path, ended: threading.Event, wrong: list[str]) -> None:
    """Two looks within a snapshot are equal, on a mapped database."""
    with connect(path) as db:
        db.execute("PRAGMA mmap_size=67108864")
        while not ended.is_set():
            try:
                db.execute("BEGIN")
                sql = "SELECT count(*), sum(length(v)), sum(instr(v, x'0a')) FROM t"
                one, two = db.execute(sql).fetchone(), db.execute(sql).fetchone()
                db.execute("COMMIT")
                if one != two:
                    wrong.append(f"a snapshot changed from {one} to {two}")
            except sqlite3.Error as error:
                wrong.append(f"reader: {error}")
                return


def _checkpoint(path: Path, ended: threading.Event, wrong: list[str]) -> None:
    """Each mode in turn, with pauses long enough for ours; a busy answer is no error."""
    modes = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
    with connect(path, timeout_s=0.2) as db:
        step = 0
        while not ended.wait(0.1 if step % 8 < 4 else 1.0):
            step += 1
            try:
                db.execute(f"PRAGMA wal_checkpoint({modes[step % 4]})").fetchall()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    wrong.append(f"checkpoint: {error}")
                    return


@case
def a_last_close_during_a_write_back_leaves_no_log(run: Run) -> None:
    with run.cluster("close", nodes=1, **SETTINGS) as cluster:
        for i in range(12):
            path = cluster.primary.mount / f"close{i}.db"
            with without_checkpoints(path) as db:
                for _ in range(4):
                    db.execute("BEGIN")
                    db.executemany("INSERT INTO t(v) VALUES(randomblob(3000))", [()] * 1500)
                    db.execute("COMMIT")
            log = path.with_name(path.name + "-wal")
            assert wait_until(lambda log=log: not log.exists(), limit_s=30), f"the log of {path.name} is left"
            with contextlib.closing(sqlite3.connect(images.backing(cluster.primary, path.name))) as db:
                assert db.execute("SELECT count(*) FROM t").fetchone() == (6000,), "not everything is in the file"
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@case
def what_the_primary_wrote_back_a_replica_writes_back_below_its_threshold(run: Run) -> None:
    with run.cluster("told", replication={"checkpointPages": 10000}) as cluster:
        path = cluster.primary.mount / "told.db"
        with connect(path, journal="WAL") as db:
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
            until = time.monotonic() + 90
            while _restarts(cluster.replica, "told.db") < 6:  # each counts twice: when it starts over, when it is used
                write_for(db, 1.5, pause_s=0.002)
                db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                found = wal_of(cluster.replica, "told.db"), _frames_received(cluster.replica)
                assert time.monotonic() < until, f"the replica's log and the announcements that came: {found}"
            assert _frames_received(cluster.replica) > 0, "no announcement came"
            cluster.wait_synced("told.db")
        images.check_same(cluster, "told.db")


def _frames_received(node: Node) -> int:
    for line in node.get("/metrics").decode().splitlines():
        if "stream_frames_received_total" in line and "CHECKPOINT" in line:
            return int(float(line.split()[-1]))
    return 0


@case
def a_program_that_copies_its_own_database_keeps_its_log(run: Run) -> None:
    """To close any descriptor of a file takes a process' locks on it: to us it looks as if nobody had it open."""
    rows = 0
    with run.cluster("copies", **SETTINGS) as cluster:
        path = cluster.primary.mount / "copies.db"
        with without_checkpoints(path, timeout_s=30) as db:
            for _ in range(6):
                path.read_bytes()
                for _ in range(2 * PAGES):
                    db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
                    rows += 1
                path.read_bytes()
                assert wait_until(lambda: is_written_back(cluster.primary, "copies.db"), limit_s=20)
                time.sleep(0.5)
                assert path.with_name("copies.db-wal").exists(), "the log of a program was removed"
            assert db.execute("SELECT count(*) FROM t").fetchone() == (rows,)
        assert value(path, "SELECT count(*) FROM t") == rows
        follows(cluster.replica, "copies.db", "SELECT count(*) FROM t", rows)
        images.check_same(cluster, "copies.db")
