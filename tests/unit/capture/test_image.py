"""Whole images: first captures, raw writes, drops."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from sqlitecluster.shared import Word
from support.capture_rig import Rig, RigDatabase


def make(path: Path, rows: int, *, page_size: int = 4096, mode: str = "delete") -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    db.executemany("INSERT INTO t(v) VALUES (randomblob(2000))", [()] * rows)
    db.close()


def test_a_database_that_was_there_before_becomes_a_snapshot(app: RigDatabase) -> None:
    make(app.path, 30)
    app.look()
    app.captured(quiet=True)
    assert (app.txid, app.replayed()) == (1, app.image())


def test_a_wal_database_that_was_there_before_becomes_a_snapshot_of_what_readers_see(app: RigDatabase) -> None:
    make(app.path, 30, mode="wal")
    db = app.connect(None)
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("INSERT INTO t(v) VALUES (randomblob(9000))")
    app.look()
    app.captured(quiet=True)
    assert (app.txid, app.replayed()) == (1, app.image())
    db.execute("INSERT INTO t(v) VALUES (1)")
    app.look()
    app.captured(quiet=True)
    assert (app.txid, app.replayed()) == (2, app.image())


def test_a_copy_over_a_database_is_one_transaction(app: RigDatabase, tmp_path: Path) -> None:
    make(app.path, 30)
    app.look()
    app.captured(quiet=True)
    make(tmp_path / "other", 12)
    app.path.write_bytes((tmp_path / "other").read_bytes())
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured(quiet=True)
    assert (app.txid, app.replayed()) == (2, app.image())
    assert app.words[Word.RAW_HINT_DONE] == app.words[Word.RAW_HINT]


def test_a_copy_with_another_page_size_is_a_snapshot(app: RigDatabase, tmp_path: Path) -> None:
    make(app.path, 30)
    app.look()
    app.captured(quiet=True)
    make(tmp_path / "other", 12, page_size=1024)
    app.path.write_bytes((tmp_path / "other").read_bytes())
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured(quiet=True)
    assert (app.txid, app.replayed()) == (2, app.image())


def test_a_raw_write_waits_until_its_writer_is_quiet(app: RigDatabase) -> None:
    import time

    make(app.path, 3)
    app.look()
    app.captured(quiet=True)
    app.words[Word.RAW_HINT] += 1
    app.words[Word.WRITERS] = 1
    app.words[Word.LAST_WRITE_NS] = time.monotonic_ns() + 60_000_000_000
    app.look()
    app.captured(quiet=True)
    assert app.words[Word.RAW_HINT_DONE] != app.words[Word.RAW_HINT]
    app.words[Word.WRITERS] = 0
    app.captured(quiet=True)
    assert app.words[Word.RAW_HINT_DONE] == app.words[Word.RAW_HINT]


def test_an_unchanged_image_makes_no_transaction(app: RigDatabase) -> None:
    make(app.path, 30)
    app.look()
    app.captured(quiet=True)
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured(quiet=True)
    assert app.txid == 1


def test_a_locked_image_is_captured_later(app: RigDatabase) -> None:
    make(app.path, 3)
    db = app.connect(None)
    db.execute("BEGIN EXCLUSIVE")
    app.look()
    app.captured(quiet=True)
    assert app.txid == 0
    db.execute("ROLLBACK")
    app.captured(quiet=True)
    assert app.txid == 1


def test_a_drop_is_a_transaction_and_the_next_database_of_the_name_continues(app: RigDatabase) -> None:
    make(app.path, 5)
    app.look()
    app.captured(quiet=True)
    app.path.unlink()
    app.words[Word.GONE_SEQ] += 1
    app.look()
    app.captured(quiet=True)
    assert app.txid == 2
    assert app.replayed() == b""
    make(app.path, 2)
    app.look()
    app.words[Word.RAW_HINT] += 1
    app.captured(quiet=True)
    assert (app.txid, app.replayed()) == (3, app.image())


def test_spools_older_than_a_drop_come_before_it(app: RigDatabase) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    db.close()
    app.path.unlink()
    app.words[Word.GONE_SEQ] += 1
    app.look()
    app.captured(quiet=True)
    assert app.txid == 2
    assert app.replayed() == b""


def test_a_drop_of_what_was_never_captured_is_no_transaction(app: RigDatabase) -> None:
    app.words[Word.GONE_SEQ] += 1
    app.look()
    app.captured(quiet=True)
    assert app.txid == 0
    assert app.words[Word.GONE_DONE] == 1


def test_raw_ranges_are_asked_for_after_a_quiet_moment(app: RigDatabase, rig: Rig) -> None:
    make(app.path, 5)
    app.look()
    app.captured(quiet=True)
    app.words[Word.DIRTY_RAW] = 1
    app.look()
    app.captured(quiet=True)
    assert app.words[Word.RAW_ASK] == app.words[Word.EVENT_SEQ]


@pytest.mark.parametrize("mode", ["MEMORY", "OFF"])
def test_raw_ranges_of_a_transaction_that_rests_are_not_asked_for(app: RigDatabase, mode: str) -> None:
    """Its pages may have left the cache already; what they say is not committed."""
    make(app.path, 5)
    app.look()
    app.captured(quiet=True)
    db = app.connect(mode)
    db.execute("BEGIN IMMEDIATE")
    app.words[Word.DIRTY_RAW] = 1
    app.words[Word.LAST_WRITE_NS] = time.monotonic_ns() - 1_000_000_000
    app.look()
    app.captured(quiet=True)
    assert app.words[Word.RAW_ASK] == 0
    db.execute("COMMIT")
    app.captured(quiet=True)
    assert app.words[Word.RAW_ASK] == app.words[Word.EVENT_SEQ]
