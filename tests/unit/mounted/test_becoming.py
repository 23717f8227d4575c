"""Plain files, and when one of them becomes a database."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster.mount.files import SQLITE_MAGIC
from sqlitecluster.shared import KIND_DATABASE, ROLE_FENCED, ROLE_PRIMARY, ROLE_REPLICA, NodeWord, Word
from support.mounting import MountedNode
from support.processes import wait_until

Make = Callable[..., MountedNode]


@pytest.mark.parametrize("cuts", [(0, 16), (0, 100), (0, 7, 16, 100), (0, 15, 100)])
def test_a_file_becomes_a_database_with_the_last_byte_of_the_magic(
    mounted: Make, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    node = mounted(capture=False)
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as db:
        db.execute("CREATE TABLE t (x)")
    content = (tmp_path / "x.db").read_bytes()
    (node.mnt / "a.db-journal").write_bytes(b"")  # its side file from now on
    with open(node.mnt / "a.db", "wb", buffering=0) as file:
        for begin, end in itertools.pairwise((*cuts, len(content))):
            assert (node.state.find("a.db") is not None) == (begin >= 16)
            file.write(content[begin:end])
        assert node.words("a.db")[Word.KIND] == KIND_DATABASE
        assert node.words("a.db")[Word.WRITERS] == 1
    assert wait_until(lambda: not node.words("a.db")[Word.WRITERS], limit_s=10), "a writer that has closed is counted"
    assert (node.mnt / "a.db").read_bytes() == content
    with contextlib.closing(sqlite3.connect(node.mnt / "a.db")) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_growing_a_file_may_complete_the_magic(mounted: Make) -> None:
    node = mounted(capture=False)
    with open(node.mnt / "a.db", "wb", buffering=0) as file:
        file.write(b"SQLite format 3")
        assert node.state.find("a.db") is None
        file.truncate(4096)
    assert node.words("a.db")[Word.KIND] == KIND_DATABASE


def test_what_is_no_database_can_be_changed_on_every_node(mounted: Make) -> None:
    node = mounted(capture=False)
    for role in (ROLE_REPLICA, ROLE_FENCED, ROLE_PRIMARY):
        node.state.node[NodeWord.ROLE] = role
        (node.mnt / "a.txt").write_bytes(b"one")
        with open(node.mnt / "a.txt", "ab") as file:
            file.write(b" two")
        (node.mnt / "b.txt").write_bytes(b"replaced")
        (node.mnt / "a.txt").rename(node.mnt / "b.txt")
        assert (node.mnt / "b.txt").read_bytes() == b"one two"
        (node.mnt / "b.txt").unlink()


@pytest.mark.parametrize(("role", "error"), [(ROLE_REPLICA, errno.EROFS), (ROLE_FENCED, errno.EIO)])
def test_no_file_becomes_a_database_where_nothing_may_be_written(mounted: Make, role: int, error: int) -> None:
    node = mounted(capture=False)
    node.state.node[NodeWord.ROLE] = role
    (node.mnt / "a.db").touch()
    with open(node.mnt / "a.db", "r+b", buffering=0) as file, pytest.raises(OSError) as refused:
        file.write(SQLITE_MAGIC + bytes(84))
    assert refused.value.errno == error
    with pytest.raises(OSError) as refused:
        os.open(node.mnt / "b.db", os.O_RDWR | os.O_CREAT)
    assert refused.value.errno == error
    assert node.state.find("a.db") is node.state.find("b.db") is None and (node.mnt / "a.db").read_bytes() == b""


def test_no_file_becomes_a_database_while_a_hand_off_is_prepared(mounted: Make) -> None:
    node = mounted(capture=False)
    node.state.node[NodeWord.DRAINING] = 1
    (node.mnt / "a.db").touch()
    with open(node.mnt / "a.db", "r+b", buffering=0) as file:
        with pytest.raises(OSError) as refused:
            file.write(SQLITE_MAGIC + bytes(84))
        assert refused.value.errno == errno.EBUSY
        node.state.node[NodeWord.DRAINING] = 0
        file.write(SQLITE_MAGIC + bytes(84))
    assert node.words("a.db")[Word.KIND] == KIND_DATABASE


def test_a_database_that_a_power_cut_made_plain_again_becomes_one_when_it_is_opened(
    mounted: Make, tmp_path: Path
) -> None:
    node = mounted(capture=False)
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as db:
        db.execute("CREATE TABLE t (x)")
    (node.data / "files" / "a.db").write_bytes((tmp_path / "x.db").read_bytes())
    assert (node.mnt / "a.db").read_bytes()[:16] == SQLITE_MAGIC
    assert node.state.find("a.db") is None
    with contextlib.closing(sqlite3.connect(node.mnt / "a.db")) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert node.words("a.db")[Word.KIND] == KIND_DATABASE and node.words("a.db")[Word.RAW_HINT]


def test_a_successor_knows_what_became_a_database(mounted: Make, tmp_path: Path) -> None:
    node = mounted(capture=False)
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as db:
        db.execute("CREATE TABLE t (x)")
    content = (tmp_path / "x.db").read_bytes()
    (node.mnt / "first").touch()  # the kernel learns that nobody wants FLUSH: starting a process closes our files
    with open(node.mnt / "a.db", "wb", buffering=0) as file, open(node.mnt / "b.txt", "wb", buffering=0) as text:
        file.write(content[:100])
        text.write(b"one")
        node.kill()
        node.serve()
        file.write(content[100:])
        text.write(b" two")
    assert (node.mnt / "a.db").read_bytes() == content
    assert (node.mnt / "b.txt").read_bytes() == b"one two"
    assert wait_until(lambda: not node.words("a.db")[Word.WRITERS], limit_s=10), "a writer that has closed is counted"
    assert node.words("a.db")[Word.SPOOL_SEQ] == 1, "what was written is not handed over"


def test_a_database_that_was_hidden_is_one_again_under_a_name_that_it_may_have(mounted: Make) -> None:
    node = mounted(capture=False)
    with contextlib.closing(sqlite3.connect(node.mnt / "a.db")) as db:
        db.execute("CREATE TABLE t (x)")
    (node.mnt / "a.db").rename(node.mnt / ".a.db")
    node.state.node[NodeWord.ROLE] = ROLE_REPLICA
    with pytest.raises(OSError, match="Read-only"):
        (node.mnt / ".a.db").rename(node.mnt / "b.db")
    node.state.node[NodeWord.ROLE] = ROLE_PRIMARY
    (node.mnt / ".a.db").rename(node.mnt / "b.db")
    assert node.words("b.db")[Word.KIND] == KIND_DATABASE and node.words("b.db")[Word.RAW_HINT]
