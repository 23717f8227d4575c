"""Hazard 22: commits that share an LTX file come from one content of the WAL; positions overlap only at its ends."""

from __future__ import annotations

from sqlitecluster.ltx import Header
from support.capture_rig import RigDatabase


def test_no_file_spans_a_restart_of_the_log(app: RigDatabase) -> None:
    db = app.connect("wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    db.execute("CREATE TABLE t(v)")
    for _ in range(3):
        for _ in range(4):
            db.execute("INSERT INTO t VALUES (randomblob(500))")
        app.look()
        app.captured()
        db.execute("PRAGMA wal_checkpoint(RESTART)")
    headers = [Header.parse(blob[:100]) for blob in app.blobs()]
    salts = {header.wal_salt1 for header in headers if header.wal_salt1}
    assert len(salts) == 3
    assert [h.min_txid for h in headers[1:]] == [h.max_txid + 1 for h in headers[:-1]]


def test_a_file_is_bounded_however_many_commits_wait(app: RigDatabase) -> None:
    db = app.connect("wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("PRAGMA synchronous=OFF")
    app.spool()
    db.execute("CREATE TABLE t(v)")
    app.look()
    app.captured()
    db.execute("INSERT INTO t VALUES (randomblob(50))", [[]] * 1300)
    app.look()
    app.captured()
    headers = [Header.parse(blob[:100]) for blob in app.blobs()]
    assert max(h.max_txid - h.min_txid + 1 for h in headers) <= 512
    assert app.txid == 1302
    assert app.replayed() == app.image()
