"""Hazard 10: after a cache spill the last write of a commit is a rewritten frame header; padding repeats commits."""

from __future__ import annotations

from support.capture_rig import RigDatabase
from support.program import Program


def started(app: RigDatabase) -> Program:
    writer = app.connect("wal")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.execute("PRAGMA cache_size=5")
    app.spool()
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    writer.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 100) "
        "INSERT INTO t(v) SELECT randomblob(2000) FROM n"
    )
    app.look()
    app.captured()
    return writer


def test_a_transaction_that_rewrote_its_own_frames_is_captured_whole(app: RigDatabase) -> None:
    writer = started(app)
    before = app.txid
    writer.execute("BEGIN")
    for _ in range(3):
        writer.execute("UPDATE t SET v = randomblob(2000)")
        app.look()
        app.captured()
        assert app.txid == before
    writer.execute("COMMIT")
    app.look()
    app.captured()
    assert app.txid == before + 1
    assert app.replayed() == app.image()


def test_frames_of_a_rolled_back_transaction_are_not_captured(app: RigDatabase) -> None:
    writer = started(app)
    before = app.txid
    writer.execute("BEGIN")
    writer.execute("UPDATE t SET v = randomblob(2000)")
    writer.execute("ROLLBACK")
    app.look()
    app.captured(quiet=True)
    assert app.txid == before
    writer.execute("INSERT INTO t(v) VALUES (1)")
    app.look()
    app.captured()
    assert app.txid == before + 1
    assert app.replayed() == app.image()
