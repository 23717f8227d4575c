"""Special cases: unusual but legal ways of using SQLite on the primary."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

from support import images
from support.clients import connect, fill, follows, run_sql, start_writer, value
from support.lane import Run, registry
from support.writer import read_record

CASES, case = registry()


def same(run: Run, name: str, statement: str, wanted: object) -> None:
    """The replica follows and is identical."""
    cluster = run.shared()
    follows(cluster.replica, name, statement, wanted)
    images.check_same(cluster, name)


@case
def transactions_larger_than_the_page_cache(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST"):
        name = f"spill-{mode.lower()}.db"
        fill(cluster.primary.mount / name, 100, journal=mode)
        with connect(cluster.primary.mount / name, journal=mode) as db:
            db.execute("PRAGMA cache_size=5")
            db.execute("PRAGMA cache_spill=5")
            for commit in (True, False, True):
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(1500,)] * 800)
                db.execute("UPDATE t SET v = randomblob(700) WHERE id % 3 = 0")  # rewrites frames already in the WAL
                db.execute("DELETE FROM t WHERE id % 5 = 0")
                db.execute("COMMIT" if commit else "ROLLBACK")
        same(run, name, "SELECT count(*) FROM t", value(cluster.primary.mount / name, "SELECT count(*) FROM t"))


@case
def savepoints_after_a_spill(run: Run) -> None:
    cluster = run.shared()
    with connect(cluster.primary.mount / "savepoint.db", journal="WAL") as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        db.execute("PRAGMA cache_size=5")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(1500,)] * 300)
        db.execute("SAVEPOINT a")
        db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(1500,)] * 300)
        db.execute("UPDATE t SET v = 1")
        db.execute("ROLLBACK TO a")
        db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(1500,)] * 10)
        db.execute("COMMIT")
    same(run, "savepoint.db", "SELECT count(*) FROM t", 310)


@case
def every_kind_of_checkpoint(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "kinds.db"
    fill(path, 10)
    rows = 10
    with connect(path) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        for _ in range(3):
            for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(500,)] * 30)
                rows += 30
                assert db.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()[0] == 0
                db.execute("INSERT INTO t(v) VALUES(1)")
                rows += 1
    same(run, "kinds.db", "SELECT count(*) FROM t", rows)


@case
def a_partial_checkpoint_under_a_reader(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "partial.db"
    fill(path, 50)
    with connect(path) as db, connect(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        db.execute("UPDATE t SET v = 'newer'")
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        db.execute("UPDATE t SET v = 'newest'")
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        follows(cluster.replica, "partial.db", "SELECT min(v) FROM t", "newest")
        reader.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    same(run, "partial.db", "SELECT min(v) || count(*) FROM t", "newest50")


@case
def many_small_wal_restarts(run: Run) -> None:
    cluster = run.shared()
    with connect(cluster.primary.mount / "restarts.db", journal="WAL") as db:
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=4")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        for _ in range(1500):
            db.execute("INSERT INTO t(v) VALUES(randomblob(200))")
    same(run, "restarts.db", "SELECT count(*) FROM t", 1500)


@case
def opened_and_closed_for_each_commit(run: Run) -> None:
    """The last close checkpoints and deletes the WAL; nothing may be lost between."""
    cluster = run.shared()
    for mode in ("WAL", "DELETE"):
        path = cluster.primary.mount / f"reopen-{mode.lower()}.db"
        run_sql(path, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)", journal=mode)
        for i in range(60):
            run_sql(path, f"INSERT INTO t(v) VALUES('row {i}')")
        same(run, path.name, "SELECT count(*) FROM t", 60)


@case
def mapped_database_files(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE"):
        path = cluster.primary.mount / f"mmap-{mode.lower()}.db"
        with connect(path, journal=mode) as db:
            db.execute(f"PRAGMA mmap_size={64 << 20}")
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
            for i in range(40):
                db.execute("INSERT INTO t(v) VALUES(randomblob(9000))")
                db.execute("UPDATE t SET v = randomblob(5000) WHERE id = ?", (i // 2,))
            assert db.execute("SELECT count(*) FROM t").fetchone() == (40,)
        same(run, path.name, "SELECT count(*) FROM t", 40)


@case
def exclusive_locking_mode(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "PERSIST"):
        path = cluster.primary.mount / f"exclusive-{mode.lower()}.db"
        with connect(path) as db:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute(f"PRAGMA journal_mode={mode}").fetchall()
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
            for _ in range(30):
                db.execute("INSERT INTO t(v) VALUES(randomblob(2000))")
            follows(cluster.replica, path.name, "SELECT count(*) FROM t", 30)  # seen while the program still holds it
            db.execute("DELETE FROM t WHERE id > 20")
        same(run, path.name, "SELECT count(*) FROM t", 20)


@case
def several_files_in_one_transaction(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "PERSIST"):
        names = [f"attach-{mode.lower()}-{i}.db" for i in range(3)]
        for name in names:
            fill(cluster.primary.mount / name, 1, journal=mode)
        with connect(cluster.primary.mount / names[0]) as db:
            for i, name in enumerate(names[1:]):
                db.execute(f"ATTACH '{cluster.primary.mount / name}' AS a{i}")
            for commit in ("COMMIT", "ROLLBACK", "COMMIT"):
                db.execute("BEGIN")
                for schema in ("main", "a0", "a1"):
                    db.execute(f"INSERT INTO {schema}.t(v) VALUES('x')")
                db.execute(commit)
        for name in names:
            same(run, name, "SELECT count(*) FROM t", 3)


@case
def vacuum_shrinks(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE"):
        path = cluster.primary.mount / f"vacuum-{mode.lower()}.db"
        fill(path, 2000, size=1000, journal=mode)
        run_sql(path, "DELETE FROM t WHERE id > 20", "VACUUM", "INSERT INTO t(v) VALUES(2)")
        run_sql(path, "PRAGMA auto_vacuum=FULL", "VACUUM")
        fill(path, 500, size=1000, journal=mode)
        run_sql(path, "DELETE FROM t WHERE id > 30")
        same(run, path.name, "SELECT count(*) FROM t", 30)
        pages = value(path, "PRAGMA page_count")
        assert value(cluster.replica.mount / path.name, "PRAGMA page_count") == pages < 100


@case
def copied_over_a_database_in_each_mode(run: Run) -> None:
    cluster = run.shared()
    for mode in ("DELETE", "WAL"):
        for open_elsewhere in (False, True):
            name = f"cp-{mode.lower()}-{open_elsewhere}.db"
            source = run.new_folder("cp") / "source.db"
            fill(source, 40, size=2000, journal="DELETE")
            fill(cluster.primary.mount / name, 300, size=900, journal=mode)
            follows(cluster.replica, name, "SELECT count(*) FROM t", 300)
            with connect(cluster.replica.mount / name) as reader:
                assert reader.execute("SELECT count(*) FROM t").fetchone() == (300,)
                _copy(source, cluster.primary.mount / name, open_elsewhere)
                follows(cluster.replica, name, "SELECT count(*) FROM t", 40)
            same(run, name, "SELECT count(*) FROM t", 40)
            run_sql(cluster.primary.mount / name, "INSERT INTO t(v) VALUES(1)")
            same(run, name, "SELECT count(*) FROM t", 41)


def _copy(source: Path, target: Path, open_elsewhere: bool) -> None:
    if not open_elsewhere:
        shutil.copyfile(source, target)
        return
    with connect(target) as db:  # an idle connection, as a careless restore meets it
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(source, target)


@case
def bytes_edited_in_place(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "hex.db"
    fill(path, 1, journal="DELETE")
    run_sql(path, "INSERT INTO t(v) VALUES('find the needle here')")
    follows(cluster.replica, "hex.db", "SELECT count(*) FROM t", 2)
    at = path.read_bytes().index(b"needle")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"NEEDLE")
    same(run, "hex.db", "SELECT v FROM t WHERE id = 2", "find the NEEDLE here")


@case
def two_programs_take_turns(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "TRUNCATE"):
        name = f"turns-{mode.lower()}.db"
        records = [run.new_folder("turns") / "record" for _ in range(2)]
        writers = [
            start_writer(cluster.primary, name, record, "--journal", mode, "--writer", str(i), "--count", "80")
            for i, record in enumerate(records)
        ]
        for writer in writers:
            assert writer.wait(120) == 0, [r.with_suffix(".log").read_text() for r in records]
        found = [read_record(record) for record in records]
        assert not any(r.errors for r in found), found
        same(run, name, "SELECT count(*) FROM t", 160)


@case
def a_program_killed_within_a_transaction(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "PERSIST", "TRUNCATE"):
        name = f"killed-{mode.lower()}.db"
        record = run.new_folder("killed") / "record"
        writer = start_writer(cluster.primary, name, record, "--journal", mode, "--size", "20000")
        deadline = time.monotonic() + 60
        while len(read_record(record).acknowledged) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        writer.kill()
        writer.wait()
        acknowledged = read_record(record).acknowledged
        rows = value(cluster.primary.mount / name, "SELECT count(*) FROM t")
        assert rows in (len(acknowledged), len(acknowledged) + 1), (
            f"{mode}: {rows} rows, {len(acknowledged)} acknowledged"
        )
        same(run, name, "SELECT count(*) FROM t", rows)


@case
def files_and_folders_behave(run: Run) -> None:
    mount = run.shared().primary.mount
    folder = mount / "fs"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    with (folder / "a.txt").open("a") as file:
        file.write("two\n")
        file.flush()
        os.fsync(file.fileno())
    assert (folder / "a.txt").read_text() == "one\ntwo\n"
    (folder / "a.txt").rename(folder / "b.txt")
    os.truncate(folder / "b.txt", 3)
    assert (folder / "b.txt").read_text() == "one"
    (folder / "b.txt").chmod(0o600)
    assert (folder / "b.txt").stat().st_mode & 0o777 == 0o600
    handle = os.open(folder / "b.txt", os.O_RDONLY)
    (folder / "b.txt").unlink()
    assert os.read(handle, 10) == b"one", "an unlinked file is gone for its reader"
    os.close(handle)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er").rmdir()
    (folder / "deep").rename(folder / "shallow")
    assert os.listdir(folder) == ["shallow"]
    (folder / "shallow").rmdir()
    folder.rmdir()
    assert not folder.exists()


@case
def a_hot_journal_is_rolled_back_and_not_replicated(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "hot.db"
    fill(path, 500, size=500, journal="DELETE")
    before = value(path, "SELECT sum(length(v)) FROM t")
    child = os.fork()
    if child == 0:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA cache_size=5")
        db.execute("BEGIN")
        db.execute("UPDATE t SET v = randomblob(900)")
        os._exit(0)  # without closing: the journal stays hot
    os.waitpid(child, 0)
    assert (cluster.primary.mount / "hot.db-journal").exists(), "no hot journal was left; the case tests nothing"
    assert value(path, "SELECT sum(length(v)) FROM t") == before
    same(run, "hot.db", "SELECT sum(length(v)) FROM t", before)
