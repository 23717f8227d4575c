"""What programs can and cannot do on a replica while the role locks are held."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sqlitecluster.errors import LockTimeout, NotADatabase
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.walsession import NotInWalError, WalSession
from sqlitecluster.replicator.walwriter import WalWriter, append_as_writer
from support.replica import Primary
from support.sqlprogram import Program, program

MODES = ["wal", "delete"]
LIBRARIES = ["sqlite3", "apsw"]


def deadline(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture(params=MODES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    primary = Primary(tmp_path / "x.db", mode=request.param)
    primary.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    primary.sql.close()
    return tmp_path / "x.db"


@pytest.mark.parametrize("library", LIBRARIES)
def test_programs_read_and_get_busy_for_everything_else(database: Path, library: str) -> None:
    session = WalSession.open_role(DbPaths.plain(database), deadline())
    with program(database, library) as other:
        assert other.run("SELECT * FROM t") == [[1]]
        for sql in ("INSERT INTO t VALUES(2)", "BEGIN IMMEDIATE", "VACUUM", "PRAGMA journal_mode=DELETE"):
            assert "database is locked" in other.error_of(sql), sql
        for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            assert other.run(f"PRAGMA wal_checkpoint({kind})") == [[1, -1, -1]]
        assert other.run("PRAGMA integrity_check") == [["ok"]]
    before = database.read_bytes()
    session.close()
    assert database.read_bytes() == before


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_log_without_frames_is_enough_to_be_read_as_wal(database: Path, library: str) -> None:
    session = WalSession.open_role(DbPaths.plain(database), deadline())
    assert database.with_name("x.db-wal").stat().st_size == 32
    with program(database, library) as other:
        assert other.run("PRAGMA journal_mode") == [["wal"]]
        assert other.run("SELECT * FROM t") == [[1]]
    session.close()


def test_the_last_close_of_a_program_leaves_the_log_alone(database: Path) -> None:
    session = WalSession.open_role(DbPaths.plain(database), deadline())
    for _ in range(2):
        with program(database) as other:
            other.run("SELECT * FROM t")
        assert database.with_name("x.db-wal").exists()
        assert database.with_name("x.db-shm").exists()
    session.close()


def test_programs_write_again_after_the_release_on_an_open_connection(database: Path) -> None:
    session = WalSession.open_role(DbPaths.plain(database), deadline())
    with program(database) as other:
        assert "locked" in other.error_of("INSERT INTO t VALUES(2)")
        session.close()
        other.run("INSERT INTO t VALUES(2)")
        assert other.run("SELECT count(*) FROM t") == [[2]]


def test_a_rollback_database_returns_to_its_mode_after_the_last_close(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "x.db", mode="delete")
    primary.run("CREATE TABLE t(a)")
    primary.sql.close()
    session = WalSession.open_role(DbPaths.plain(tmp_path / "x.db"), deadline())
    with program(tmp_path / "x.db") as other:
        assert other.run("PRAGMA journal_mode") == [["wal"]]
        session.close()
    with program(tmp_path / "x.db") as other:
        other.run("SELECT * FROM t")
    with program(tmp_path / "x.db") as other:
        assert other.run("PRAGMA journal_mode") == [["delete"]]


def test_a_running_write_transaction_is_waited_for_and_then_given_up(database: Path) -> None:
    other = Program(database)
    other.run("BEGIN IMMEDIATE")
    other.run("INSERT INTO t VALUES(5)")
    with pytest.raises(LockTimeout):
        WalSession.open_role(DbPaths.plain(database), deadline(0.2))
    other.run("COMMIT")
    session = WalSession.open_role(DbPaths.plain(database), deadline())
    assert other.run("SELECT count(*) FROM t") == [[2]]
    session.close()
    other.close()


def test_a_rollback_reader_in_a_transaction_keeps_the_database_from_being_turned_to_wal(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "x.db", mode="delete")
    primary.run("CREATE TABLE t(a)")
    primary.sql.close()
    other = Program(tmp_path / "x.db")
    other.run("BEGIN")
    other.run("SELECT * FROM t")
    with pytest.raises(LockTimeout):
        WalSession.open_role(DbPaths.plain(tmp_path / "x.db"), deadline(0.2))
    other.run("COMMIT")
    session = WalSession.open_role(DbPaths.plain(tmp_path / "x.db"), deadline())
    assert other.run("PRAGMA journal_mode") == [["wal"]] or other.run("SELECT * FROM t") == []
    session.close()
    other.close()


def test_locks_live_in_duplicates_and_are_adopted(database: Path) -> None:
    kept: dict[str, int] = {}

    def keep(kind: str, fd: int) -> None:
        kept[kind] = os.dup(fd)

    first = WalSession.open_role(DbPaths.plain(database), deadline(), keep=keep)
    with program(database) as other:
        assert other.run("SELECT * FROM t") == [[1]]
        first.leave()
        assert "locked" in other.error_of("INSERT INTO t VALUES(2)")
        second = WalSession.open_role(DbPaths.plain(database), deadline(), dict(kept))
        assert second.index.read() is not None
        assert "locked" in other.error_of("INSERT INTO t VALUES(2)")
        second.close()
        other.run("INSERT INTO t VALUES(2)")


def test_a_hot_journal_is_played_back_first(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "x.db", mode="delete")
    primary.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    primary.sql.close()
    good = (tmp_path / "x.db").read_bytes()
    other = Program(tmp_path / "x.db")
    other.run("PRAGMA cache_size=1")
    other.run("BEGIN IMMEDIATE")
    other.run(
        "CREATE TABLE big AS WITH r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r LIMIT 400) "
        "SELECT randomblob(900) FROM r"
    )
    other.kill()
    assert (tmp_path / "x.db-journal").stat().st_size > 0
    session = WalSession.open_role(DbPaths.plain(tmp_path / "x.db"), deadline())
    assert (tmp_path / "x.db").read_bytes() == good
    session.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"hello" * 100)
    with pytest.raises(NotADatabase):
        WalSession.open_role(DbPaths.plain(tmp_path / "x.db"), deadline())
    assert (tmp_path / "x.db").read_bytes() == b"hello" * 100


def test_on_the_primary_a_transaction_is_appended_beside_open_connections(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "x.db", mode="wal")
    primary.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    wanted = Primary(tmp_path / "y.db", mode="wal")
    wanted.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(42)")
    image = (tmp_path / "y.db").read_bytes()
    pages = [(at // 4096 + 1, image[at : at + 4096]) for at in range(0, len(image), 4096)]
    with program(tmp_path / "x.db") as other:
        assert other.run("SELECT * FROM t") == [[1]]
        assert append_as_writer(DbPaths.plain(tmp_path / "x.db"), [pages], len(pages), 60.0) == len(pages)
        assert other.run("SELECT * FROM t") == [[42]]
        other.run("INSERT INTO t VALUES(43)")
        assert primary.sql.execute("SELECT count(*) FROM t").fetchall() == [(2,)]
        other.run("BEGIN IMMEDIATE")
        with pytest.raises(LockTimeout):
            append_as_writer(DbPaths.plain(tmp_path / "x.db"), [pages], len(pages), 0.1)
    primary.sql.close()


def test_a_rollback_database_of_programs_is_not_turned_to_wal_by_a_writer(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "x.db", mode="delete")
    primary.run("CREATE TABLE t(a)")
    with pytest.raises(NotInWalError):
        append_as_writer(DbPaths.plain(tmp_path / "x.db"), [[(1, bytes(4096))]], 1, 60.0)
    assert primary.sql.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    primary.sql.close()


def test_a_restart_that_was_cut_off_leaves_no_frames_counted_as_backfilled(database: Path) -> None:
    """Killed between index header and backfill words: the words spoke of frames that are gone."""
    first = WalSession.open_role(DbPaths.plain(database), deadline())
    first.index.backfilled = first.index.attempted = 2
    kept = {"database": os.dup(first.db_fd), "shm": os.dup(first.shm_fd)}
    first.leave()

    successor = WalSession.open_role(DbPaths.plain(database), deadline(), kept)
    assert successor.index.backfilled == 0
    writer = WalWriter(successor)
    page = database.read_bytes()[4096:8192]
    writer.append_many([[(2, page.replace(b"\x01", b"\x02"))], [(2, page)]], 2)
    assert writer.header.mx_frame == 2
    with program(database) as other:  # reads the log, not the database file alone
        assert other.run("SELECT * FROM t") == [[1]]
        assert successor.index.mark(1) == 2
    successor.close()
