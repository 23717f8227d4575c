"""Commits that wait for acknowledgements: three nodes of which one or two replicas must hold each commit.

Every case ends with the same judgement: what was acknowledged is there once on every node, what
failed is nowhere, no reader on any node ever saw it, and the databases are byte-identical.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from support import images, lane, processes
from support.clients import connect, follows, run_sql, start_writer, value
from support.cluster import Cluster
from support.lane import Run, registry
from support.node import Node
from support.writer import read_record

LANE = "quorum"
TIMEOUT_S = 2.0
LATE_S = 8.0  # what a busy machine adds to a time-out
BACK_S = 60.0
MODES = {"WAL": "NORMAL", "DELETE": "FULL", "TRUNCATE": "NORMAL", "PERSIST": "FULL"}
TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)"
FAILS = "disk I/O error"

CASES, case = registry()


def settings(acks: int = 1, **more: object) -> dict[str, object]:
    """``replication`` of node.yaml."""
    return {"mode": "Quorum", "acks": acks, "ackTimeoutS": TIMEOUT_S, **more}


@contextlib.contextmanager
def quorum(run: Run, acks: int = 1, nodes: int = 3, **more: object) -> Iterator[Cluster]:
    """Nodes whose replicas are connected."""
    with run.cluster("quorum", nodes, replication=settings(acks, **more)) as made:
        connected(made)
        yield made


def connected(cluster: Cluster) -> None:
    """Wait until every replica has a stream."""
    wanted = len(cluster.nodes) - 1
    found = processes.wait_until(
        lambda: len((cluster.primary.info() or {}).get("replicas", ())) == wanted, limit_s=BACK_S
    )
    assert found, f"replicas did not connect:\n{cluster.log_tails()}"


@contextlib.contextmanager
def frozen(*nodes: Node) -> Iterator[None]:
    """Replicas that stay connected and say nothing."""
    pids = [node.pids()["replicator"] for node in nodes]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Watch:
    """Reads a database on every node all the time, and keeps the texts it saw."""

    def __init__(self, cluster: Cluster, name: str, wanted: str) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(node.mount / name, wanted, node.name)) for node in cluster.nodes
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _read(self, path: Path, wanted: str, node: str) -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            while not self._stop.is_set():
                with contextlib.suppress(sqlite3.Error):
                    if db.execute("SELECT 1 FROM t WHERE v = ? LIMIT 1", (wanted,)).fetchone():
                        self.seen.add(node)
                time.sleep(0.002)


def failure(action: Callable[[], object]) -> str:
    """What SQLite says; nothing when it worked."""
    try:
        action()
    except sqlite3.Error as error:
        return str(error)
    return ""


def insert(path: Path, text: str, table: str = "t") -> str:
    """One row in a connection of its own; the error, or nothing."""

    def write() -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            db.execute(f"INSERT INTO {table}(v) VALUES(?)", (text,))

    return failure(write)


def writable(cluster: Cluster, name: str) -> None:
    """Wait until a commit is acknowledged again."""
    path = cluster.primary.mount / name
    found = processes.wait_until(lambda: not insert(path, "again"), limit_s=BACK_S, step_s=0.2)
    assert found, f"no commit is acknowledged any more:\n{cluster.log_tails()}"


def same_everywhere(cluster: Cluster, name: str) -> None:
    """All nodes show the same rows, and have the same bytes."""
    cluster.wait_synced(name)
    images.check_same(cluster, name)
    counts = {node.name: value(node.mount / name, "SELECT count(*) FROM t") for node in cluster.nodes}
    assert len(set(counts.values())) == 1, f"nodes show different rows: {counts}"
    for node in cluster.nodes:
        assert value(node.mount / name, "PRAGMA integrity_check") == "ok", node.name


@case
def a_commit_that_is_not_acknowledged_fails_in_every_journal_mode(run: Run) -> None:
    with quorum(run) as cluster:
        for mode, synchronous in MODES.items():
            name = f"{mode.lower()}.db"
            path = cluster.primary.mount / name
            run_sql(path, TABLE, "INSERT INTO t(v) VALUES('first')", journal=mode)
            for node in cluster.followers:
                follows(node, name, "SELECT count(*) FROM t", 1)
            with connect(path) as db, Watch(cluster, name, "failed") as watch:
                db.execute(f"PRAGMA synchronous={synchronous}")
                with frozen(*cluster.followers):
                    began = time.monotonic()
                    error = failure(lambda db=db: db.execute("INSERT INTO t(v) VALUES('failed')"))
                    took = time.monotonic() - began
                    assert error == FAILS, f"{mode}: {error or 'it was acknowledged'}"
                    assert took < TIMEOUT_S + LATE_S, f"{mode}: the error took {took:.1f} s"
                    assert value(path, "SELECT count(*) FROM t") == 1, "reads do not go on"
                writable(cluster, name)
                time.sleep(0.3)
            assert not watch.seen, f"{mode}: a failed commit was seen on {sorted(watch.seen)}"
            same_everywhere(cluster, name)


@case
def without_replicas_writes_fail_and_reads_go_on(run: Run) -> None:
    with quorum(run) as cluster:
        path = cluster.primary.mount / "a.db"
        run_sql(path, TABLE, "INSERT INTO t(v) VALUES('first')", journal="WAL")
        before = cluster.primary.position("a.db")
        for node in cluster.followers:
            node.stop()
        for _ in range(2):
            began = time.monotonic()
            assert insert(path, "failed") == FAILS
            assert time.monotonic() - began < TIMEOUT_S + LATE_S
        assert value(path, "SELECT count(*) FROM t") == 1
        assert cluster.primary.position("a.db") == before, "something was captured with nobody there"
        for node in cluster.followers:
            node.start()
        writable(cluster, "a.db")
        assert value(path, "SELECT count(*) FROM t WHERE v = 'failed'") == 0
        same_everywhere(cluster, "a.db")


@case
def two_acknowledgements_need_both_replicas(run: Run) -> None:
    with quorum(run, acks=2) as cluster:
        path = cluster.primary.mount / "a.db"
        run_sql(path, TABLE, "INSERT INTO t(v) VALUES('first')", journal="WAL")
        follows(cluster.nodes[2], "a.db", "SELECT count(*) FROM t", 1)
        with frozen(cluster.nodes[2]):
            assert insert(path, "failed") == FAILS
        writable(cluster, "a.db")
        same_everywhere(cluster, "a.db")


@case
def one_silent_replica_of_two_is_no_matter(run: Run) -> None:
    with quorum(run) as cluster:
        path = cluster.primary.mount / "a.db"
        run_sql(path, TABLE, journal="WAL")
        with frozen(cluster.nodes[2]):
            for i in range(50):
                assert not insert(path, f"row {i}")
            follows(cluster.nodes[1], "a.db", "SELECT count(*) FROM t", 50)
        same_everywhere(cluster, "a.db")


@case
def one_zone_counts_once(run: Run) -> None:
    with run.cluster("zones", 3, replication=settings(2)) as cluster:
        for node, zone in zip(cluster.nodes, ("a", "b", "b"), strict=True):
            node.stop()
            node.set_options(replication=settings(2, zone=zone))
        cluster.start()
        connected(cluster)
        path = cluster.primary.mount / "a.db"
        assert failure(lambda: run_sql(path, TABLE, journal="WAL")) == FAILS
        cluster.nodes[2].stop()
        cluster.nodes[2].set_options(replication=settings(2, zone="c"))
        cluster.nodes[2].start()
        connected(cluster)
        run_sql(path, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT)", journal="WAL")
        writable(cluster, "a.db")
        same_everywhere(cluster, "a.db")


@case
def a_program_that_is_killed_while_it_waits(run: Run) -> None:
    with quorum(run) as cluster:
        path, record = cluster.primary.mount / "a.db", run.new_folder("record") / "r"
        run_sql(path, TABLE.replace("t(id", "other(id"), journal="WAL")
        for _ in range(3):
            writer = start_writer(cluster.primary, "a.db", record, "--rate", "200")
            began = len(read_record(record).acknowledged)
            going = processes.wait_until(
                lambda before=began: len(read_record(record).acknowledged) > before + 20, limit_s=BACK_S
            )
            assert going, f"no commit is acknowledged:\n{cluster.log_tails()}"
            with frozen(*cluster.followers):
                time.sleep(0.3)
                writer.kill()
                time.sleep(0.2)
            writer.wait(60)
            seen = set(read_record(record).acknowledged)
            found = processes.wait_until(lambda: not insert(path, "alive", "other"), limit_s=BACK_S)
            assert found, "nobody can write after the writer's death"
            rows = {row[0] for row in run_sql(path, "SELECT seq FROM t")}
            assert seen <= rows, f"acknowledged rows are gone: {sorted(seen - rows)[:5]}"
            cluster.wait_synced("a.db")
        images.check_same(cluster, "a.db")


def _with_kills(run: Run, cluster: Cluster, parts: tuple[str, ...], rounds: int, rng: random.Random) -> None:
    """Writers in two journal modes while parts of nodes die; nothing acknowledged is lost."""
    records: dict[str, Path] = {}
    writers = []
    for name, journal in (("wal.db", "WAL"), ("delete.db", "DELETE")):
        records[name] = run.new_folder("record") / name
        options = ("--journal", journal, "--synchronous", "FULL", "--rate", "150", "--reopen")
        writers.append(start_writer(cluster.primary, name, records[name], *options))
    for record in records.values():
        began = processes.wait_until(lambda r=record: bool(read_record(r).acknowledged), limit_s=BACK_S)
        assert began, f"no commit is acknowledged:\n{cluster.log_tails()}"
    for _ in range(rounds):
        time.sleep(rng.uniform(0.2, 0.6))
        node = rng.choice(cluster.nodes)
        run.say(f"killing the {(part := rng.choice(parts))} of {node.name}")
        node.kill(part)
    time.sleep(1.0)
    for writer in writers:
        assert processes.end(writer, limit_s=BACK_S), "a writer hung"
    for name, record in records.items():
        told = read_record(record)
        processes.wait_until(lambda n=name: not insert_other(cluster, n), limit_s=BACK_S, step_s=0.2)
        rows = [row[0] for row in run_sql(cluster.primary.mount / name, "SELECT seq FROM t")]
        lost = set(told.acknowledged) - set(rows)
        assert not lost, f"{name}: {len(lost)} acknowledged rows are gone, first {min(lost)}"
        cluster.wait_synced(name)
        run.say(f"{name}: {len(told.acknowledged)} acknowledged, {len(rows)} there, {len(told.errors)} errors")
    images.check_same(cluster, *records)


def insert_other(cluster: Cluster, name: str) -> str:
    """A commit that settles what is in doubt."""
    return failure(lambda: run_sql(cluster.primary.mount / name, "CREATE TABLE IF NOT EXISTS settled(v)"))


@case
def replicators_and_mounts_die_while_programs_write(run: Run) -> None:
    with quorum(run) as cluster:
        _with_kills(run, cluster, ("replicator", "mount"), 8, run.rng("kills"))


@case
def a_replica_that_restarts_shows_nothing_that_is_in_doubt(run: Run) -> None:
    with quorum(run) as cluster:
        path = cluster.primary.mount / "a.db"
        run_sql(path, TABLE, "INSERT INTO t(v) VALUES('first')", journal="WAL")
        for node in cluster.followers:
            follows(node, "a.db", "SELECT count(*) FROM t", 1)
        with Watch(cluster, "a.db", "failed") as watch:
            with frozen(*cluster.followers):
                thread = threading.Thread(target=insert, args=(path, "failed"))
                thread.start()
                time.sleep(TIMEOUT_S / 2)
            for node in cluster.followers:
                node.kill("replicator")
            thread.join(60)
            in_doubt = value(path, "SELECT count(*) FROM t WHERE v = 'failed'")
            writable(cluster, "a.db")
            time.sleep(0.5)
        assert in_doubt or not watch.seen, f"a failed commit was seen on {sorted(watch.seen)}"
        same_everywhere(cluster, "a.db")


@case
def large_transactions_spills_and_vacuum(run: Run) -> None:
    with quorum(run, ackTimeoutS=30) as cluster:
        for mode in ("WAL", "DELETE"):
            name = f"large-{mode.lower()}.db"
            with connect(cluster.primary.mount / name, journal=mode, timeout_s=120) as db:
                db.execute("PRAGMA cache_size=10")
                db.execute(TABLE)
                for size in (200, 3000):
                    db.execute("BEGIN")
                    db.executemany("INSERT INTO t(v) VALUES(hex(randomblob(?)))", [(1000,)] * size)
                    db.execute("UPDATE t SET v = v || 'x' WHERE id % 7 = 0")
                    db.execute("COMMIT")
                db.execute("DELETE FROM t WHERE id % 3")
                db.execute("VACUUM")
                if mode == "WAL":
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                db.execute("INSERT INTO t(v) VALUES('last')")
            same_everywhere(cluster, name)


@case
def exclusive_locking_and_checkpoints(run: Run) -> None:
    with quorum(run) as cluster:
        path = cluster.primary.mount / "a.db"
        with connect(path, journal="WAL") as db:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute(TABLE)
            for i in range(30):
                db.execute("INSERT INTO t(v) VALUES(?)", (f"row {i}",))
        with connect(path) as db:
            for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                db.execute("INSERT INTO t(v) VALUES(?)", (kind,))
                db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        same_everywhere(cluster, "a.db")
        assert value(path, "SELECT count(*) FROM t") == 34


@case
def always_durable_without_replicas(run: Run) -> None:
    with run.cluster("always", 2, replication={"localDurability": "Always"}) as cluster:
        for mode in ("WAL", "DELETE"):
            name = f"always-{mode.lower()}.db"
            path = cluster.primary.mount / name
            with connect(path, journal=mode) as db:
                db.execute("PRAGMA synchronous=NORMAL")
                db.execute(TABLE)
                with frozen(*cluster.followers):
                    for i in range(20):
                        db.execute("INSERT INTO t(v) VALUES(?)", (f"row {i}",))
            same_everywhere(cluster, name)


def main() -> int:
    """Entry of ``python -m lanes.quorum``."""
    return lane.lane_main(LANE, "cases", CASES)


if __name__ == "__main__":
    sys.exit(main())
