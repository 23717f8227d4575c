"""Writing a replica's log back: what is durable when, and what may be written over."""

from __future__ import annotations

import os

import pytest

from sqlitecluster.replicator import checkpoint
from sqlitecluster.replicator.checkpoint import try_restart
from sqlitecluster.replicator.replica import ReplicaDb
from support.replica import CREATE, Primary, Replica, insert
from support.sqlprogram import program


def test_a_write_back_counts_as_durable_only_after_an_fsync_of_all_of_it(
    primary: Primary, replica: Replica, db: ReplicaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart that met a reader wrote everything back and synced nothing: the next pass finds nothing to write."""
    db.apply(primary.run(CREATE, insert(50)))
    assert db.session is not None
    assert db.writer is not None
    assert try_restart(db.session, db.writer, 1 << 20, db.store.sync)
    order: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (order.append("database"), fsync(fd))[1])
    db.apply(primary.run(insert(20)))
    with program(replica.path()) as reader:
        reader.run("BEGIN")
        reader.run("SELECT count(*) FROM t")
        assert not try_restart(db.session, db.writer, 1 << 20, lambda: order.append("log"))
        assert db.session.index.backfilled == db.writer.header.mx_frame
        assert order == ["log"], "pages were written before the LTX that they came from was durable"
        assert checkpoint.sync_first(lambda: None, db.session) == db.writer.header.mx_frame
        assert order == ["log", "database"]
        checkpoint.sync_first(lambda: None, db.session)
        assert order == ["log", "database"], "nothing was written since"
        reader.run("COMMIT")


def test_a_log_that_holds_a_received_image_starts_over_on_a_durable_database(
    primary: Primary, replica: Replica, db: ReplicaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No LTX has its pages: what a power cut takes could not be made again."""
    db.apply(primary.run(CREATE, insert(50)))
    assert db.session is not None
    assert db.writer is not None
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (synced.append(fd), fsync(fd))[1])
    assert db.session.holds_image, "a log of an earlier process may hold one"
    assert try_restart(db.session, db.writer, 1 << 20, db.store.sync)
    for holds in (False, True, False):
        db.session.holds_image = db.session.holds_image or holds
        db.apply(primary.run(insert(50)))
        assert try_restart(db.session, db.writer, 1 << 20, db.store.sync)
        assert synced == [db.session.db_fd] * holds
        synced.clear()
