"""Special cases: what happens around a node: power cut, upgrade in place, odd stops."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from sqlitecluster.store.state import StateWord
from support import images, processes
from support.clients import connect, fill, follows, run_sql, start_writer, value
from support.cluster import Cluster
from support.lane import Run, registry
from support.node import Node
from support.writer import read_record

CASES, case = registry()
CHECKSUMS_BOOT = 3  # word of the boot id in the file of page checksums


def cut_power(node: Node) -> None:
    """Kill every process of a node at once and take away what a reboot takes away: tmpfs and the mount."""
    process = node.process
    assert process is not None
    for pid in [process.pid, *node.pids().values(), *processes.children_of(process.pid)]:
        processes.kill(pid)
    process.wait(30)
    node.process = None
    assert processes.wait_until(lambda: not any(map(processes.alive, node.pids().values())), limit_s=30)
    for point in processes.mounts_under(node.mount):
        processes.unmount(point)
    for folder in Path("/dev/shm").glob("sqlitecluster-*"):
        if _belongs_to(folder, node):
            shutil.rmtree(folder, ignore_errors=True)
    forget_boot(node)


def forget_boot(node: Node) -> None:
    """Make the node believe that the machine was started anew: its mapped words are of another boot."""
    for database in (node.data / "dbs").iterdir():
        for file, word in ((database / "state", StateWord.BOOT), (database / "checksums", CHECKSUMS_BOOT)):
            with contextlib.suppress(FileNotFoundError), file.open("r+b") as words:
                words.seek(word * 8)
                words.write(struct.pack("<Q", 0x1234567890ABCDEF))


def _belongs_to(folder: Path, node: Node) -> bool:
    return folder.name.split("-", 1)[1] == hashlib.sha256(os.fsencode(node.data.resolve())).hexdigest()[:16]


@case
def power_cut(run: Run) -> None:
    with run.cluster("power") as cluster:
        writers = []
        for mode in ("WAL", "DELETE"):
            record = run.new_folder("power") / mode
            writer = start_writer(cluster.primary, f"{mode}.db", record, "--journal", mode, "--synchronous", "FULL")
            writers.append((mode, record, writer))
        time.sleep(4)
        for node in cluster.nodes:
            cut_power(node)
        for _, _, writer in writers:
            processes.end(writer, limit_s=90)
        cluster.start()
        for mode, record, _ in writers:
            acknowledged = read_record(record).acknowledged
            rows = {row[0] for row in run_sql(cluster.primary.mount / f"{mode}.db", "SELECT seq FROM t")}
            missing = set(acknowledged) - rows
            assert acknowledged and not missing, f"{mode}: {len(missing)} of {len(acknowledged)} commits are missing"
            run_sql(cluster.primary.mount / f"{mode}.db", "INSERT INTO t(v) VALUES('after')")
        images.check_same(cluster, "WAL.db", "DELETE.db")


@case
def power_cut_that_takes_the_end_of_the_wal(run: Run) -> None:
    """synchronous=NORMAL does not fsync the WAL: what the node's log has of it must be put back."""
    with run.cluster("tail") as cluster:
        for share in (0.0, 0.3, 0.9):
            record = run.new_folder("tail") / "record"
            writer = start_writer(cluster.primary, "a.db", record, "--rate", "200")
            assert processes.wait_until(lambda r=record: len(read_record(r).acknowledged) > 300, limit_s=60)  # type: ignore[misc]
            seen = value(cluster.replica.mount / "a.db", "SELECT count(*) FROM t")
            cut_power(cluster.primary)
            processes.end(writer, limit_s=90)
            wal = images.backing(cluster.primary, "a.db", "wal")
            os.truncate(wal, max(32, int(wal.stat().st_size * share)))  # SQLite syncs the header at once
            cluster.primary.start()
            rows = value(cluster.primary.mount / "a.db", "SELECT count(*) FROM t")
            assert rows >= seen, f"{rows} rows after the power cut, but a replica had shown {seen}"
            assert images.integrity(cluster.primary.mount / "a.db") == "ok"
            run_sql(cluster.primary.mount / "a.db", "INSERT INTO t(v) VALUES('after')")
            images.check_same(cluster, "a.db")


@case
def replica_loses_power_again_and_again(run: Run) -> None:
    with run.cluster("replica") as cluster:
        record = run.new_folder("power") / "record"
        writer = start_writer(cluster.primary, "a.db", record, "--rate", "200")
        for _ in range(4):
            time.sleep(2)
            cut_power(cluster.replica)
            cluster.replica.start()
        processes.end(writer)
        assert not read_record(record).errors, read_record(record).errors
        images.check_same(cluster, "a.db")


