"""Transactions of a real primary become visible on a replica while its programs read."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster.errors import Diverged, LTXError, PositionMismatch
from sqlitecluster.ltx import Header, decode, encode
from sqlitecluster.replicator import walwriter
from sqlitecluster.replicator.apply import Applier
from sqlitecluster.replicator.checkpoint import try_restart
from sqlitecluster.replicator.readback import wrong_pages
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.work import Drop, Install, Marker, Transaction
from sqlitecluster.shared import Word
from support.replica import CREATE, Primary, Replica, checkpointed, insert, wait_for
from support.sqlprogram import Program, program

TRANSACTIONS = 1500 if os.environ.get("SQLITECLUSTER_SOAK") else 250
"""Per mode in the random test; the long form runs in the soak."""


def test_each_transaction_is_seen_by_new_readers_and_the_file_ends_identical(
    primary: Primary, replica: Replica, db: ReplicaDb
) -> None:
    db.apply(primary.run(CREATE))
    with program(replica.path()) as other:
        for n in range(1, 30):
            db.apply(primary.run(insert(n)))
            assert other.run("SELECT count(*) FROM t") == [[n * (n + 1) // 2]]
        assert other.run("PRAGMA integrity_check") == [["ok"]]
    assert checkpointed(db, replica) == primary.image
    assert [at for _name, at in replica.seen][-1] == primary.position
    slot = replica.state.find("x.db")
    assert slot is not None
    assert replica.state.position(slot)[:2] == (primary.txid, primary.checksum)


def test_an_open_snapshot_is_kept_during_applies_and_a_partial_write_back(
    primary: Primary, replica: Replica, db: ReplicaDb
) -> None:
    db.apply(primary.run(CREATE, insert(50)))
    with program(replica.path()) as old:
        old.run("BEGIN")
        total = old.run("SELECT count(*), sum(a) FROM t")
        for _ in range(20):
            db.apply(primary.run(insert(20), "UPDATE t SET a = a + 1 WHERE id % 7 = 0"))
        assert db.session is not None
        assert db.writer is not None
        assert not try_restart(db.session, db.writer, 1 << 20, db.store.sync)
        assert old.run("SELECT count(*), sum(a) FROM t") == total
        assert old.run("PRAGMA integrity_check") == [["ok"]]
        old.run("COMMIT")
        assert old.run("SELECT count(*) FROM t") == [[450]]
    assert checkpointed(db, replica) == primary.image


@pytest.mark.parametrize("page_size", [512, 1024, 8192, 65536])
def test_every_page_size(tmp_path: Path, replica: Replica, db: ReplicaDb, page_size: int) -> None:
    primary = Primary(tmp_path / "p.db", page_size=page_size)
    db.apply(primary.run(CREATE))
    for _ in range(5):
        db.apply(primary.run(insert(30)))
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[150]]
        assert other.run("PRAGMA page_size") == [[page_size]]
    assert checkpointed(db, replica) == primary.image
    primary.sql.close()


def test_a_database_shrinks_and_grows_again(primary: Primary, replica: Replica, db: ReplicaDb) -> None:
    db.apply(primary.run(CREATE, insert(400, 900)))
    db.apply(primary.run("DELETE FROM t WHERE id > 10"))
    db.apply(primary.run("VACUUM"))
    assert checkpointed(db, replica) == primary.image
    db.apply(primary.run(insert(300, 900)))
    db.apply(primary.run("VACUUM"))
    assert checkpointed(db, replica) == primary.image
    with program(replica.path()) as other:
        assert other.run("PRAGMA integrity_check") == [["ok"]]


def test_the_journal_mode_of_the_primary_may_change_under_open_connections(
    tmp_path: Path, replica: Replica, db: ReplicaDb
) -> None:
    primary = Primary(tmp_path / "p.db", mode="delete")
    db.apply(primary.run(CREATE))
    with program(replica.path()) as other:
        for n, mode in enumerate(["wal", "delete", "truncate", "wal"]):
            primary.mode = mode
            db.apply(primary.run(f"PRAGMA journal_mode={mode}")) if n != 2 else None
            db.apply(primary.run(insert()))
            assert other.run("SELECT count(*) FROM t") == [[n + 1]]
    assert checkpointed(db, replica) == primary.image
    primary.sql.close()


def test_a_transaction_that_does_not_fit_changes_nothing(primary: Primary, replica: Replica, db: ReplicaDb) -> None:
    db.apply(primary.run(CREATE))
    first, second = primary.run(insert()), primary.run(insert())
    with pytest.raises(PositionMismatch):
        db.apply(second)
    file = decode(first)
    with pytest.raises(Diverged):
        db.apply(encode(file.header, file.pages, file.trailer.post_apply ^ 1))
    with pytest.raises(LTXError):
        db.apply(first[:-20] + b"x" + first[-19:])
    assert db.store.position.txid == 1
    db.apply(first)
    db.apply(second)
    assert db.apply(first) is None
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[2]]


def test_a_file_that_overlaps_the_position_is_taken(primary: Primary, replica: Replica, db: ReplicaDb) -> None:
    db.apply(primary.run(CREATE))
    before = primary.checksum
    old_image = primary.image
    db.apply(primary.run(insert()))
    primary.run(insert())
    pages = [
        (at // 4096 + 1, primary.image[at : at + 4096])
        for at in range(0, len(primary.image), 4096)
        if primary.image[at : at + 4096] != old_image[at : at + 4096]
    ]
    header = Header(
        page_size=4096, commit=len(primary.image) // 4096, min_txid=2, max_txid=3, timestamp_ms=1, pre_apply=before
    )
    db.apply(encode(header, pages, primary.checksum))
    assert db.store.position == primary.position
    assert checkpointed(db, replica) == primary.image


def test_a_drop_removes_the_files_and_a_new_database_continues_the_chain(
    tmp_path: Path, replica: Replica, db: ReplicaDb
) -> None:
    primary = Primary(tmp_path / "p.db")
    db.apply(primary.run(CREATE, insert(10)))
    db.apply(primary.drop())
    assert not replica.path().exists()
    assert not replica.path("x.db-wal").exists()
    assert db.store.position == primary.position
    again = Primary(tmp_path / "q.db", page_size=1024)
    again.txid, again.checksum = primary.txid, primary.checksum
    again.sql.execute(CREATE)
    ltx = again.capture()
    file = decode(ltx)
    header = Header(
        page_size=1024,
        commit=file.header.commit,
        min_txid=again.txid,
        max_txid=again.txid,
        timestamp_ms=1,
        pre_apply=primary.checksum,
    )
    db.apply(encode(header, file.pages, again.checksum))
    db.apply(again.run(insert(3)))
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[3]]
        assert other.run("PRAGMA page_size") == [[1024]]
    primary.sql.close()
    again.sql.close()


def test_random_transactions_with_vacuum_end_byte_identical(tmp_path: Path) -> None:
    for mode, page_size in (("wal", 1024), ("delete", 4096)):
        primary = Primary(tmp_path / f"{mode}.db", mode=mode, page_size=page_size)
        replica = Replica(tmp_path / f"replica-{mode}", pages=48)
        applier = replica.applier()
        applier.start()
        random_transactions(primary, replica, applier.queue.put, random.Random(7))
        drained(applier)
        with program(replica.path()) as other:
            assert other.run("PRAGMA integrity_check") == [["ok"]]
            assert other.run("SELECT count(*), total(a) FROM t") == [
                list(row) for row in primary.sql.execute("SELECT count(*), total(a) FROM t")
            ]
        applier.stop(release=True)
        assert replica.folded() == primary.image
        assert replica.store.open("x.db").position == primary.position
        primary.sql.close()


def drained(applier: Applier) -> None:
    wait_for(lambda: applier.queue.waiting_bytes == 0)


def random_transactions(
    primary: Primary, replica: Replica, put: Callable[[Transaction], None], dice: random.Random
) -> None:
    put(Transaction("x.db", primary.run(CREATE)))
    reader = Program(_wait_path(replica))
    for n in range(TRANSACTIONS):
        choice = dice.random()
        if choice < 0.02:
            sql = "VACUUM"
        elif choice < 0.15:
            sql = f"DELETE FROM t WHERE id % {dice.randint(2, 9)} = 1"
        elif choice < 0.3:
            sql = f"UPDATE t SET b = randomblob({dice.randint(1, 3000)}) WHERE id % {dice.randint(3, 30)} = 0"
        else:
            sql = insert(dice.randint(1, 30), dice.randint(1, 1500))
        put(Transaction("x.db", primary.run(sql)))
        if n % 20 == 0:
            assert reader.run("PRAGMA integrity_check") == [["ok"]]
    reader.close()


def _wait_path(replica: Replica) -> Path:
    wait_for(lambda: _locked(replica))
    return replica.path()


def _locked(replica: Replica) -> bool:
    slot = replica.state.find("x.db")
    return slot is not None and replica.state.slot(slot)[Word.LOCKED] == 1


def test_overlapping_readers_do_not_keep_the_log_from_starting_over(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica", pages=24)
    applier = replica.applier()
    applier.start()
    applier.queue.put(Transaction("x.db", primary.run(CREATE)))
    readers = [Program(_wait_path(replica)) for _ in range(2)]
    sizes = []
    for n in range(400):
        # One of the two always has a snapshot open, and never for long.
        reader = readers[n % 2]
        reader.run("BEGIN")
        reader.run("SELECT count(*) FROM t")
        applier.queue.put(Transaction("x.db", primary.run(insert(3))))
        other = readers[(n + 1) % 2]
        if n:
            other.run("COMMIT")
        sizes.append(replica.path("x.db-wal").stat().st_size)
    drained(applier)
    for reader in readers:
        reader.error_of("COMMIT")
        reader.close()
    applier.stop(release=True)
    assert max(sizes) < 2_000_000
    assert replica.folded() == primary.image
    primary.sql.close()


def test_a_program_that_waits_at_the_gate_is_let_in_after_the_locks(tmp_path: Path) -> None:
    source = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica")
    applier = replica.applier()
    applier.start()
    applier.queue.put(Transaction("x.db", source.run(CREATE)))
    wait_for(lambda: _locked(replica))
    applier.stop(release=True)
    slot = replica.state.find("x.db")
    assert slot is not None
    assert not _locked(replica)
    again = replica.applier()
    again.start()
    assert not _locked(replica), "nobody asked yet"
    replica.state.slot(slot)[Word.LOCK_WANTED] = 1
    replica.node.bells.replicator.ring()
    wait_for(lambda: _locked(replica))
    with program(replica.path()) as other:
        assert "locked" in other.error_of("INSERT INTO t(a) VALUES(1)")
    again.stop(release=True)
    source.sql.close()


def test_a_damaged_transaction_stops_its_database_until_a_snapshot(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica")
    applier = replica.applier()
    asked: list[str] = []
    applier.resync = asked.append
    applier.start()
    applier.queue.put(Transaction("x.db", primary.run(CREATE)))
    good = primary.run(insert())
    file = decode(good)
    applier.queue.put(Transaction("x.db", encode(file.header, file.pages, file.trailer.post_apply ^ 1)))
    applier.queue.put(Transaction("x.db", good))
    reached: list[float] = []
    applier.queue.put(Marker(lambda: reached.append(time.monotonic())))
    wait_for(lambda: bool(reached))
    assert asked == ["x.db"]
    assert replica.store.open("x.db").position.txid == 1
    assert [problem.code for problem in replica.node.problems.all()] == ["Diverged"]
    applier.queue.put(primary.snapshot(tmp_path))  # nobody knew of another history when it was sent
    applier.queue.put(Transaction("x.db", primary.run(insert())))
    wait_for(lambda: replica.store.open("x.db").applied == primary.txid)
    assert replica.node.problems.all() == []
    applier.stop(release=True)
    assert replica.folded() == primary.image
    kept = list((replica.store.data_dir / "lost+found").glob("*x.db*"))
    assert kept, "a tail that was found to be of another history only while it was applied is kept, too"
    primary.sql.close()


def test_a_drop_without_a_chain_moves_the_position(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica")
    applier = replica.applier()
    applier.start()
    applier.queue.put(Transaction("x.db", primary.run(CREATE)))
    primary.drop()
    applier.queue.put(Drop("x.db", primary.position))
    wait_for(lambda: replica.store.open("x.db").position == primary.position)
    wait_for(lambda: not replica.path().exists())
    applier.stop(release=True)
    primary.sql.close()


def test_installs_leave_connections_open_or_make_them_reopen(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica")
    db = ReplicaDb(replica.node, "x.db", replica.paths("x.db"))
    primary.run(CREATE, insert(300))
    db.install_image(primary.snapshot(tmp_path))
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[300]]
        other.run("BEGIN")
        other.run("SELECT 1 FROM t LIMIT 1")
        primary.run("DELETE FROM t WHERE id % 2")
        primary.run("VACUUM")
        db.install_image(primary.snapshot(tmp_path, diverged=True))
        assert other.run("SELECT count(*) FROM t") == [[300]], "the snapshot stays"
        other.run("COMMIT")
        assert other.run("SELECT count(*) FROM t") == [[150]]
        assert other.run("PRAGMA integrity_check") == [["ok"]]
    assert checkpointed(db, replica) == primary.image
    slot = replica.state.find("x.db")
    assert slot is not None
    replica.state.slot(slot)[Word.OPEN_GEN] = 9
    big = Primary(tmp_path / "big.db", page_size=8192)
    big.run(CREATE, insert(5))
    work = big.snapshot(tmp_path)
    with program(replica.path()) as old:
        assert old.run("SELECT count(*) FROM t") == [[150]]
        db.install_image(Install("x.db", work.image, 8192, work.pages, work.position, 5, True))
    assert replica.state.slot(slot)[Word.POISONED] == 9
    assert replica.state.slot(slot)[Word.LOCKED] == 1
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[5]]
    assert checkpointed(db, replica) == big.image
    db.apply(big.run(insert()))
    db.close()
    primary.sql.close()
    big.sql.close()


def test_a_file_that_was_never_replicated_is_kept_before_it_is_replaced(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica")
    db = ReplicaDb(replica.node, "x.db", replica.paths("x.db"))
    local = Primary(replica.path())
    local.run(CREATE, insert(7))
    local.sql.close()
    primary = Primary(tmp_path / "p.db")
    db.apply(primary.run(CREATE))
    kept = list((tmp_path / "replica/data/lost+found").rglob("x.db"))
    assert [path.read_bytes() for path in kept] == [local.image]
    db.close()
    primary.sql.close()


def test_after_a_full_disk_the_transaction_is_shown_without_being_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica")
    applier = replica.applier()
    applier.start()
    applier.queue.put(Transaction("x.db", primary.run(CREATE)))
    wait_for(lambda: _locked(replica))
    full = [True]
    write = walwriter.write_buffers

    def failing(fd: int, buffers: list[bytes | memoryview], at: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "no space left on device")
        write(fd, buffers, at)

    monkeypatch.setattr(walwriter, "write_buffers", failing)
    applier.queue.put(Transaction("x.db", primary.run(insert())))
    applier.queue.put(Transaction("x.db", primary.run(insert())))
    wait_for(lambda: bool(replica.node.problems.all()))
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[0]]
        full.clear()
        drained(applier)
        assert other.run("SELECT count(*) FROM t") == [[2]]
    assert replica.node.problems.all() == []
    applier.stop(release=True)
    assert replica.folded() == primary.image
    primary.sql.close()


def test_page_checksums_that_were_lost_are_made_again_from_the_image(
    primary: Primary, replica: Replica, db: ReplicaDb
) -> None:
    db.apply(primary.run(CREATE, insert(40)))
    db.close()
    db.store.checksums.reset(4096)
    db.store.set_needs_compare(True)
    db.open()
    assert not db.store.needs_compare
    assert db.store.checksums.rolling == primary.checksum
    db.apply(primary.run(insert()))
    assert checkpointed(db, replica) == primary.image


def test_an_image_that_is_not_what_the_position_says_is_refused(tmp_path: Path, replica: Replica) -> None:
    primary = Primary(tmp_path / "p.db")
    db = ReplicaDb(replica.node, "x.db", replica.paths("x.db"))
    db.apply(primary.run(CREATE, insert(40)))
    checkpointed(db, replica)
    db.close()
    with open(replica.path(), "r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    db.store.set_needs_compare(True)
    with pytest.raises(Diverged):
        db.open()
    db.install_image(primary.snapshot(tmp_path))
    assert checkpointed(db, replica) == primary.image
    db.close()
    primary.sql.close()


def test_a_transaction_that_reads_back_differently_is_found(primary: Primary, replica: Replica, db: ReplicaDb) -> None:
    db.apply(primary.run(CREATE))
    ltx = primary.run(insert(3))
    db.apply(ltx)
    wal = replica.path("x.db-wal")
    for kind, path in (("database", replica.path()), ("wal", wal)):
        (db.store.dir / kind).symlink_to(path)  # where they are on a node
    assert wrong_pages(db.store, ltx) == []

    with wal.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\xff" * 8)
    assert wrong_pages(db.store, ltx) != []
