"""The node's log: what was appended is found again, what is torn is cut off."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sqlitecluster.errors import NoSpace
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.log import NodeLog
from support.store_model import RecordingDisk, make

SMALL = 1 << 14


def open_log(folder: Path, disk: Disk | None = None) -> NodeLog:
    return NodeLog(folder, disk or Disk(), lambda _path, _why: None, SMALL)


def contents(log: NodeLog) -> list[tuple[str, bytes | None]]:
    return [(name, place.segment.read(place.offset, place.size)) for name, place in log.recovered]


def test_a_reopened_log_gives_every_blob_back_in_order(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    expected = [(f"db{n % 3}", b"blob %d" % n * 50) for n in range(200)]
    for name, blob in expected:
        log.append(name.encode(), blob)
    assert len(log.segments) > 1
    assert contents(open_log(tmp_path)) == expected


def test_a_torn_record_and_everything_behind_it_is_cut_off(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for n in range(3):
        log.append(b"db", b"blob %d" % n)
    last = log.append(b"db", b"x" * 100)
    os.pwrite(last.segment.fd, b"torn", last.offset + 50)
    again = open_log(tmp_path)
    assert contents(again) == [("db", b"blob %d" % n) for n in range(3)]
    again.append(b"db", b"later")
    assert contents(open_log(tmp_path))[-1] == ("db", b"later")


@pytest.mark.parametrize("size", range(0, 160, 7))
def test_a_segment_cut_at_any_byte_is_read_up_to_its_last_whole_record(tmp_path: Path, size: int) -> None:
    log = open_log(tmp_path / "a")
    ends = [log.append(b"db", b"blob").segment.end for _ in range(3)]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path = next((tmp_path / "b").glob("*.log"))
    os.truncate(path, size)
    assert len(open_log(tmp_path / "b").recovered) == sum(end <= size for end in ends)


def test_sequence_numbers_never_repeat_across_restarts(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(4):
        log = open_log(tmp_path)
        place = log.append(b"db", b"blob")
        seen.append(place.sequence)
        log.release(place.segment)
        log.close()
    assert seen == sorted(set(seen))


def test_a_released_segment_is_recycled_and_its_old_records_are_not_read(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    places = [log.append(b"db", b"x" * 1000) for _ in range(40)]
    first = places[0].segment
    for place in places:
        log.release(place.segment)
    assert first.read(places[0].offset, 10) is None
    assert (tmp_path / "spare").exists()
    for _ in range(20):
        log.append(b"db", b"y" * 1000)
    assert {blob for _name, blob in contents(open_log(tmp_path))} <= {b"y" * 1000, b"x" * 1000}
    assert contents(open_log(tmp_path))[-1] == ("db", b"y" * 1000)


def test_one_segment_file_stays_so_that_numbers_go_on(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    place = log.append(b"db", b"blob")
    log.release(place.segment)
    log.close()
    assert len(list(tmp_path.glob("*.log"))) == 1


def test_a_blob_larger_than_a_segment_gets_a_segment_of_its_own(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(b"db", b"small")
    log.append(b"db", b"L" * (3 * SMALL))
    log.append(b"db", b"small again")
    assert [len(blob or b"") for _name, blob in contents(open_log(tmp_path))] == [5, 3 * SMALL, 11]


def test_sync_reaches_every_segment_that_was_written(tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = open_log(tmp_path, disk)
    for _ in range(40):
        log.append(b"db", b"x" * 1000)
    assert log.dirty
    assert log.sync() == log.sequence
    assert disk.synced.count("fdatasync") == len(log.segments)
    assert not log.dirty


def test_a_full_disk_refuses_the_append_and_changes_nothing(tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = open_log(tmp_path, disk)
    for _ in range(14):
        log.append(b"db", b"x" * 1000)
    disk.failing = True
    with pytest.raises(NoSpace):
        for _ in range(14):
            log.append(b"db", b"y" * 1000)
    disk.failing = False
    log.append(b"db", b"after")
    found = contents(open_log(tmp_path))
    assert found[-1] == ("db", b"after")
    assert len(found) == log.sequence - log.synced or len(found) >= 15


def test_damage_before_the_end_of_the_log_is_kept_aside(tmp_path: Path) -> None:
    store, model = make(tmp_path, segment_size=SMALL)
    model.write_many(100)
    oldest = store.log.segments[min(store.log.segments)]
    assert len(store.log.segments) > 1
    os.pwrite(oldest.fd, b"damage", 3000)
    again, _ = make(tmp_path, segment_size=SMALL)
    reasons = list((tmp_path / "lost+found").glob("*/reason.json"))
    assert len(reasons) == 2  # the segment, and the transactions behind the gap
    assert 0 < again.open("app.db").position.txid < 100
