"""What a program may do where, and what it is told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster.shared import ROLE_FENCED, ROLE_PRIMARY, ROLE_REPLICA, NodeWord, Word
from support.mounting import MountedNode

Make = Callable[..., MountedNode]


def with_database(make: Make, **options: object) -> MountedNode:
    """A node with one small WAL database that somebody made while it was a primary."""
    node = make(**options)
    db = sqlite3.connect(node.mnt / "a.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t (x)")
    db.execute("INSERT INTO t VALUES (1)")
    db.close()
    return node


def demote(node: MountedNode, *, locked: bool = True) -> None:
    node.state.node[NodeWord.ROLE] = ROLE_REPLICA
    node.words("a.db")[Word.LOCKED] = int(locked)


def test_a_replica_refuses_changes_of_databases_but_not_of_local_files(mounted: Make) -> None:
    node = with_database(mounted)
    demote(node)
    for change in (
        lambda: os.open(node.mnt / "new.db", os.O_RDWR | os.O_CREAT),  # as SQLite opens
        lambda: os.unlink(node.mnt / "a.db"),
        lambda: os.rename(node.mnt / "a.db", node.mnt / "b.db"),
        lambda: (node.mnt / "a.db-journal").touch(),
        lambda: os.truncate(node.mnt / "a.db", 0),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    assert node.state.node[NodeWord.WRITES_REFUSED] == 5
    (node.mnt / "local.txt").write_bytes(b"fine")
    (node.mnt / "folder").mkdir()
    os.rename(node.mnt / "folder", node.mnt / "other")


def test_a_write_that_reaches_a_replica_is_refused(mounted: Make) -> None:
    node = with_database(mounted)
    fd = os.open(node.mnt / "a.db", os.O_RDWR)
    demote(node)
    with pytest.raises(OSError, match="Read-only"):
        os.pwrite(fd, b"x" * 10, 0)
    os.close(fd)


def test_an_open_waits_until_the_role_locks_are_held(mounted: Make) -> None:
    node = with_database(mounted)
    demote(node, locked=False)
    reader = subprocess.Popen([sys.executable, "-c", f"open({str(node.mnt / 'a.db')!r}).close()"])
    node.wait_for(lambda: node.words("a.db")[Word.LOCK_WANTED] == 1)
    node.wait_for(lambda: node.state.node[NodeWord.PARKED] == 1)
    assert reader.poll() is None
    node.words("a.db")[Word.LOCKED] = 1
    node.ring()
    assert reader.wait(60) == 0


def test_an_open_that_waits_too_long_fails(mounted: Make) -> None:
    node = with_database(mounted, park_s=0.2)
    demote(node, locked=False)
    with pytest.raises(OSError, match="Input/output"):
        (node.mnt / "a.db").read_bytes()


def test_the_replicator_may_do_everything(mounted: Make) -> None:
    node = with_database(mounted)
    demote(node, locked=False)
    node.state.node[NodeWord.REPLICATOR_PID] = os.getpid()
    (node.mnt / "new.db").write_bytes(b"from the primary")
    with open(node.mnt / "a.db", "r+b") as file:
        file.write(file.read(100))
    assert node.words("a.db")[Word.DIRTY_RAW] == 0
    os.unlink(node.mnt / "new.db")


def test_replica_writes_read_only_refuses_to_open_for_writing(mounted: Make) -> None:
    node = with_database(mounted, replica_writes="ReadOnly")
    demote(node)
    with pytest.raises(PermissionError):
        os.open(node.mnt / "a.db", os.O_RDWR)
    os.close(os.open(node.mnt / "a.db", os.O_RDONLY))


def test_a_passed_fence_ends_writing(mounted: Make) -> None:
    node = with_database(mounted)
    db = sqlite3.connect(node.mnt / "a.db", isolation_level=None)
    db.execute("INSERT INTO t VALUES (2)")
    node.state.node[NodeWord.FENCE_REAL_NS] = 1
    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        db.execute("INSERT INTO t VALUES (3)")
    node.state.node[NodeWord.FENCE_REAL_NS] = 0
    assert db.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_poisoned_handles_answer_an_error_and_new_ones_work(mounted: Make) -> None:
    node = with_database(mounted)
    fd = os.open(node.mnt / "a.db", os.O_RDONLY)
    os.pread(fd, 100, 0)
    words = node.words("a.db")
    words[Word.POISONED] = words[Word.OPEN_GEN]

    def fails() -> bool:
        node.ring()
        try:
            os.pread(fd, 100, 0)
        except OSError:
            return True
        return False

    node.wait_for(fails)
    os.close(fd)
    assert (node.mnt / "a.db").read_bytes()[:6] == b"SQLite"


def test_a_log_that_grew_on_a_replica_is_known_after_promotion(mounted: Make) -> None:
    node = with_database(mounted)
    db = sqlite3.connect(node.mnt / "a.db", isolation_level=None)
    db.execute("INSERT INTO t VALUES (2)")
    demote(node)
    node.wait_for(lambda: node.state.node[NodeWord.MOUNT_SLEEPING])  # it looks at its role when it wakes
    generation = int(node.words("a.db")[Word.WAL_GEN])
    node.wait_for(lambda: os.path.exists(node.mnt / ".role"))
    node.state.node[NodeWord.PROMOTIONS] += 1
    node.state.node[NodeWord.ROLE] = ROLE_PRIMARY
    db.execute("INSERT INTO t VALUES (3)")
    assert node.words("a.db")[Word.WAL_GEN] > generation
    assert node.words("a.db")[Word.WAL_END] == os.stat(node.data / "dbs/a.db/wal").st_size


def test_virtual_files_tell_role_primary_lag_and_position(mounted: Make) -> None:
    node = with_database(mounted)
    slot = node.state.find("a.db")
    assert slot is not None
    node.state.set_position(slot, (0x1F, 0x8000_0000_0000_00AB, 1, 2))
    assert (node.mnt / "a.db-pos").read_text() == "000000000000001f/80000000000000ab\n"
    assert (node.mnt / ".role").read_text() == "primary\n"
    assert (node.mnt / ".lag").read_text() == "+000000000\n"
    assert not (node.mnt / ".primary").exists()
    demote(node)
    node.state.set_primary_name("node-1")
    node.state.node[NodeWord.LAG_MS] = 42
    assert (node.mnt / ".primary").read_text() == "node-1\n"
    assert (node.mnt / ".role").read_text() == "replica\n"
    assert (node.mnt / ".lag").read_text() == "+000000042\n"
    node.state.node[NodeWord.ROLE] = ROLE_FENCED
    assert (node.mnt / ".role").read_text() == "fenced\n"


def test_virtual_files_are_hidden_and_harmless_to_remove(mounted: Make) -> None:
    node = with_database(mounted)
    assert os.listdir(node.mnt) == ["a.db"]
    for name in (".role", ".lag", "a.db-pos"):
        os.unlink(node.mnt / name)
        assert (node.mnt / name).read_text()
    with pytest.raises(PermissionError):
        (node.mnt / ".role").write_text("primary")


def test_owner_and_mode_survive_a_restart_of_the_node(tmp_path: Path) -> None:
    with MountedNode(tmp_path / "node") as node:
        (node.mnt / "a.db").touch()
        os.chown(node.mnt / "a.db", 1234, 2345)
    os.rename(tmp_path / "node" / "data", tmp_path / "data")
    again = MountedNode(tmp_path / "again")
    os.rmdir(again.data)
    os.rename(tmp_path / "data", again.data)
    with again as node:
        assert (os.stat(node.mnt / "a.db").st_uid, os.stat(node.mnt / "a.db").st_gid) == (1234, 2345)
