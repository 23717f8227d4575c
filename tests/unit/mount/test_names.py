"""Rows of mode and owner; descriptors of many files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from sqlitecluster.mount.descriptors import Descriptors
from sqlitecluster.mount.names import Names, Owner

OWNER = Owner(0o640, 10, 20)


def test_rows_survive_the_process(tmp_path: Path) -> None:
    names = Names(str(tmp_path / "names.db"))
    names.set("a/b.db", OWNER)
    names.close()
    assert Names(str(tmp_path / "names.db")).get("a/b.db") == OWNER


def test_renaming_a_directory_moves_the_rows_below(tmp_path: Path) -> None:
    names = Names(str(tmp_path / "names.db"))
    for path in ("old", "old/x", "older"):
        names.set(path, OWNER)
    names.rename("old", "new")
    again = Names(str(tmp_path / "names.db"))
    for path, row in (("new", OWNER), ("new/x", OWNER), ("older", OWNER), ("old", None), ("old/x", None)):
        assert names.get(path) == row == again.get(path)


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    names = Names(str(tmp_path / "names.db"))
    odd, moved = os.fsdecode(b"dir/\xe7w"), os.fsdecode(b"dir2/\xe7w")
    names.set("dir", OWNER)
    names.set(odd, OWNER)
    names.rename("dir", "dir2")
    again = Names(str(tmp_path / "names.db"))
    assert names.get(moved) == again.get(moved) == again.get("dir2") == OWNER
    assert names.get(odd) is again.get(odd) is None
    names.remove(moved)
    assert Names(str(tmp_path / "names.db")).get(moved) is None


def test_what_could_not_be_stored_does_not_stop_what_follows(tmp_path: Path) -> None:
    names = Names(str(tmp_path / "names.db"))
    names.set("a", OWNER)
    blocker = sqlite3.connect(tmp_path / "names.db", isolation_level=None)
    names._db.execute("PRAGMA busy_timeout=10")
    blocker.execute("BEGIN IMMEDIATE")
    for attempt in (lambda: names.rename("a", "b"), lambda: names.set("c", OWNER)):
        with pytest.raises(OSError, match=r"names\.db: database is locked"):
            attempt()
    blocker.execute("ROLLBACK")
    names.rename("b", "d")
    names.set("c", OWNER)
    assert names.get("d") == OWNER
    assert Names(str(tmp_path / "names.db")).get("c") == OWNER


class Holder:
    def __init__(self, ino: int, path: Path) -> None:
        self.ino, self.path, self.fd, self.pins = ino, str(path), -1, 0
        path.touch()


def test_more_files_than_descriptors_can_be_used(tmp_path: Path) -> None:
    descriptors = Descriptors(limit=16)
    holders = [Holder(number, tmp_path / str(number)) for number in range(100)]
    holders[0].pins = 1
    for _ in range(2):
        for holder in holders:
            os.pwrite(descriptors.open(holder), b"%d" % holder.ino, 0)
            assert sum(other.fd >= 0 for other in holders) <= 16
    assert holders[0].fd >= 0
    for holder in holders:
        assert os.pread(descriptors.open(holder), 10, 0) == b"%d" % holder.ino
        descriptors.close(holder)
