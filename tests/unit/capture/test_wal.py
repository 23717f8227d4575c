"""Commits of WAL mode become LTX: positions, contents, groups."""

from __future__ import annotations

import pytest

from support.capture_rig import Rig, RigDatabase
from support.program import Program


def started(app: RigDatabase, page_size: int = 4096) -> Program:
    """A WAL database with one captured table."""
    db = app.connect(None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute("PRAGMA journal_mode=wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    app.look()
    app.captured()
    return db


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_the_chain_makes_the_image_that_programs_see(app: RigDatabase, page_size: int) -> None:
    db = started(app, page_size)
    for i in range(20):
        db.execute(f"INSERT INTO t(v) VALUES (randomblob({i * 300}))")
        app.look()
        app.captured()
    assert app.replayed() == app.image()


def test_one_commit_is_one_transaction(app: RigDatabase) -> None:
    db = started(app)
    before = app.txid
    db.execute("INSERT INTO t(v) VALUES (1)")
    app.look()
    app.captured()
    assert app.txid == before + 1


def test_commits_of_one_turn_share_a_file_and_count_one_by_one(app: RigDatabase) -> None:
    db = started(app)
    before, files = app.txid, len(app.blobs())
    for i in range(10):
        db.execute(f"INSERT INTO t(v) VALUES ({i})")
    app.look()
    app.captured()
    assert (app.txid, len(app.blobs())) == (before + 10, files + 1)
    assert app.replayed() == app.image()


def test_a_transaction_in_progress_is_not_captured(app: RigDatabase) -> None:
    db = started(app)
    before = app.txid
    db.execute("PRAGMA cache_size=5")
    db.execute("BEGIN")
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 200) "
        "INSERT INTO t(v) SELECT randomblob(3000) FROM n"
    )
    app.look()
    app.captured()
    assert app.txid == before
    db.execute("COMMIT")
    app.look()
    app.captured()
    assert app.txid == before + 1
    assert app.replayed() == app.image()


def test_the_position_is_published(app: RigDatabase, rig: Rig) -> None:
    started(app)
    store = rig.store.open("app.db")
    assert rig.state.position(app.slot) == (
        store.position.txid,
        store.position.checksum,
        store.timestamp_ms,
        store.commit,
    )
