"""A replica writes its WAL back when nothing happens: then readers read the database file, not the log."""

from __future__ import annotations

from pathlib import Path

from sqlitecluster.replicator.work import Transaction
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
