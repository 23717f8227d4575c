"""SQLite on the mount, and what the replicator is told about it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster.shared import KIND_DATABASE, KIND_EMPTY, KIND_OTHER, Word
from sqlitecluster.store.spool import FLAG_RAW, read_spool
from support.mounting import MountedNode

Make = Callable[..., MountedNode]


def connect(path: Path, mode: str, page_size: int = 4096) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute(f"PRAGMA page_size={page_size}")
    assert db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
    return db


def fill(db: sqlite3.Connection, rows: int) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
    for number in range(rows):
        db.execute("INSERT INTO t (body) VALUES (zeroblob(?))", (100 + number * 37,))


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist", "memory", "off"])
@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_every_journal_mode_and_page_size_works(shared: MountedNode, mode: str, page_size: int) -> None:
    name = f"{mode}-{page_size}.db"
    db = connect(shared.mnt / name, mode, page_size)
    fill(db, 40)
    db.execute("DELETE FROM t WHERE id % 3 = 0")
    db.execute("VACUUM")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("SELECT count(*) FROM t").fetchone() == (27,)
    db.close()
    assert shared.words(name)[Word.KIND] == KIND_DATABASE
    assert shared.words(name)[Word.PAGE_SIZE] == page_size
    assert os.listdir(shared.data / "orphans") == []


@pytest.mark.parametrize("checkpoint", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_every_checkpoint_kind_works(shared: MountedNode, checkpoint: str) -> None:
    db = connect(shared.mnt / f"checkpoint-{checkpoint}.db", "wal")
    for _ in range(4):
        fill(db, 30)
        assert db.execute(f"PRAGMA wal_checkpoint({checkpoint})").fetchone()[0] == 0
    assert db.execute("SELECT count(*) FROM t").fetchone() == (120,)
    db.close()


def test_two_connections_see_each_others_commits_and_locks(shared: MountedNode) -> None:
    first, second = connect(shared.mnt / "two.db", "wal"), connect(shared.mnt / "two.db", "wal")
    second.execute("PRAGMA busy_timeout=0")
    fill(first, 1)
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        second.execute("BEGIN IMMEDIATE")
    first.execute("COMMIT")
    assert second.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_each_wal_commit_is_announced_with_its_end(mounted: Make) -> None:
    node = mounted(capture=False)
    db = connect(node.mnt / "a.db", "wal")
    fill(db, 1)
    ends = []
    for _ in range(3):
        db.execute("INSERT INTO t (body) VALUES ('x')")
        ends.append(int(node.words("a.db")[Word.WAL_END]))
        assert ends[-1] == os.stat(node.data / "dbs/a.db/wal").st_size
    assert sorted(set(ends)) == ends
    assert node.words("a.db")[Word.HAS_WAL] == 1


def test_a_log_is_not_restarted_before_it_is_captured(mounted: Make) -> None:
    node = mounted(capture=False, park_s=0.3)
    db = connect(node.mnt / "a.db", "wal")
    fill(db, 3)
    generation = int(node.words("a.db")[Word.WAL_GEN])
    db.execute("PRAGMA wal_checkpoint(FULL)")
    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        db.execute("INSERT INTO t (body) VALUES ('x')")
    assert node.words("a.db")[Word.WAL_GEN] == generation
    node.capture_now()
    db.execute("INSERT INTO t (body) VALUES ('x')")
    assert node.words("a.db")[Word.WAL_GEN] == generation + 1


def test_a_parked_restart_goes_on_when_capture_has_caught_up(mounted: Make) -> None:
    node = mounted(capture=True)
    db = connect(node.mnt / "a.db", "wal")
    db.execute("PRAGMA wal_autocheckpoint=3")
    fill(db, 60)
    assert db.execute("SELECT count(*) FROM t").fetchone() == (60,)
    assert node.words("a.db")[Word.WAL_GEN] > 2


def test_a_parked_request_does_not_stop_others(mounted: Make) -> None:
    node = mounted(capture=False, park_s=60)
    db = connect(node.mnt / "a.db", "wal")
    fill(db, 3)
    db.close()  # the last close checkpoints and unlinks: never parked
    assert [path.name for path in (node.data / "dbs/a.db").iterdir() if path.suffix == ".gone"]
    other = connect(node.mnt / "b.db", "wal")
    fill(other, 3)
    other.execute("PRAGMA wal_checkpoint(FULL)")
    pid = os.fork()
    if pid == 0:
        sqlite3.connect(node.mnt / "b.db", isolation_level=None).execute("INSERT INTO t (body) VALUES ('parked')")
        os._exit(0)
    node.wait_for(lambda: node.state.node[17] == 1)
    third = connect(node.mnt / "c.db", "delete")
    fill(third, 2)
    node.capture_now()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
def test_a_rollback_commit_hands_over_what_it_wrote(mounted: Make, mode: str) -> None:
    node = mounted(capture=False)
    db = connect(node.mnt / "a.db", mode)
    image = bytearray()
    for _ in range(3):
        fill(db, 5)
        db.execute("DELETE FROM t WHERE id % 2 = 0")
    db.execute("VACUUM")
    words = node.words("a.db")
    assert words[Word.SPOOL_SEQ] > 10
    assert words[Word.DIRTY_RAW] == 0
    for seq in range(1, int(words[Word.SPOOL_SEQ]) + 1):
        spool = read_spool(node.spool(0, seq))
        assert not spool.is_raw
        for offset, data in spool.read():
            image[offset : offset + len(data)] = data.ljust(len(data), b"\0")
        del image[spool.db_size :]
    assert bytes(image) == (node.data / "dbs/a.db/database").read_bytes()


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
def test_exclusive_locking_commits_are_handed_over(mounted: Make, mode: str) -> None:
    node = mounted(capture=False)
    db = connect(node.mnt / "a.db", mode)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    fill(db, 3)
    before = node.words("a.db")[Word.SPOOL_SEQ]
    fill(db, 1)
    assert node.words("a.db")[Word.SPOOL_SEQ] == before + 1


def test_checkpoints_of_a_wal_database_are_not_handed_over(mounted: Make) -> None:
    node = mounted()
    db = connect(node.mnt / "a.db", "wal")
    fill(db, 5)
    before = int(node.words("a.db")[Word.SPOOL_SEQ])
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    fill(db, 5)
    db.close()
    assert node.words("a.db")[Word.SPOOL_SEQ] == before
    assert not node.words("a.db")[Word.DIRTY_RAW]


def test_a_copy_is_handed_over_as_raw_at_its_close(mounted: Make, tmp_path: Path) -> None:
    node = mounted(capture=False)
    with sqlite3.connect(tmp_path / "source.db") as source:
        fill(source, 50)
    source.close()
    shutil.copyfile(tmp_path / "source.db", node.mnt / "copy.db")
    node.wait_for(lambda: node.words("copy.db")[Word.SPOOL_SEQ] == 1)
    spool = read_spool(node.spool(0, 1))
    assert spool.flags & FLAG_RAW
    assert b"".join(data for _offset, data in spool.read()) == (tmp_path / "source.db").read_bytes()
    assert node.words("copy.db")[Word.KIND] == KIND_DATABASE


def test_raw_writes_of_an_open_connection_are_handed_over_when_asked(mounted: Make) -> None:
    node = mounted(capture=False)
    db = connect(node.mnt / "a.db", "memory")
    fill(db, 3)
    words = node.words("a.db")
    assert words[Word.DIRTY_RAW] == 1
    assert words[Word.SPOOL_SEQ] == 0
    words[Word.RAW_ASK] = words[Word.EVENT_SEQ]
    node.wait_for(lambda: node.ring() or words[Word.SPOOL_SEQ] == 1)
    assert words[Word.DIRTY_RAW] == 0


def test_a_copy_over_a_wal_database_asks_for_a_comparison(mounted: Make, tmp_path: Path) -> None:
    node = mounted()
    db = connect(node.mnt / "a.db", "wal")
    fill(db, 5)
    with open(node.mnt / "a.db", "wb"):
        assert node.words("a.db")[Word.RAW_HINT] == 1


def test_a_file_that_is_no_database_stays_local(mounted: Make) -> None:
    node = mounted(capture=False)
    (node.mnt / "notes.txt").write_bytes(b"words " * 10_000)
    (node.mnt / "empty.db").touch()
    assert node.state.find("notes.txt") is node.state.find("empty.db") is None, "a slot for what is no database"
    with open(os.open(node.mnt / "other.bin", os.O_RDWR | os.O_CREAT), "wb") as file:  # as SQLite opens
        assert node.words("other.bin")[Word.KIND] == KIND_EMPTY
        file.write(b"words " * 10_000)
    assert node.words("other.bin")[Word.KIND] == KIND_OTHER
    assert node.words("other.bin")[Word.SPOOL_SEQ] == 0


def test_a_database_under_a_forbidden_name_is_refused(shared: MountedNode) -> None:
    db = sqlite3.connect(shared.mnt / ".hidden.db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        db.execute("CREATE TABLE t (x)")


def test_a_deleted_database_goes_to_the_trash(mounted: Make) -> None:
    node = mounted()
    db = connect(node.mnt / "a.db", "wal")
    fill(db, 3)
    for suffix in ("", "-wal", "-shm"):
        os.unlink(node.mnt / f"a.db{suffix}")
    assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)
    assert os.listdir(node.mnt) == []
    assert node.words("a.db")[Word.GONE_SEQ] == 1
    (kept,) = (node.data / "trash" / "a.db").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["database", "wal"]
    db.close()
    again = connect(node.mnt / "a.db", "wal")
    fill(again, 1)
    assert again.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_deleting_can_be_refused(mounted: Make) -> None:
    node = mounted(delete_policy="Refuse")
    connect(node.mnt / "a.db", "wal").close()
    with pytest.raises(PermissionError):
        os.unlink(node.mnt / "a.db")


def test_other_files_can_be_refused(mounted: Make) -> None:
    node = mounted(other_files="Refuse")
    with pytest.raises(PermissionError):
        (node.mnt / ".config").touch()
    with pytest.raises(PermissionError):
        (node.mnt / "notes.txt").write_bytes(b"text")
    fill(connect(node.mnt / "a.db", "delete"), 1)


def test_a_renamed_database_is_a_drop_and_a_new_image(mounted: Make) -> None:
    node = mounted()
    db = connect(node.mnt / "a.db", "delete")
    fill(db, 3)
    db.close()
    (node.mnt / "sub").mkdir()
    os.rename(node.mnt / "a.db", node.mnt / "sub" / "b.db")
    assert node.words("a.db")[Word.GONE_SEQ] == 1
    assert node.words("sub/b.db")[Word.RAW_HINT] == 1
    db = sqlite3.connect(node.mnt / "sub" / "b.db")
    assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_side_files_that_come_first_belong_to_the_database(mounted: Make, tmp_path: Path) -> None:
    node = mounted()
    db = connect(tmp_path / "s.db", "wal")
    fill(db, 3)
    for suffix in ("-wal", ""):
        shutil.copyfile(tmp_path / f"s.db{suffix}", node.mnt / f"copy.db{suffix}")
    db.close()
    copy = sqlite3.connect(node.mnt / "copy.db")
    assert copy.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_attached_databases_commit_together(shared: MountedNode) -> None:
    db = connect(shared.mnt / "first.db", "delete")
    db.execute("ATTACH ? AS other", (str(shared.mnt / "second.db"),))
    db.execute("CREATE TABLE main.t (x)")
    db.execute("CREATE TABLE other.t (x)")
    db.execute("BEGIN")
    db.execute("INSERT INTO main.t VALUES (1)")
    db.execute("INSERT INTO other.t VALUES (1)")
    db.execute("COMMIT")
    assert shared.words("second.db")[Word.SPOOL_SEQ] >= 2


def test_a_full_disk_is_told_to_the_program_before_the_reserve_is_touched(mounted: Make) -> None:
    node = mounted(reserve_bytes=1 << 50)
    db = sqlite3.connect(node.mnt / "a.db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        db.execute("CREATE TABLE t (x)")
    assert node.state.node[19] > 0


def test_the_journal_of_a_transaction_is_gone_after_it_and_its_file_serves_the_next(shared: MountedNode) -> None:
    path, backing = shared.mnt / "kept.db", shared.data / "dbs/kept.db/journal"
    db = connect(path, "delete")
    fill(db, 3)
    kept = backing.stat().st_ino
    assert not os.path.lexists(f"{path}-journal") and "kept.db-journal" not in os.listdir(shared.mnt)
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM t")
    assert 0 < os.stat(f"{path}-journal").st_size <= backing.stat().st_size
    db.execute("ROLLBACK")
    assert backing.stat().st_ino == kept
    assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)
    db.close()


def test_a_recovery_that_removed_the_kept_journal_is_noticed(shared: MountedNode) -> None:
    path, backing = shared.mnt / "removed.db", shared.data / "dbs/removed.db/journal"
    db = connect(path, "delete")
    fill(db, 3)
    backing.unlink()
    fill(db, 3)
    assert backing.exists() and db.execute("SELECT count(*) FROM t").fetchone() == (6,)
    db.close()


def test_a_kept_journal_goes_with_its_database(shared: MountedNode) -> None:
    path, backing = shared.mnt / "goes.db", shared.data / "dbs/goes.db/journal"
    for _ in range(2):
        db = connect(path, "delete")
        fill(db, 3)
        db.close()
        assert backing.exists()
        path.unlink()
        assert not backing.exists()


def test_a_transaction_over_two_databases_leaves_no_kept_journal(shared: MountedNode) -> None:
    db = connect(shared.mnt / "both-1.db", "delete")
    db.execute("ATTACH ? AS other", (str(shared.mnt / "both-2.db"),))
    db.execute("PRAGMA other.journal_mode=delete")
    db.execute("CREATE TABLE t (v)")
    db.execute("CREATE TABLE other.t2 (v)")
    db.execute("BEGIN")
    db.execute("INSERT INTO t VALUES (1)")
    db.execute("INSERT INTO t2 VALUES (1)")
    db.execute("COMMIT")
    assert not any((shared.data / f"dbs/both-{n}.db/journal").exists() for n in (1, 2))
    db.close()


@pytest.mark.parametrize("spilled", [3, 40, 160])
def test_files_as_a_power_cut_leaves_them_roll_back_to_the_last_commit(
    shared: MountedNode, tmp_path: Path, spilled: int
) -> None:
    name = f"cut-{spilled}.db"
    folder = shared.data / "dbs" / name
    db = connect(shared.mnt / name, "delete")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, round INTEGER, body BLOB)")
    db.executemany("INSERT INTO t VALUES (?, 0, zeroblob(3000))", [(number,) for number in range(200)])
    db.execute("UPDATE t SET round = 1")  # the kept file is long now
    assert (folder / "journal").stat().st_size > 200 * 4096
    db.execute("PRAGMA cache_size=5")
    for committed in range(1, 4):
        db.execute("BEGIN")
        db.execute(
            "UPDATE t SET round = ? WHERE id < ?", (committed + 1, spilled)
        )  # more than the cache: pages are written
        shutil.copy(folder / "database", tmp_path / "copy.db")
        shutil.copy(folder / "journal", tmp_path / "copy.db-journal")
        copy = sqlite3.connect(tmp_path / "copy.db")
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rounds = {row for (row,) in copy.execute("SELECT round FROM t WHERE id < ?", (spilled,))}
        assert rounds == {committed}
        copy.close()
        db.execute("COMMIT")
    db.close()
