"""Scenes: readers on a replica, while transactions are applied."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from support import images
from support.clients import connect, fill, follows, run_sql, value
from support.lane import Run, registry
from support.node import Node
from support.processes import wait_until

CASES, case = registry()


@case
def an_open_snapshot_is_kept(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "snap.db", 100)
    follows(cluster.replica, "snap.db", "SELECT count(*) FROM t", 100)
    with connect(cluster.replica.mount / "snap.db", timeout_s=0) as reader:
        reader.execute("BEGIN")
        before = reader.execute("SELECT count(*), sum(length(v)) FROM t").fetchone()
        with connect(cluster.primary.mount / "snap.db") as db:
            for _ in range(1000):
                db.execute("INSERT INTO t(v) VALUES(randomblob(50))")
            db.execute("DELETE FROM t WHERE id <= 50")
        cluster.wait_synced("snap.db")
        follows(cluster.replica, "snap.db", "SELECT count(*) FROM t", 1050)
        assert reader.execute("SELECT count(*), sum(length(v)) FROM t").fetchone() == before, "the snapshot moved"
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (1050,)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    images.check_same(cluster, "snap.db")


class Reader(threading.Thread):
    """Reads without any busy timeout; each look must be whole and none may go back."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.looks, self.wrong = path, 0, [""][:0]
        self.ended = threading.Event()

    def run(self) -> None:
        last = 0
        with connect(self.path, timeout_s=0) as db:
            while not self.ended.is_set():
                try:
                    rows, total, log = db.execute(
                        "SELECT (SELECT n FROM head), (SELECT count(*) FROM item), (SELECT max(n) FROM log)"
                    ).fetchone()
                except sqlite3.Error as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    continue
                self.looks += 1
                if not rows == total == (log or 0):
                    self.wrong.append(f"a torn transaction: {rows}, {total}, {log}")
                if rows < last:
                    self.wrong.append(f"time went back from {last} to {rows}")
                last = rows


