"""A replica writes its WAL back when nothing happens: then readers read the database file, not the log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sqlitecluster.replicator import drain
from sqlitecluster.replicator.work import Checkpoint, Transaction
from support.replica import Primary, Replica, reader, wait_for

CREATE = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
INSERT = "INSERT INTO t(v) VALUES(randomblob(30000))"


def test_a_quiet_database_is_written_back_below_the_threshold(tmp_path: Path) -> None:
    primary, replica = Primary(tmp_path / "p.db"), Replica(tmp_path / "replica")
    applier = replica.applier()
    applier.start()
    for statement in (CREATE, INSERT):
        applier.queue.put(Transaction("x.db", primary.run(statement)))
    wait_for(lambda: replica.path().exists() and replica.path().read_bytes() == primary.image)
    applier.stop(release=True)
    primary.sql.close()


def test_a_reader_only_delays_the_write_back_of_a_quiet_database(tmp_path: Path) -> None:
    primary, replica = Primary(tmp_path / "p.db"), Replica(tmp_path / "replica")
    applier = replica.applier()
    applier.start()
    applier.queue.put(Transaction("x.db", primary.run(CREATE)))
    wait_for(lambda: replica.path().exists() and replica.path().read_bytes() == primary.image)
    applier.queue.put(Transaction("x.db", primary.run(INSERT)))
    wait_for(lambda: applier.queue.waiting_bytes == 0)
    with reader(replica.path()) as sql:
        sql.execute("BEGIN")
        before = sql.execute("SELECT count(*) FROM t").fetchone()
        applier.queue.put(Transaction("x.db", primary.run(INSERT)))
        wait_for(lambda: applier.queue.waiting_bytes == 0)
        assert sql.execute("SELECT count(*) FROM t").fetchone() == before
    wait_for(lambda: replica.path().read_bytes() == primary.image)
    applier.stop(release=True)
    primary.sql.close()


def starts(replica: Replica) -> int:
    """How often the log started over: its header counts."""
    with replica.path("x.db-wal").open("rb") as file:
        return int.from_bytes(file.read(32)[12:16], "big")


def test_what_the_primary_wrote_back_is_written_back_below_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "QUIET_S", 1000.0)
    primary, replica = Primary(tmp_path / "p.db"), Replica(tmp_path / "replica", pages=10**6)
    applier = replica.applier()
    applier.start()
    for statement in (CREATE, INSERT, INSERT):
        applier.queue.put(Transaction("x.db", primary.run(statement)))
    wait_for(lambda: applier.queue.waiting_bytes == 0)
    before = starts(replica)
    time.sleep(1.0)
    assert starts(replica) == before, "nobody asked for it"
    applier.queue.put(Checkpoint("x.db", 3))
    wait_for(lambda: starts(replica) > before)
    assert replica.path().read_bytes() == primary.image
    applier.queue.put(Transaction("x.db", primary.run(INSERT)))
    wait_for(lambda: applier.queue.waiting_bytes == 0)
    before = starts(replica)
    for _ in range(5):
        applier.queue.put(Checkpoint("x.db", 4))
    wait_for(lambda: applier.queue.waiting_bytes == 0)
    time.sleep(0.5)
    assert starts(replica) == before, "not again so soon"
    applier.stop(release=True)
    primary.sql.close()


def test_a_checkpoint_of_a_database_that_is_not_here_is_no_matter(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica")
    applier = replica.applier()
    applier.start()
    applier.queue.put(Checkpoint("unknown.db", 4))
    wait_for(lambda: applier.queue.waiting_bytes == 0)
    assert replica.node.problems.all() == []
    applier.stop(release=True)
