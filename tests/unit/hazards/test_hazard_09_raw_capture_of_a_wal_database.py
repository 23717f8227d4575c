"""Hazard 9: the database file of a WAL database may hold older pages than the log; a torn one is never taken."""

from __future__ import annotations

from sqlitecluster.shared import Word
from sqlitecluster.store.spool import FLAG_RAW, spool_path, write_spool
from support.capture_rig import Rig, RigDatabase


def test_a_partial_checkpoint_does_not_roll_the_image_back(app: RigDatabase) -> None:
    writer = app.connect("wal")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    writer.execute("CREATE TABLE t(v)")
    writer.execute("INSERT INTO t VALUES ('old')")
    reader = app.connect(None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t")
    writer.execute("UPDATE t SET v = 'new'")
    writer.execute("PRAGMA wal_checkpoint(PASSIVE)")  # only what the reader does not need: the old row
    app.look()
    app.captured()
    before = app.txid
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured()
    assert app.words[Word.RAW_HINT_DONE] == app.words[Word.RAW_HINT]
    assert app.txid == before
    assert app.replayed() == app.image()


def test_raw_ranges_beside_a_wal_are_not_taken_from_the_database_file(app: RigDatabase, rig: Rig) -> None:
    writer = app.connect("wal")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    writer.execute("CREATE TABLE t(v)")
    app.look()
    app.captured()
    before = app.txid
    data = app.path.read_bytes()  # page 1 without the table
    app.words[Word.SPOOL_SEQ] += 1
    path = spool_path(rig.data, app.slot, app.words[Word.SPOOL_SEQ])
    write_spool(path, [(0, data)], len(data), FLAG_RAW, wal_gen=app.words[Word.WAL_GEN])
    app.look()
    app.captured()
    assert app.txid == before
    assert app.replayed() == app.image()


def test_an_image_with_a_hot_journal_waits_until_it_is_played_back(app: RigDatabase) -> None:
    writer = app.connect("delete")
    writer.execute("CREATE TABLE t(v)")
    app.spool()
    app.captured()
    writer.execute("PRAGMA cache_size=5")
    writer.execute("BEGIN")
    writer.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 100) "
        "INSERT INTO t SELECT randomblob(3000) FROM n"
    )
    writer.kill()
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured()
    assert (app.txid, app.words[Word.RAW_HINT_DONE]) == (1, 0)
    assert app.connect(None).execute("SELECT count(*) FROM t") == [[0]]
    app.spool()
    app.captured()
    assert app.words[Word.RAW_HINT_DONE] == 1
    assert app.replayed() == app.image()