@case
def reads_go_on_during_every_apply(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "busy.db"
    run_sql(path, "CREATE TABLE head(n)", "INSERT INTO head VALUES(0)", "CREATE TABLE item(id INTEGER PRIMARY KEY, v)",
            "CREATE TABLE log(n)", journal="WAL")  # fmt: skip
    follows(cluster.replica, "busy.db", "SELECT count(*) FROM sqlite_schema", 3)
    reader = Reader(cluster.replica.mount / "busy.db")
    reader.start()
    written = 0
    until = time.monotonic() + 8
    with connect(path) as db:
        while time.monotonic() < until:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO item(v) VALUES(randomblob(300))")
            db.execute("INSERT INTO log VALUES(?)", (written + 1,))
            db.execute("UPDATE head SET n = n + 1")
            db.execute("COMMIT")
            written += 1
    follows(cluster.replica, "busy.db", "SELECT n FROM head", written)
    reader.ended.set()
    reader.join(30)
    assert not reader.wrong, f"{len(reader.wrong)} bad reads of {reader.looks}: {reader.wrong[:3]}"
    assert reader.looks > 100, f"only {reader.looks} reads"
    images.check_same(cluster, "busy.db")


@case
def overlapping_readers_do_not_stop_the_apply(run: Run) -> None:
    with run.cluster("overlap", replication={"checkpointPages": 256}) as cluster:
        fill(cluster.primary.mount / "o.db", 10)
        follows(cluster.replica, "o.db", "SELECT count(*) FROM t", 10)
        a, b = (sqlite3.connect(cluster.replica.mount / "o.db", isolation_level=None, timeout=0) for _ in range(2))
        for i in range(40):
            reader, other = (a, b) if i % 2 else (b, a)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchone()
            if other.in_transaction:
                other.execute("COMMIT")
            fill(cluster.primary.mount / "o.db", 100, size=1000)
        cluster.wait_synced("o.db")
        follows(cluster.replica, "o.db", "SELECT count(*) FROM t", 4010)
        a.close()
        b.close()
        fill(cluster.primary.mount / "o.db", 1)
        images.check_same(cluster, "o.db")


@case
def a_reader_of_a_rollback_mode_database_delays_nothing(run: Run) -> None:
    """A replica keeps every database physically in WAL mode, so these readers never wait either."""
    cluster = run.shared()
    fill(cluster.primary.mount / "slow.db", 4, journal="DELETE")
    follows(cluster.replica, "slow.db", "SELECT count(*) FROM t", 4)
    with connect(cluster.replica.mount / "slow.db", timeout_s=0) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (4,)
        fill(cluster.primary.mount / "slow.db", 4, journal="DELETE")
        follows(cluster.replica, "slow.db", "SELECT count(*) FROM t", 8)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (4,), "the reader's snapshot moved"
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (8,)
    images.check_same(cluster, "slow.db")


@case
def a_reader_that_pins_the_wal_is_named(run: Run) -> None:
    with run.cluster("pinned", replication={"checkpointPages": 256}) as cluster:
        fill(cluster.primary.mount / "named.db", 4)
        follows(cluster.replica, "named.db", "SELECT count(*) FROM t", 4)
        with connect(cluster.replica.mount / "named.db", timeout_s=0) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchone()
            for i in range(12):
                fill(cluster.primary.mount / "named.db", 300, size=4000)
                follows(cluster.replica, "named.db", "SELECT count(*) FROM t", 304 + 300 * i)
            wait_until(lambda: _names(cluster.replica, "named.db"), limit_s=60)
            info = cluster.replica.info() or {}
            assert _names(cluster.replica, "named.db"), f"status does not name it: {info['problems']}"
            lines = [line for line in cluster.replica.get("/metrics").decode().splitlines() if "WalPinned" in line]
            assert any(not line.endswith(" 0") for line in lines), f"no metric names it: {lines}"
            reader.execute("COMMIT")
        fill(cluster.primary.mount / "named.db", 1)
        assert wait_until(lambda: not _names(cluster.replica, "named.db"), limit_s=60), "the problem is not over"
        images.check_same(cluster, "named.db")


def _names(node: Node, name: str) -> bool:
    problems = (node.info() or {}).get("problems", [])
    return any(p.get("db") == name and p["code"] == "WalPinned" for p in problems)


@case
def mapped_reads_see_what_is_applied(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "mapped.db", 500, size=500)
    follows(cluster.replica, "mapped.db", "SELECT count(*) FROM t", 500)
    with connect(cluster.replica.mount / "mapped.db") as reader:
        reader.execute(f"PRAGMA mmap_size={1 << 26}")
        for i in range(5):
            run_sql(cluster.primary.mount / "mapped.db", f"UPDATE t SET v = {i}", "PRAGMA wal_checkpoint(TRUNCATE)")
            follows(cluster.replica, "mapped.db", "SELECT count(DISTINCT v) || '/' || max(v) FROM t", f"1/{i}")
            assert reader.execute("SELECT count(DISTINCT v), max(v) FROM t").fetchone() == (1, i)
    images.check_same(cluster, "mapped.db")


@case
def a_reader_that_never_ends_is_bounded_by_disk_only(run: Run) -> None:
    with run.cluster("long", replication={"checkpointPages": 256}) as cluster:
        fill(cluster.primary.mount / "l.db", 10)
        follows(cluster.replica, "l.db", "SELECT count(*) FROM t", 10)
        with connect(cluster.replica.mount / "l.db", timeout_s=0) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchone()
            for _ in range(12):
                fill(cluster.primary.mount / "l.db", 300, size=1000)
            cluster.wait_synced("l.db")
            assert value(cluster.replica.mount / "l.db", "SELECT count(*) FROM t") == 3610
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (10,)
            reader.execute("COMMIT")
        fill(cluster.primary.mount / "l.db", 1)
        images.check_same(cluster, "l.db")
