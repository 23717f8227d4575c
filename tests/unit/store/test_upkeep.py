"""The housekeeper's work: syncing, cutting, joining, removing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqlitecluster.ltx import decode
from sqlitecluster.replication.retention import RetentionPolicy
from sqlitecluster.store import compaction, cutter, reserve, retention, trash
from sqlitecluster.store.housekeeper import Housekeeper
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.scrub import Scrub
from support.store_model import ManualClock, Model, RecordingDisk, make, rebuilt


def clock_of(store: NodeStore) -> ManualClock:
    assert isinstance(store.clock, ManualClock)
    return store.clock


def test_a_turn_makes_appended_transactions_durable(tmp_path: Path) -> None:
    disk = RecordingDisk()
    store, model = make(tmp_path, disk=disk)
    keeper = Housekeeper(store, RetentionPolicy())
    model.write_many(3)
    assert keeper.turn()
    assert not store.log.dirty
    assert "fdatasync" in disk.synced


def test_after_a_second_everything_is_cut_and_segments_are_freed(tmp_path: Path) -> None:
    store, model = make(tmp_path, segment_size=1 << 14, ring_bytes=0)
    keeper = Housekeeper(store, RetentionPolicy())
    model.write_many(100)
    assert len(store.log.segments) > 1
    clock_of(store).seconds += 1.5
    keeper.turn()
    assert len(store.log.segments) == 1
    assert not model.store.tail.has_uncut
    assert rebuilt(model.store) == model.pages


def test_it_sleeps_when_nobody_appends_and_is_woken_by_the_first(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    keeper = Housekeeper(store, RetentionPolicy())
    clock_of(store).seconds += 10
    assert not keeper.turn()
    store.sleeping = True
    model.write_many(1)
    assert store.wake.is_set()
    assert not store.sleeping


def test_the_trash_is_emptied_early_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _model = make(tmp_path)
    keeper = Housekeeper(store, RetentionPolicy(), interval_s=0.0)
    monkeypatch.setattr(reserve, "room", lambda path: reserve.DiskRoom(1 << 40, free))
    trash.throw(tmp_path, "gone.db", store.clock.now_ms() - 1)
    free = 1 << 39
    keeper.turn()
    assert trash.contents(tmp_path)
    free = 1 << 20
    keeper.turn()
    assert not trash.contents(tmp_path)
    store.close()


def test_stopping_cuts_what_is_left(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    keeper = Housekeeper(store, RetentionPolicy())
    keeper.start()
    model.write_many(10)
    keeper.stop()
    store.close()
    again, _ = make(tmp_path)
    assert again.log.recovered == []
    assert rebuilt(again.open("app.db")) == model.pages


def test_a_cut_file_is_one_merge_of_what_was_appended(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(1)
    cutter.cut(model.store, store.log)
    model.write_many(39)
    assert cutter.cut(model.store, store.log) == 1
    file = decode(model.store.files.file_path(model.store.files.files[-1]).read_bytes())
    assert (file.header.min_txid, file.header.max_txid) == (2, 40)
    assert dict(file.pages) == model.pages
    assert file.trailer.post_apply == model.checksum()


def test_one_uncut_blob_becomes_a_file_unchanged(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    blob = model.write({1: b"SQLite format 3\0"}, node_id=9)
    cutter.cut(model.store, store.log)
    assert model.store.files.file_path(model.store.files.files[0]).read_bytes() == blob


def test_blobs_of_a_foreign_generation_are_kept_as_they_are(tmp_path: Path) -> None:
    from sqlitecluster.ltx import Encoder, Generation, page_checksum

    store, model = make(tmp_path)
    for _ in range(3):
        _blob, header, post = model.transaction({1: b"SQLite format 3\0"})
        parts: list[bytes] = []
        encoder = Encoder(parts.append, header, generation=Generation.G1)
        encoder.page(1, model.pages[1])
        encoder.close(post)
        model.store.append(b"".join(parts), header, post, [1], [page_checksum(1, model.pages[1])])
    cutter.cut(model.store, store.log)
    assert len(model.store.files.files) == 3
    assert rebuilt(model.store) == model.pages


def test_a_snapshot_is_never_joined_with_increments(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(10)
    cutter.cut(model.store, store.log)
    assert [(info.min_txid, info.max_txid) for info in model.store.files.files] == [(1, 1), (2, 10)]


def cut_many(store: NodeStore, model: Model, files: int) -> None:
    """``files`` files of two transactions, after the first of one (a snapshot)."""
    if model.store.position.is_zero:
        model.write_many(1)
        cutter.cut(model.store, store.log)
    for _ in range(files):
        model.write_many(2)
        cutter.cut(model.store, store.log)
        clock_of(store).seconds += 1


def test_level_one_joins_what_level_zero_holds(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    cut_many(store, model, 10)
    info = compaction.compact_level(model.store, 1)
    assert info is not None
    assert (info.min_txid, info.max_txid, info.level) == (2, 21, 1)
    assert len(list(model.store.since(0) or ())) == 2
    assert rebuilt(model.store) == model.pages
    assert compaction.compact_level(model.store, 1) is None


def spans(model: Model) -> list[tuple[int, int]]:
    return [(info.min_txid, info.max_txid) for info in model.store.files.files]


def test_what_a_replica_may_not_show_yet_is_not_joined_with_what_it_shows(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(8)
    model.store.set_commit_limit(5)
    cutter.cut(model.store, store.log)
    assert spans(model) == [(1, 1), (2, 5), (6, 6), (7, 7), (8, 8)]


def test_a_commit_in_flight_is_a_file_of_its_own(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(6)
    model.store.set_in_flight(7)
    model.write_many(1)
    cutter.cut(model.store, store.log)
    assert spans(model) == [(1, 1), (2, 6), (7, 7)]


def test_files_in_doubt_are_not_joined_later_either(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.store.set_commit_limit(1)
    cut_many(store, model, 6)
    model.store.set_commit_limit(9)
    info = compaction.compact_level(model.store, 1)
    assert info is not None and (info.min_txid, info.max_txid) == (2, 9)


def test_level_two_joins_level_one(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    for _ in range(4):
        cut_many(store, model, 4)
        assert compaction.compact_level(model.store, 1)
    info = compaction.compact_level(model.store, 2)
    assert info is not None
    assert (info.min_txid, info.max_txid, info.level) == (2, 33, 2)


def test_a_damaged_source_is_moved_away_and_nothing_is_joined(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    cut_many(store, model, 6)
    path = model.store.files.file_path(model.store.files.files[2])
    path.write_bytes(path.read_bytes()[:-3])
    assert compaction.compact_level(model.store, 1) is None
    assert len(model.store.files.files) == 6
    assert store.corrupt_files == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_scrub_finds_damage_that_nobody_asked_for(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    cut_many(store, model, 3)
    path = model.store.files.file_path(model.store.files.files[0])
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    scrub = Scrub(store)
    for _ in range(5):
        clock_of(store).seconds += 10
        scrub.step()
    assert store.corrupt_files == 1
    assert len(model.store.files.files) == 3


def test_retention_removes_by_age_but_never_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    cut_many(store, model, 3)
    far = model.store.files.files[-1].stored_ms + 3_600_000
    assert retention.apply(model.store, RetentionPolicy(age_s=600), far) == 3
    assert [info.max_txid for info in model.store.files.files] == [7]
    assert model.store.since(0) is None


def test_retention_keeps_what_a_replica_and_what_the_local_image_needs(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    cut_many(store, model, 4)
    far = model.store.files.files[-1].stored_ms + 3_600_000
    model.store.pin("replica", 3)
    assert retention.apply(model.store, RetentionPolicy(age_s=600), far) == 2
    model.store.unpin("replica")
    model.store.set_applied(9)
    model.store.set_durable(5)
    assert retention.apply(model.store, RetentionPolicy(age_s=600), far) == 1
    assert [info.max_txid for info in model.store.files.files] == [7, 9]


def test_an_error_of_one_database_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, model = make(tmp_path)
    other = Model(store.open("other.db"))
    model.write_many(2)
    other.write_many(2)
    real = cutter.cut

    def failing(database: object, log: object) -> int:
        if database is model.store:
            raise OSError(5, "I/O error")
        return real(other.store, store.log)

    monkeypatch.setattr("sqlitecluster.store.cutter.cut", failing)
    keeper = Housekeeper(store, RetentionPolicy())
    clock_of(store).seconds += 2
    keeper.turn()
    assert model.store.tail.has_uncut
    assert not other.store.tail.has_uncut
