"""Hazard 16: a changed page size is a snapshot in LTX, never an increment."""

from __future__ import annotations

from sqlitecluster.ltx import Header
from support.capture_rig import RigDatabase


def test_a_changed_page_size_is_a_snapshot_of_all_pages(app: RigDatabase) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (randomblob(30000))")
    app.spool()
    app.captured()
    db.execute("PRAGMA page_size=512")
    db.execute("VACUUM")
    app.spool()
    app.captured()
    newest = Header.parse(app.blobs()[-1][:100])
    assert (newest.min_txid, newest.max_txid, newest.page_size) == (1, 2, 512)
    assert app.replayed() == app.image()


def test_the_store_knows_only_the_new_page_size_afterwards(app: RigDatabase) -> None:
    test_a_changed_page_size_is_a_snapshot_of_all_pages(app)
    checksums = app.rig.store.open("app.db").checksums
    assert (checksums.page_size, checksums.count * 512) == (512, len(app.image()))
