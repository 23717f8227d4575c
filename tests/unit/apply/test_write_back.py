"""Writing a replica's log back: what is durable when, and what may be written over."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster.replicator import checkpoint, drain
from sqlitecluster.replicator.checkpoint import try_restart
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.walsession import WalSession
from sqlitecluster.replicator.work import Transaction
from support.replica import CREATE, Primary, Replica, insert, wait_for
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


def _vacuumed(primary: Primary) -> bytes:
    primary.run("PRAGMA journal_mode=DELETE")
    primary.run("PRAGMA page_size=1024")
    return primary.run("VACUUM")


@pytest.mark.parametrize("change", [Primary.drop, _vacuumed])
def test_a_database_whose_files_are_taken_away_while_its_log_is_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Primary], bytes]
) -> None:
    """The pass ends first, nothing of it is left, and the thread goes on with everything else."""
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()
    sync_first = drain.sync_first

    def slow(sync_log: Callable[[], None], session: WalSession) -> int:
        begun.set()
        assert end.wait(60)
        ended.set()
        return sync_first(sync_log, session)

    monkeypatch.setattr(drain, "sync_first", slow)
    primary, replica = Primary(tmp_path / "p.db"), Replica(tmp_path / "replica", pages=20)
    applier = replica.applier()
    applier.start()
    applier.queue.put(Transaction("x.db", primary.run(CREATE, insert(200, 3000))))
    applier.queue.put(Transaction("x.db", primary.run(insert(200, 3000))))
    assert begun.wait(60)
    applier.queue.put(Transaction("x.db", change(primary)))
    time.sleep(0.1)
    assert replica.path().exists(), "the pass still runs"
    end.set()
    wait_for(lambda: applier.queue.waiting_bytes == 0)
    assert ended.is_set()
    if not primary.image:
        assert not replica.path().exists()
        primary.sql.close()
        primary.path.unlink()
        primary.sql = primary.connect()
        applier.queue.put(Transaction("x.db", primary.run(CREATE, insert(5))))
    wait_for(lambda: replica.path().exists() and replica.path().read_bytes() == primary.image)
    applier.stop(release=True)
    primary.sql.close()
    assert not replica.node.problems.all()
