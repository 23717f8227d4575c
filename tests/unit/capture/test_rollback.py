"""Commits of rollback journal modes, from spools."""

from __future__ import annotations

import pytest

from sqlitecluster.shared import Word
from sqlitecluster.store.spool import spool_path, write_spool
from support.capture_rig import Rig, RigDatabase


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
@pytest.mark.parametrize("page_size", [512, 4096])
def test_each_commit_is_one_transaction(app: RigDatabase, mode: str, page_size: int) -> None:
    db = app.connect(None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    for i in range(5):
        db.execute(f"INSERT INTO t VALUES (randomblob({i * 700}))")
        app.spool()
    app.captured()
    assert app.txid == 6
    assert app.replayed() == app.image()


def test_a_rolled_back_transaction_is_none(app: RigDatabase, rig: Rig) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    data = app.path.read_bytes()
    app.words[Word.SPOOL_SEQ] += 1
    write_spool(spool_path(rig.data, app.slot, app.words[Word.SPOOL_SEQ]), [(0, data[:4096])], len(data))
    app.look()
    app.captured()
    assert app.txid == 1


def test_a_captured_spool_is_removed(app: RigDatabase, rig: Rig) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    assert app.words[Word.SPOOL_DONE] == app.words[Word.SPOOL_SEQ]
    assert list((rig.data / "spool").iterdir()) == []


def test_a_vacuum_shrinks_the_image(app: RigDatabase) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (randomblob(3000))", [[]] * 50)
    app.spool()
    app.captured()
    db.execute("DELETE FROM t")
    app.spool()
    db.execute("VACUUM")
    app.spool()
    app.captured()
    assert app.replayed() == app.image()


def test_a_page_written_in_part_is_completed_from_the_file(app: RigDatabase, rig: Rig) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    db.execute("INSERT INTO t VALUES ('x')")
    data = app.path.read_bytes()
    app.words[Word.SPOOL_SEQ] += 1
    ranges = [(0, data[:1024]), (5000, data[5000:8192])]
    write_spool(spool_path(rig.data, app.slot, app.words[Word.SPOOL_SEQ]), ranges, len(data))
    app.look()
    app.captured()
    assert app.replayed() == app.image()


def test_a_large_transaction_is_streamed(app: RigDatabase) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    db.execute("INSERT INTO t VALUES (randomblob(3000000))")
    app.spool()
    app.captured()
    assert app.txid == 2
    assert app.replayed() == app.image()


def test_a_page_size_changed_by_vacuum_makes_a_snapshot(app: RigDatabase) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (randomblob(20000))")
    app.spool()
    app.captured()
    db.execute("PRAGMA page_size=8192")
    db.execute("VACUUM")
    app.spool()
    app.captured()
    assert app.replayed() == app.image()
    assert app.txid == 2


def test_a_lost_spool_is_made_up_for_by_the_image(app: RigDatabase, rig: Rig) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    db.execute("INSERT INTO t VALUES (1)")
    app.spool()
    spool_path(rig.data, app.slot, app.words[Word.SPOOL_SEQ]).unlink()
    app.captured()
    assert app.replayed() == app.image()


def test_a_file_that_stops_being_a_database_is_left_alone_and_reported(app: RigDatabase, rig: Rig) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    db.close()
    app.path.write_bytes(b"something else " * 500)
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured()
    assert app.txid == 1
    assert [problem.code for problem in rig.node.problems.all()] == ["NotADatabase"]
    assert app.path.read_bytes().startswith(b"something else")
