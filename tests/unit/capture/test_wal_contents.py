"""WAL contents that begin and end: restarts, truncation, last close, switches of mode."""

from __future__ import annotations

from sqlitecluster.shared import Word
from support.capture_rig import RigDatabase
from support.program import Program


def started(app: RigDatabase) -> Program:
    db = app.connect("wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    app.look()
    app.captured()
    return db


def test_a_restarted_wal_is_captured_from_its_first_frame(app: RigDatabase) -> None:
    db = started(app)
    for kind in ("RESTART", "TRUNCATE", "PASSIVE", "FULL"):
        db.execute(f"PRAGMA wal_checkpoint({kind})")
        db.execute("INSERT INTO t(v) VALUES (randomblob(5000))")
        app.look()
        app.captured()
    assert app.replayed() == app.image()


def test_the_captured_end_follows_the_generation(app: RigDatabase) -> None:
    db = started(app)
    db.execute("PRAGMA wal_checkpoint(RESTART)")
    db.execute("INSERT INTO t(v) VALUES (1)")
    app.look()
    assert app.words[Word.CAPTURED_GEN] == app.words[Word.WAL_GEN] - 1
    app.captured()
    assert app.words[Word.CAPTURED_GEN] == app.words[Word.WAL_GEN]
    assert app.words[Word.CAPTURED_END] == app.words[Word.WAL_END]


def test_a_wal_unlinked_by_the_last_close_is_captured_before_what_follows(app: RigDatabase) -> None:
    db = started(app)
    db.execute("INSERT INTO t(v) VALUES ('not captured yet')")
    app.look()
    db.close()
    app.look()
    assert app.words[Word.HAS_WAL] == 0
    again = app.connect(None)
    again.execute("INSERT INTO t(v) VALUES ('next content')")
    app.look()
    app.captured()
    assert app.replayed() == app.image()
    assert list(app.dir.glob("wal.*.gone")) == []


def test_the_last_close_alone_loses_nothing(app: RigDatabase) -> None:
    db = started(app)
    before = app.txid
    db.execute("INSERT INTO t(v) VALUES ('not captured yet')")
    app.look()
    db.close()
    app.look()
    app.captured()
    assert app.txid == before + 1
    assert app.replayed() == app.image()


def test_wal_to_delete_and_back_captures_page_1_from_whoever_wrote_it(app: RigDatabase) -> None:
    db = started(app)
    app.seen()
    for i in range(3):
        db.execute(f"INSERT INTO t(v) VALUES ({i})")
        app.look()
        app.captured()
        app.seen()
        assert db.execute("PRAGMA journal_mode=delete") == [["delete"]]
        app.look()
        app.spool()
        db.execute("INSERT INTO t(v) VALUES ('rollback mode')")
        app.spool()
        assert db.execute("PRAGMA journal_mode=wal") == [["wal"]]
        app.spool()
    app.captured()
    assert app.replayed() == app.image()


def test_a_switch_of_mode_that_nobody_watched_is_captured_in_order(app: RigDatabase) -> None:
    db = started(app)
    app.seen()
    db.execute("INSERT INTO t(v) VALUES ('wal')")
    app.look()
    db.execute("PRAGMA journal_mode=delete")
    app.look()
    db.execute("INSERT INTO t(v) VALUES ('delete')")
    app.spool()
    db.execute("PRAGMA journal_mode=wal")
    app.spool()
    db.execute("INSERT INTO t(v) VALUES ('wal again')")
    app.look()
    app.captured()
    assert app.replayed() == app.image()


def test_exclusive_locking_keeps_its_index_to_itself_and_is_captured_all_the_same(app: RigDatabase) -> None:
    db = app.connect(None)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("PRAGMA journal_mode=wal")
    app.spool()
    app.captured()
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (1)")
    app.look()
    app.captured()
    first = app.txid
    assert app.words[Word.CAPTURED_END] < app.words[Word.WAL_END]
    app.captured(quiet=True)
    assert app.txid == first + 1
    db.close()
    assert app.replayed() == app.image()


def test_an_exclusive_writer_that_restarts_its_wal_does_not_wait_for_a_quiet_moment(app: RigDatabase) -> None:
    from sqlitecluster.shared import NodeWord

    db = app.connect(None)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("PRAGMA journal_mode=wal")
    app.spool()
    db.execute("CREATE TABLE t(v)")
    app.look()
    db.execute("PRAGMA wal_checkpoint(FULL)")
    app.rig.state.node[NodeWord.PARKED] = 1
    app.captured()
    assert app.words[Word.CAPTURED_END] == app.words[Word.WAL_END]
    db.close()
    assert app.replayed() == app.image()
