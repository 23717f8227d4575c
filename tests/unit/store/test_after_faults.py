"""What crash states and failing disks once showed to be wrong: one small test each."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from sqlitecluster.errors import NoSpace
from sqlitecluster.store import cutter, database
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.node import NodeStore
from support.crashdisk import KEPT, KILL, LOST, MIXED, Recorder
from support.crashdisk import Disk as CrashDisk
from support.store_model import RecordingDisk, make
from support.storeoracle import Boot
from support.syscalls import Calls, failure


class Failing(Disk):
    """Fails one method when told."""

    def __init__(self) -> None:
        self.fails = ""

    def fdatasync(self, fd: int) -> None:
        if self.fails == "fdatasync":
            raise failure(errno.EIO)
        super().fdatasync(fd)

    def fsync_dir(self, path: Path | str) -> None:
        if self.fails == "fsync_dir" and "ltx" in str(path):
            raise failure(errno.EIO)
        super().fsync_dir(path)


def test_blobs_before_a_large_transaction_are_in_the_chain_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store, model = make(tmp_path)
    model.write_many(2)
    monkeypatch.setattr(database, "LARGE_BLOB", 10)
    model.write({3: b"large"})
    again = NodeStore(tmp_path).open("app.db")
    assert len(list(again.since(0) or ())) == 3
    assert again.reaches(0)


def test_a_blob_that_does_not_continue_takes_no_later_one_with_it(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(1)
    position, pages = model.store.position, dict(model.pages)
    model.write_many(1)
    lost = model.store.tail.uncut()[-1].place
    model.write_many(1)
    os.pwrite(lost.segment.fd, b"torn", lost.offset)  # the second is torn, the third is behind it
    store, model.store, model.pages = NodeStore(tmp_path), model.store, pages
    model.store = store.open("app.db")
    assert model.store.position == position
    model.write_many(2)
    assert NodeStore(tmp_path).open("app.db").position == model.store.position


def test_what_a_failed_sync_covered_counts_only_once_it_is_cut(tmp_path: Path) -> None:
    disk = Failing()
    store, model = make(tmp_path, disk=disk)
    model.write_many(2)
    disk.fails = "fdatasync"
    with pytest.raises(OSError, match="Input/output"):
        store.log.sync()
    disk.fails = ""
    synced = store.log.synced
    model.write_many(1)
    with pytest.raises(OSError, match="earlier sync"):
        store.log.sync()
    assert store.log.synced == synced
    cutter.cut(model.store, store.log)
    assert store.log.sync() == store.log.sequence


def test_what_a_killed_process_left_in_the_log_is_synced_at_the_next_start(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(3)
    disk = RecordingDisk()
    NodeStore(tmp_path, disk=disk)
    assert disk.synced == ["fdatasync"]


def test_a_file_that_could_not_be_made_durable_is_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Failing()
    _store, model = make(tmp_path, disk=disk)
    model.write_many(1)
    pages = dict(model.pages)
    cutter.cut(model.store, model.store._node.log)
    monkeypatch.setattr(database, "LARGE_BLOB", 10)
    disk.fails = "fsync_dir"
    with pytest.raises(OSError, match="Input/output"):
        model.write({2: b"one future"})
    disk.fails = ""
    monkeypatch.setattr(database, "LARGE_BLOB", 1 << 20)
    model.pages = pages
    model.write({2: b"another future"})
    assert NodeStore(tmp_path).open("app.db").position == model.store.position


def test_entries_behind_the_last_page_do_not_count_after_a_power_cut(tmp_path: Path) -> None:
    with Boot() as boot:
        array = ChecksumArray(tmp_path / "checksums", Disk())
        array.reset(512)
        array.set_many([1, 2, 3], [5, 6, 7])
        array._file.cells[4] = 1  # the count of before; the entries are there
        boot.number = 2
        again = ChecksumArray(tmp_path / "checksums", Disk())
        again.reset(512)
        again.set_many([1, 2, 3], [5, 6, 7])
        assert again.rolling == again.entries_total()


def test_a_quota_is_a_full_disk(tmp_path: Path) -> None:
    def fault(call: str, _path: str) -> int | None:
        if call == "open":
            raise failure(errno.EDQUOT)
        return None

    with Calls(tmp_path, fault=fault), pytest.raises(NoSpace):
        Disk().create(tmp_path / "x")


def test_a_power_cut_takes_what_was_not_synced_and_a_kill_does_not(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with Calls(tmp_path, recorder):
        Disk().write_file(tmp_path / "kept", (b"a" * 600,))
        fd = Disk().create(tmp_path / "lost")
        os.pwrite(fd, b"b" * 1024, 0)
        os.close(fd)
    disk = CrashDisk()
    for op in recorder.ops:
        disk.play(op)
    rng = random.Random(1)
    assert disk.after(LOST, rng) == {"kept": b"a" * 600}
    assert disk.after(KILL, rng) == disk.after(KEPT, rng) == {"kept": b"a" * 600, "lost": b"b" * 1024}
    torn = {bytes(disk.after(MIXED, rng).get("lost") or b"none") for _ in range(200)}
    assert {b"none", b"b" * 1024, b"b" * 512 + bytes(512)} <= torn
