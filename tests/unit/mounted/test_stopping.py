"""Whoever clears away a folder that is still mounted, as a kubelet does, clears away no database."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from sqlitecluster.mount import roles
from sqlitecluster.mount.layout import Kind
from sqlitecluster.shared import NodeWord
from support.mounting import MountedNode

Make = Callable[..., MountedNode]


def test_removing_the_whole_tree_while_the_node_stops_deletes_nothing(mounted: Make) -> None:
    node = mounted()
    (node.mnt / "sub").mkdir()
    (node.mnt / "notes.txt").write_text("kept here only")
    for name in ("a.db", "sub/b.db"):
        with closing(sqlite3.connect(node.mnt / name)) as connection:
            connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    node.state.node[NodeWord.STOPPING] = 1
    with pytest.raises(OSError) as refused:
        shutil.rmtree(node.mnt)
    assert refused.value.errno == errno.EBUSY
    shutil.rmtree(node.mnt, ignore_errors=True)
    assert sorted(os.listdir(node.mnt)) == ["a.db", "notes.txt", "sub"]
    assert os.listdir(node.mnt / "sub") == ["b.db"]
    node.state.node[NodeWord.STOPPING] = 0
    with closing(sqlite3.connect(node.mnt / "sub/b.db")) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_a_hot_journal_of_a_dead_program_is_not_taken_for_a_commit(mounted: Make) -> None:
    node = mounted()
    (node.mnt / "a.db").write_bytes(b"")
    with closing(sqlite3.connect(node.mnt / "a.db")) as connection:
        connection.executescript("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    (node.mnt / "a.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
    node.state.node[NodeWord.STOPPING] = 1
    with pytest.raises(OSError):
        os.unlink(node.mnt / "a.db-journal")
    with pytest.raises(OSError):
        os.rename(node.mnt / "a.db-journal", node.mnt / "x")


def test_a_program_that_is_still_there_can_commit_and_close(mounted: Make) -> None:
    node = mounted()
    with closing(sqlite3.connect(node.mnt / "a.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        node.state.node[NodeWord.STOPPING] = 1
        connection.execute("COMMIT")  # the journal is removed
        assert not (node.mnt / "a.db-journal").exists()


@pytest.mark.parametrize(
    ("kind", "stopping", "in_use", "expected"),
    [
        (Kind.DATABASE, False, False, 0),
        (Kind.FILE, False, False, 0),
        (Kind.DATABASE, True, True, errno.EBUSY),
        (Kind.DATABASE, True, False, errno.EBUSY),
        (Kind.WAL, True, True, errno.EBUSY),
        (Kind.JOURNAL, True, True, 0),
        (Kind.JOURNAL, True, False, errno.EBUSY),
        (Kind.FILE, True, True, 0),
        (Kind.FILE, True, False, errno.EBUSY),
    ],
)
def test_what_may_be_removed_while_a_node_stops(kind: Kind, stopping: bool, in_use: bool, expected: int) -> None:
    assert roles.removal(kind, stopping=stopping, in_use=in_use) == expected