@case
def upgrade_in_place(run: Run) -> None:
    """SIGHUP: both processes are replaced while a program writes and another reads."""
    with run.cluster("upgrade") as cluster:
        for mode in ("WAL", "DELETE"):
            _upgrade_under_writer(run, cluster, mode)


def _upgrade_under_writer(run: Run, cluster: Cluster, mode: str) -> None:
    record = run.new_folder("upgrade") / mode
    writer = start_writer(cluster.primary, f"{mode}.db", record, "--journal", mode)
    assert processes.wait_until(lambda: len(read_record(record).acknowledged) > 20, limit_s=60)
    for node in cluster.nodes:
        for _ in range(3):
            before = node.pids()
            os.kill(before["supervisor"], signal.SIGHUP)
            assert processes.wait_until(partial(_replaced, node, before), limit_s=60), f"{node.name}: {before}"
    have = len(read_record(record).acknowledged)
    assert processes.wait_until(lambda: len(read_record(record).acknowledged) > have + 20, limit_s=60), (
        "writing stopped"
    )
    assert processes.end(writer)
    found = read_record(record)
    assert not found.errors, found.errors
    run.say(f"{mode}: longest pause during six upgrades {max(found.pauses_ms):.0f} ms")
    follows(cluster.replica, f"{mode}.db", "SELECT count(*) FROM t", len(found.acknowledged))
    images.check_same(cluster, f"{mode}.db")


def _replaced(node: Node, before: dict[str, int]) -> bool:
    now = node.pids()
    return bool(now) and all(now.get(k) != before[k] for k in ("mount", "replicator")) and node.is_ready()


@case
def a_program_goes_on_when_the_replicator_is_stopped_for_a_while(run: Run) -> None:
    with run.cluster("stopped") as cluster:
        fill(cluster.primary.mount / "a.db", 10)
        pid = cluster.primary.pids()["replicator"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with connect(cluster.primary.mount / "a.db") as db:
                db.execute("PRAGMA wal_autocheckpoint=0")
                for _ in range(200):
                    db.execute("INSERT INTO t(v) VALUES(randomblob(100))")
                assert db.execute("SELECT count(*) FROM t").fetchone() == (210,)
        finally:
            os.kill(pid, signal.SIGCONT)
        follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 210)
        images.check_same(cluster, "a.db")


@case
def stop_while_programs_have_files_open(run: Run) -> None:
    with run.cluster("busy-stop") as cluster:
        record = run.new_folder("stop") / "record"
        writer = start_writer(cluster.primary, "a.db", record, "--reopen")
        assert processes.wait_until(lambda: len(read_record(record).acknowledged) > 50, limit_s=60)
        assert cluster.primary.stop(), "the node did not stop cleanly under a writing program"
        cluster.primary.start()
        have = len(read_record(record).acknowledged)
        going = processes.wait_until(lambda: len(read_record(record).acknowledged) > have + 20, limit_s=60)
        processes.end(writer)
        assert going, "the program could not go on after the restart"
        rows = {row[0] for row in run_sql(cluster.primary.mount / "a.db", "SELECT seq FROM t")}
        assert set(read_record(record).acknowledged) <= rows, "acknowledged commits are missing"
        images.check_same(cluster, "a.db")


@case
def started_twice_on_the_same_data(run: Run) -> None:
    with run.cluster("twice", 1) as cluster:
        fill(cluster.primary.mount / "a.db", 3)
        command = processes.cli("node", "--config", str(cluster.primary.config_file))
        second = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, timeout=90)
        assert second.returncode != 0 and second.stderr.startswith("sqlitecluster: "), second
        assert value(cluster.primary.mount / "a.db", "SELECT count(*) FROM t") == 3


@case
def other_interpreters_and_libraries(run: Run) -> None:
    """Another SQLite library (APSW carries its own) on both sides."""
    cluster = run.shared()
    code = (
        "import sys, apsw\n"
        "db = apsw.Connection(sys.argv[1])\n"
        "db.set_busy_timeout(30000)\n"
        "for s in sys.argv[2:]:\n"
        "    print(db.execute(s).fetchall())\n"
    )
    path = str(cluster.primary.mount / "apsw.db")
    command = [
        sys.executable,
        "-c",
        code,
        path,
        "PRAGMA journal_mode=WAL",
        "CREATE TABLE t(x)",
        "INSERT INTO t VALUES(7)",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    follows(cluster.replica, "apsw.db", "SELECT x FROM t", 7)
    command = [sys.executable, "-c", code, str(cluster.replica.mount / "apsw.db"), "SELECT x FROM t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.stdout.strip() == "[(7,)]", done
    images.check_same(cluster, "apsw.db")
