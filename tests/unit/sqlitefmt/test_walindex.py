"""The wal-index that SQLite maps is read, and ours is byte for byte the same."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sqlitecluster.errors import WALError
from sqlitecluster.sqlitefmt import wal, walindex
from sqlitecluster.sqlitefmt.walindex import CheckpointInfo, HashBlock, IndexHeader

HEADER = IndexHeader(
    change=7, page_size=4096, max_frame=3, pages=9, frame_checksum=(1, 2), salt1=0x01020304, salt2=0x05060708
)


def files_of_sqlite(folder: Path, page_size: int, rows: int) -> tuple[bytes, bytes]:
    path = folder / "a.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA page_size = {page_size}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    database.execute("INSERT INTO t (b) VALUES (1)")
    database.execute("BEGIN")
    database.executemany("INSERT INTO t (b) VALUES (randomblob(400))", [()] * rows)
    database.execute("COMMIT")
    log, index = (path.with_name(f"a.db-{kind}").read_bytes() for kind in ("wal", "shm"))
    database.close()
    return log, index


@pytest.mark.parametrize(("page_size", "rows"), [(512, 10), (512, 9000), (4096, 3000), (65536, 100)])
def test_an_index_of_sqlite_is_read_and_built_again(tmp_path: Path, page_size: int, rows: int) -> None:
    log, index = files_of_sqlite(tmp_path, page_size, rows)
    found = wal.scan(log[32:], wal.WALHeader.parse(log[:32]))
    header = walindex.read_header(index)
    assert header is not None
    assert (header.max_frame, header.pages) == (found.committed, found.db_size())
    assert header.frame_checksum == found.seed_after(found.committed)
    assert header.pack() * 2 == index[:96]
    built = walindex.build_blocks(found.pgnos)
    assert built[136:] == index[136 : len(built)]
    for pgno, frame in found.frame_of()[::97]:
        assert walindex.find_frame(memoryview(index), pgno, header.max_frame) == frame + 1


@pytest.mark.parametrize(("frame", "block"), [(1, 0), (4062, 0), (4063, 1), (8158, 1), (8159, 2), (4062 + 4096 * 5, 5)])
def test_frames_are_spread_over_blocks_as_in_wal_c(frame: int, block: int) -> None:
    assert walindex.block_of(frame) == block
    assert walindex.block_start(block) < frame <= walindex.block_start(block + 1)


def test_the_newest_frame_within_the_range_is_found() -> None:
    view = memoryview(walindex.build_blocks([5, 6, 5, 7, 5 + 8192, 5]))
    assert walindex.find_frame(view, 5, 6) == 6
    assert walindex.find_frame(view, 5, 5) == 3
    assert walindex.find_frame(view, 5, 5, min_frame=4) == 0
    assert walindex.find_frame(view, 8197, 6) == 5
    assert walindex.find_frame(view, 99, 6) == 0


def test_frames_of_a_writer_that_died_are_forgotten() -> None:
    content = walindex.build_blocks([5, 6, 7])
    block = HashBlock(memoryview(content), 0)
    block.append(2, 9)
    assert [block.find(pgno, 3) for pgno in (5, 6, 7, 9)] == [1, 0, 0, 2]
    assert content[136:] == walindex.build_blocks([5, 9])[136:]


def test_a_frame_of_another_block_is_refused() -> None:
    block = HashBlock(memoryview(bytearray(32768)), 1)
    for frame in (4062, 8159):
        with pytest.raises(WALError):
            block.append(frame, 1)


def test_a_full_hash_table_is_refused_and_does_not_hang() -> None:
    content = bytearray(b"\1" * 32768)
    block = HashBlock(memoryview(content), 1)
    with pytest.raises(WALError):
        block.find(3, 9)
    with pytest.raises(WALError):
        HashBlock(memoryview(bytearray(16384) + b"\1" * 16384), 1).append(4070, 1)


@pytest.mark.parametrize("page_size", [0, 512, 32768, 65536])
def test_a_header_survives_packing(page_size: int) -> None:
    header = IndexHeader(
        change=7, page_size=page_size, max_frame=3, pages=9, frame_checksum=(1, 2), salt1=3, salt2=4, big_endian=True
    )
    assert IndexHeader.parse(header.pack()) == header


def test_two_different_copies_are_no_header() -> None:
    raw = bytearray(HEADER.pack() * 2)
    assert walindex.read_header(raw) == HEADER
    raw[60] ^= 1
    assert walindex.read_header(raw) is None


def test_equal_copies_with_a_wrong_checksum_are_no_header() -> None:
    raw = bytearray(HEADER.pack())
    raw[16] ^= 1
    assert walindex.read_header(bytes(raw * 2)) is None


def test_checkpoint_information_survives_packing() -> None:
    info = CheckpointInfo(backfilled=3, read_marks=(0, 5, 6, 7, 8), backfill_attempted=4)
    assert CheckpointInfo.parse(info.pack()) == info
    assert CheckpointInfo.parse(CheckpointInfo().pack()).read_marks == (0, *(0xFFFFFFFF,) * 4)
