"""Logs that SQLite writes are read to the last valid frame; ours are byte for byte as SQLite's."""

from __future__ import annotations

import random
import sqlite3
import struct
from pathlib import Path

import pytest

from sqlitecluster.errors import WALError
from sqlitecluster.sqlitefmt import wal
from sqlitecluster.sqlitefmt.wal import Scan, WALHeader

SALTS = {"salt1": 0x1234, "salt2": 0x99}


def pages_of(rng: random.Random, numbers: list[int], size: int) -> list[tuple[int, bytes]]:
    return [(pgno, rng.randbytes(size)) for pgno in numbers]


def log_of_sqlite(path: Path, page_size: int, transactions: int) -> bytes:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA page_size = {page_size}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    for i in range(transactions):
        database.execute("INSERT INTO t (b) VALUES (randomblob(?))", (i * 40,))
    log = path.with_name(path.name + "-wal").read_bytes()
    database.close()
    return log


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_a_log_of_sqlite_is_read_and_built_again(tmp_path: Path, page_size: int) -> None:
    log = log_of_sqlite(tmp_path / "a.db", page_size, 30)
    header = WALHeader.parse(log[:32])
    assert header.pack() == log[:32]
    found = wal.scan(log[32:], header)
    assert found.valid == found.committed == wal.frames_in(len(log), page_size)
    assert len(found.commit_ends) == 31
    rebuilt, seed, start = bytearray(log[:32]), header.seed, 0
    for end in found.commit_ends:
        content = [(found.pgnos[i], frame(log, page_size, i)) for i in range(start, end)]
        frames, seed = wal.build_frames(content, found.db_size(end), header, seed)
        rebuilt += frames
        assert seed == found.seed_after(end)
        start = end
    assert rebuilt == log


def frame(log: bytes, page_size: int, index: int) -> bytes:
    at = wal.frame_offset(index, page_size) + 24
    return log[at : at + page_size]


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("count", [1, 2, 12, 13, 40])
def test_both_byte_orders_are_scanned_for_few_and_many_frames(big_endian: bool, count: int) -> None:
    header = WALHeader(page_size=512, big_endian=big_endian, **SALTS)
    rng = random.Random(count)
    frames, seed = wal.build_frames(pages_of(rng, list(range(1, count + 1)), 512), count, header, header.seed)
    found = wal.scan(frames, header)
    assert (found.valid, found.committed, found.db_size(), found.seed_after(count)) == (count, count, count, seed)


@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("bad", [0, 3, 5])
@pytest.mark.parametrize("place", [0, 8, 13, 16, 23, 24, 500])
def test_a_changed_byte_ends_the_log_there(count: int, bad: int, place: int) -> None:
    header = WALHeader(page_size=512, **SALTS)
    frames, _ = wal.build_frames(pages_of(random.Random(1), list(range(1, count + 1)), 512), 50, header, header.seed)
    frames[bad * 536 + place] ^= 0x40
    found = wal.scan(frames, header)
    assert (found.valid, found.committed, len(found.sums)) == (bad, 0, bad)


def test_scanning_goes_on_from_a_seed() -> None:
    header = WALHeader(page_size=512, **SALTS)
    rng = random.Random(2)
    first, seed = wal.build_frames(pages_of(rng, [1, 2], 512), 2, header, header.seed)
    second, end = wal.build_frames(pages_of(rng, [2, 3], 512), 3, header, seed)
    assert wal.scan(second, header, seed).seed_after(2) == end
    assert wal.scan(second, header).valid == 0
    assert wal.scan(first + second, header).commit_ends == [2, 4]


def test_a_partial_frame_and_an_open_transaction_are_not_committed() -> None:
    header = WALHeader(page_size=512, **SALTS)
    frames, _ = wal.build_frames(pages_of(random.Random(3), [1, 2, 3], 512), 3, header, header.seed)
    found = wal.scan(frames[:-1], header)
    assert (found.valid, found.committed, found.pages(), found.db_size()) == (2, 0, [], 0)


def committed(numbers: list[int], size: int, page_size: int = 512) -> tuple[Scan, list[tuple[int, bytes]]]:
    header = WALHeader(page_size=page_size, **SALTS)
    content = pages_of(random.Random(4), numbers, page_size)
    return wal.scan(wal.build_frames(content, size, header, header.seed)[0], header), content


def test_pages_are_the_newest_ones_in_ascending_order_within_the_database() -> None:
    found, content = committed([3, 1, 9, 3, 2], 4)
    assert found.frame_of() == [(1, 1), (2, 4), (3, 3)]
    assert found.pages() == [(1, content[1][1]), (2, content[4][1]), (3, content[3][1])]


def test_the_lock_page_is_left_out() -> None:
    found, _ = committed([16384, 16385, 16386], 20000, 65536)
    assert [pgno for pgno, _ in found.pages()] == [16384, 16386]


def test_pages_of_one_transaction_among_several() -> None:
    header = WALHeader(page_size=512, **SALTS)
    rng = random.Random(5)
    first, seed = wal.build_frames(pages_of(rng, [1, 2], 512), 2, header, header.seed)
    second, _ = wal.build_frames(pages_of(rng, [2, 3], 512), 3, header, seed)
    found = wal.scan(first + second, header)
    assert found.frame_of(2) == [(1, 0), (2, 1)]
    assert found.frame_of(4, 2) == [(2, 2), (3, 3)]


def test_a_log_without_frames_has_no_commit() -> None:
    header = WALHeader(page_size=512, **SALTS)
    found = wal.scan(b"", header)
    assert (found.valid, found.committed, found.seed_after(0)) == (0, 0, header.seed)


@pytest.mark.parametrize(
    ("at", "raw"), [(0, b"\1"), (4, b"\1"), (8, b"\0\0\3\0"), (12, b"\1"), (16, b"\1"), (24, b"\1"), (31, b"\1")]
)
def test_a_header_that_is_not_valid_is_refused(at: int, raw: bytes) -> None:
    data = bytearray(WALHeader(page_size=512, salt1=0xFF00FF00, salt2=5, sequence=0xFF000000).pack())
    data[at : at + len(raw)] = bytes(a ^ b for a, b in zip(data[at:], raw, strict=False))
    with pytest.raises(WALError):
        WALHeader.parse(bytes(data))


def test_a_short_header_is_refused() -> None:
    with pytest.raises(WALError):
        WALHeader.parse(bytes(31))


def test_pages_of_another_size_are_refused() -> None:
    header = WALHeader(page_size=512, **SALTS)
    with pytest.raises(WALError):
        wal.build_frames([(1, bytes(511))], 1, header, header.seed)


def test_a_frame_header_survives_packing() -> None:
    raw = struct.pack(">6I", 1, 2, 3, 4, 5, 6)
    assert wal.FrameHeader.parse(raw).pack() == raw


@pytest.mark.parametrize(("size", "frames"), [(0, 0), (31, 0), (32, 0), (567, 0), (568, 1), (1104, 2)])
def test_only_whole_frames_are_counted(size: int, frames: int) -> None:
    assert wal.frames_in(size, 512) == frames
