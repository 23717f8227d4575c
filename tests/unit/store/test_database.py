"""One database's chain: append, give out again, refuse what does not continue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sqlitecluster.errors import BadName, PositionMismatch
from sqlitecluster.ltx import CHECKSUM_FLAG, Header, encode
from sqlitecluster.replication.position import Position
from sqlitecluster.store import cutter
from sqlitecluster.store.node import NodeStore
from support.store_model import Model, make, rebuilt


def test_a_new_database_is_at_zero(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    assert model.store.position.is_zero
    assert list(model.store.since(0) or ()) == []
    assert store.names() == ["app.db"]


def test_appending_moves_the_position_and_the_checksums(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(30)
    db = model.store
    assert db.position == Position(30, model.checksum())
    assert db.checksums.rolling == model.checksum()
    assert (db.page_size, db.commit, db.checksums.txid) == (512, model.commit, 30)


@pytest.mark.parametrize("start", [0, 1, 17, 29])
def test_since_leads_from_any_transaction_to_the_present(tmp_path: Path, start: int) -> None:
    _store, model = make(tmp_path)
    model.write_many(30)
    blobs = model.store.since(start)
    assert blobs is not None
    assert [Header.parse(blob[:100]).min_txid for blob in blobs] == list(range(start + 1, 31))


def test_since_the_present_or_the_future_gives_nothing(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(3)
    blobs = model.store.since(3)
    assert blobs is not None
    assert list(blobs) == []
    assert model.store.since(4) is None


def test_blobs_pushed_out_of_memory_come_from_the_log(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=2000)
    model.write_many(50)
    assert store.ring.used <= 2000
    assert rebuilt(model.store) == model.pages


def test_cut_and_forgotten_blobs_come_from_files(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(20)
    cutter.cut(model.store, store.log)
    assert len(model.store.tail) == 0
    model.write_many(5)
    assert rebuilt(model.store) == model.pages
    assert [Header.parse(b[:100]).max_txid for b in model.store.since(7) or ()] == [20, 21, 22, 23, 24, 25]


def test_a_large_transaction_becomes_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlitecluster.store.database.LARGE_BLOB", 300)
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(5)
    model.write({n: bytes([n]) * 512 for n in range(1, 100)})
    model.write({1: b"SQLite format 3\0small"})
    assert [info.max_txid for info in model.store.files.files] == [6]
    cutter.cut(model.store, store.log)
    assert rebuilt(model.store) == model.pages
    assert [(info.min_txid, info.max_txid) for info in model.store.files.files] == [(1, 1), (2, 5), (6, 6), (7, 7)]


def test_a_finished_file_is_taken_in(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(2)
    blob, header, post = model.transaction({1: b"SQLite format 3\0big"})
    (tmp_path / "incoming").write_bytes(blob)
    model.store.append_file(tmp_path / "incoming", header, post)
    assert model.store.position == Position(3, post)
    assert list(model.store.since(2) or ()) == [blob]


def test_a_gap_is_refused(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(2)
    blob, header, post = model.transaction({2: b"x"})
    later = replace(header, min_txid=5, max_txid=5)
    with pytest.raises(PositionMismatch):
        model.store.append(blob, later, post)
    assert model.store.position.txid == 2


def test_another_history_is_refused(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(2)
    blob, header, post = model.transaction({2: b"x"})
    with pytest.raises(PositionMismatch):
        model.store.append(blob, replace(header, pre_apply=CHECKSUM_FLAG | 5), post)


def test_a_blob_that_is_known_already_is_refused(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    blob, header, post = model.transaction({1: b"SQLite format 3\0"})
    model.store.append(blob, header, post)
    with pytest.raises(PositionMismatch):
        model.store.append(blob, header, post)


def test_a_changed_page_size_comes_as_a_snapshot_in_the_chain(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(3)
    wide = Model(model.store, 1024)
    wide.pages = {1: b"SQLite format 3\0".ljust(1024, b"\0"), 2: bytes(1024)}
    header = Header(page_size=1024, commit=2, min_txid=1, max_txid=4, timestamp_ms=1, pre_apply=0)
    blob = encode(header, sorted(wide.pages.items()), wide.checksum())
    from sqlitecluster.ltx import page_checksum

    model.store.append(blob, header, wide.checksum(), [1, 2], [page_checksum(n, wide.pages[n]) for n in (1, 2)])
    wide.write({2: b"after"})
    assert model.store.checksums.rolling == wide.checksum()
    cutter.cut(model.store, store.log)
    assert rebuilt(model.store, 2) == wide.pages


def test_a_drop_and_a_new_database_continue_the_numbers(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(3)
    model.write({}, commit=0)
    assert (model.store.commit, model.store.position) == (0, Position(4, CHECKSUM_FLAG))
    assert model.store.checksums.rolling == CHECKSUM_FLAG
    model.write_many(2)
    cutter.cut(model.store, store.log)
    again, _ = make(tmp_path)
    assert again.open("app.db").position == Position(6, model.checksum())


def test_a_bad_name_is_refused(tmp_path: Path) -> None:
    store, _model = make(tmp_path)
    for name in ("../evil", "", "a//b", ".hidden", "x-wal"):
        with pytest.raises(BadName):
            store.open(name)


def test_the_wal_mark_is_kept_and_half_written_marks_are_not_believed(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    assert model.store.wal_mark is None
    model.store.set_wal_mark(1, 2, 4152, 7)
    mark = make(tmp_path)[0].open("app.db").wal_mark
    assert mark is not None
    assert (mark.salt1, mark.salt2, mark.end, mark.generation) == (1, 2, 4152, 7)
    from sqlitecluster.store.state import StateWord

    model.store.state.words[StateWord.WAL_SEQ] |= 1
    assert store.open("app.db").wal_mark is None


def test_a_diverged_tail_is_kept_as_ltx_files_before_a_resync(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(10)
    cutter.cut(model.store, store.log)
    model.write_many(5)
    kept = model.store.keep_tail(8, "diverged from the primary")
    assert kept is not None
    names = sorted(path.name for path in kept.iterdir())
    assert names[-1] == "reason.json"
    assert [n for n in names if n.endswith(".ltx")] == [f"{2:016x}-{10:016x}.ltx", f"{11:016x}-{15:016x}.ltx"]
    model.store.reset(Position(9, CHECKSUM_FLAG | 9), page_size=512, commit=3, timestamp_ms=1)
    again = make(tmp_path)[0].open("app.db")
    assert again.position == Position(9, CHECKSUM_FLAG | 9)
    assert again.since(8) is None


def test_a_reset_voids_what_the_log_still_holds(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(10)
    model.store.reset(Position(100, CHECKSUM_FLAG | 1), page_size=512, commit=1, timestamp_ms=1)
    again = make(tmp_path)[0].open("app.db")
    assert again.position == Position(100, CHECKSUM_FLAG | 1)
    assert list(again.since(100) or ()) == []


def test_a_gap_in_the_chain_asks_for_a_snapshot(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    for _ in range(3):
        model.write_many(3)
        cutter.cut(model.store, store.log)
    middle = model.store.files.files[1]
    model.store.files.remove([middle])
    assert model.store.since(0) is None
    assert model.store.since(6) is not None


def test_a_stream_may_read_while_another_thread_appends_and_the_log_is_cut(tmp_path: Path) -> None:
    import threading

    store, model = make(tmp_path, segment_size=1 << 15, ring_bytes=4096)
    failures: list[BaseException] = []
    stop = threading.Event()

    def upkeep() -> None:
        try:
            while not stop.is_set():
                cutter.cut(model.store, store.log)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=upkeep)
    thread.start()
    reached = 0
    try:
        for _ in range(150):
            model.write_many(4)
            blobs = model.store.since(reached)
            assert blobs is not None
            for blob in blobs:
                header = Header.parse(blob[:100])
                assert header.min_txid <= reached + 1 <= header.max_txid
                reached = header.max_txid
            assert reached == model.store.position.txid
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert rebuilt(model.store) == model.pages


def test_a_reset_and_a_cut_never_release_a_blob_twice(tmp_path: Path) -> None:
    import threading

    store, model = make(tmp_path, segment_size=1 << 14)
    stop = threading.Event()

    def upkeep() -> None:
        while not stop.is_set():
            store.cut(model.store)

    thread = threading.Thread(target=upkeep)
    thread.start()
    try:
        for n in range(1, 20):
            model.write_many(20)
            model.store.reset(Position(1000 * n, model.checksum()), page_size=512, commit=model.commit, timestamp_ms=1)
            model.store.checksums.mark(1000 * n)
    finally:
        stop.set()
        thread.join()
    store.cut(model.store)
    assert all(segment.refs == 0 for segment in store.log.segments.values())


def test_a_full_disk_refuses_a_transaction_before_anything_changed(tmp_path: Path) -> None:
    from sqlitecluster.errors import NoSpace
    from support.store_model import RecordingDisk

    disk = RecordingDisk()
    _store, model = make(tmp_path, disk=disk)
    model.write_many(3)
    at, sums = model.store.position, model.store.checksums.rolling
    disk.failing = True
    with pytest.raises(NoSpace):
        model.write(dict.fromkeys(range(1, 1200), b"grown"))
    assert (model.store.position, model.store.checksums.rolling) == (at, sums)
    assert model.store.position.txid == 3


def test_a_commit_in_flight_is_not_settled_for_the_next_process_either(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(2)
    before = model.store.position
    model.store.set_in_flight(3)
    assert NodeStore(tmp_path).open("app.db").settled == before
    model.write_many(1)
    assert model.store.settled == before
    again = NodeStore(tmp_path).open("app.db")
    assert again.settled == before and again.position.txid == 3
    again.set_in_flight(0)
    assert again.settled == again.position
