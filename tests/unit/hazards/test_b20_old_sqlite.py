"""B20: programs whose SQLite has the WAL-reset bug are told of: by a notice, once, and by nothing that alarms."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from sqlitecluster.replicator.writers import Writers
from sqlitecluster.sqlitefmt.writerversion import advice, version_text
from support.capture_rig import Rig, RigDatabase

OLD, NEW = 3_040_001, 3_053_000


def head(version: int, *, wal: bool = True) -> bytes:
    """A first page, as far as it matters."""
    mode = 2 if wal else 1
    return b"SQLite format 3\0\x10\0" + bytes([mode, mode]) + bytes(76) + version.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("version", "is_told"),
    [
        (3_006_023, False),
        (3_007_000, True),
        (3_040_001, True),
        (3_044_005, True),
        (3_044_006, False),
        (3_045_000, True),
        (3_050_006, True),
        (3_050_007, False),
        (3_051_000, True),
        (3_051_002, True),
        (3_051_003, False),
        (3_052_000, True),
        (3_052_001, False),
        (3_053_000, False),
        (0, False),
    ],
)
def test_versions_with_the_bug_and_the_withdrawn_one_are_told(version: int, is_told: bool) -> None:
    assert (version_text(version) in advice(version)) == is_told


def test_a_notice_is_logged_once_for_each_database_and_version(caplog: pytest.LogCaptureFixture) -> None:
    writers = Writers()
    for _ in range(3):
        writers.saw("a.db", head(OLD))
        writers.saw("a.db", head(NEW))
    writers.saw("b.db", head(OLD))
    writers.saw("a.db", head(3_050_001))
    told = [(record.getMessage().split(":")[0], record.levelno) for record in caplog.records]
    assert told == [("a.db", logging.WARNING), ("b.db", logging.WARNING), ("a.db", logging.WARNING)]
    assert "3.40.1" in caplog.records[0].getMessage()


def test_rollback_modes_do_not_have_the_bug() -> None:
    writers = Writers()
    writers.saw("a.db", head(OLD, wal=False))
    assert (writers.text("a.db"), writers.notice("a.db")) == ("3.40.1", "")
    writers.saw("a.db", head(OLD))
    assert "3.40.1" in writers.notice("a.db")


def test_what_is_no_database_has_no_writer() -> None:
    writers = Writers()
    writers.saw("a.db", b"\x02" * 100)
    writers.saw("a.db", b"")
    assert (writers.version("a.db"), writers.notice("a.db")) == (0, "")


@pytest.fixture
def told(app: RigDatabase) -> RigDatabase:
    """A database in WAL mode that this interpreter's SQLite wrote."""
    app.connect().execute("CREATE TABLE t(v)")
    app.look()
    app.captured(quiet=True)
    return app


def test_the_version_comes_from_what_is_captured(told: RigDatabase, rig: Rig) -> None:
    writers = rig.node.writers
    assert writers.version("app.db") == sqlite3.sqlite_version_info[0] * 1_000_000 + (
        sqlite3.sqlite_version_info[1] * 1000 + sqlite3.sqlite_version_info[2]
    )
    assert bool(writers.notice("app.db")) == bool(advice(writers.version("app.db")))
    assert rig.node.problems.all() == []
    with closing(apsw.Connection(str(told.path))) as db:
        db.execute("CREATE TABLE u(v)")
        told.look()
        told.captured()
    assert writers.text("app.db") == apsw.sqlite_lib_version()
    assert writers.notice("app.db") == ""


def test_a_transaction_larger_than_a_window_tells_it_too(told: RigDatabase, rig: Rig) -> None:
    with closing(apsw.Connection(str(told.path))) as db:
        for statement in ("PRAGMA wal_autocheckpoint=0", "CREATE TABLE u(v)", "BEGIN"):
            db.execute(statement).fetchall()
        db.execute(
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
            "INSERT INTO u SELECT randomblob(500000) FROM n"
        ).fetchall()
        db.execute("COMMIT")
        told.look()
        told.captured()
    assert rig.node.writers.text("app.db") == apsw.sqlite_lib_version()


def test_a_new_process_knows_it_without_a_commit(told: RigDatabase, rig: Rig, tmp_path: Path) -> None:
    before = rig.node.writers.version("app.db")
    with closing(sqlite3.connect(told.path)) as db:
        db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    rig.restart()
    rig.node.writers = Writers()
    told.look()
    told.captured()
    assert rig.node.writers.version("app.db") == before
