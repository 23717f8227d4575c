"""Quorum, a rollback mode, and a primary that is cut off: its commit in doubt keeps nobody waiting."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from support import images, processes
from support.program import Program
from support.switching import SwitchedCluster, SwitchedNode

LIMIT_S = 60.0
ACK_S, FENCE_S = 30.0, 4.0
DEMOTED_S = 8.0
"""A tenth of a second on an idle machine. Who waits for the acknowledgement needs ACK_S; who waits for programs that
wait for the hand-over, 20 s."""

_READER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=0.05, isolation_level=None)
while True:
    try:
        db.execute("SELECT count(*) FROM t").fetchone()
    except sqlite3.Error:
        pass
    time.sleep(0.002)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SwitchedCluster]:
    """n1, the primary, and n2, whose acknowledgement each commit needs."""
    with SwitchedCluster(tmp_path, 2, replication={"mode": "Quorum", "acks": 1, "ackTimeoutS": ACK_S}) as made:
        made.begin()
        connected(made.switched[0])
        yield made


def connected(node: SwitchedNode) -> None:
    def one() -> bool:
        return len((node.info() or {}).get("replicas", ())) == 1

    assert processes.wait_until(one, limit_s=LIMIT_S), node.log_tail()


@contextmanager
def silent(node: SwitchedNode) -> Iterator[None]:
    """It stays connected and says nothing."""
    pid = node.pids()["replicator"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_written(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0.3)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS after(x)")
    except sqlite3.Error:
        return False
    return True


@pytest.mark.parametrize("mode", ["DELETE", "PERSIST"])
def test_a_fenced_primary_lets_go_of_a_commit_in_doubt_at_once(cluster: SwitchedCluster, mode: str) -> None:
    n1, n2 = cluster.switched
    path = n1.mount / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t(x)")
    cluster.wait_synced("a.db")
    cluster.epoch += 1
    n1.post("/role", role="primary", epoch=cluster.epoch, fenceS=FENCE_S)
    connected(n1)
    mine, told = Program(path), list[str]()
    mine.execute(f"PRAGMA journal_mode={mode}")
    readers = [subprocess.Popen([sys.executable, "-c", _READER, str(path)]) for _ in range(3)]

    def commit() -> None:
        try:
            mine.execute("INSERT INTO t VALUES (1)")
        except RuntimeError as error:
            told.append(str(error))

    try:
        with silent(n2):
            writer = threading.Thread(target=commit)
            writer.start()
            assert processes.wait_until(lambda: (n1.info() or {})["role"] == "fenced", limit_s=LIMIT_S)
            time.sleep(0.3)
            began = time.monotonic()
            n1.post("/role", role="replica", primary=None)
            took = time.monotonic() - began
            writer.join(LIMIT_S)
        assert told == ["disk I/O error"]
        assert took < DEMOTED_S, n1.log_tail()
        cluster.epoch += 1
        n2.post("/role", role="replica", primary=n1.peer)
        n1.post("/role", role="primary", epoch=cluster.epoch)
        assert processes.wait_until(lambda: is_written(path), limit_s=LIMIT_S), n1.log_tail()
        assert time.monotonic() - began < 2 * DEMOTED_S, n1.log_tail()
    finally:
        for reader in readers:
            reader.kill()
            reader.wait(LIMIT_S)
        mine.kill()
    images.check_same(cluster, "a.db")
