"""Frames and wal-index entries that we make are SQLite's own."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest

from sqlitecluster.replicator import walfile
from sqlitecluster.replicator.walfile import FRAME_HEADER_SIZE, HEADER_SIZE, WalHeader

SEED = (7, 0xFFFF_FFF0)


def slow_checksum(raw: bytes, big_endian: bool, seed: tuple[int, int]) -> tuple[int, int]:
    s0, s1 = seed
    order = ">" if big_endian else "<"
    for x, y in struct.iter_unpack(order + "II", raw):
        s0 = (s0 + x + s1) & 0xFFFF_FFFF
        s1 = (s1 + y + s0) & 0xFFFF_FFFF
    return s0, s1


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("big_endian", [False, True])
def test_frame_checksums_equal_the_plain_sum(page_size: int, big_endian: bool) -> None:
    pages = [(n + 1, bytes((n * 37 + i * i) & 0xFF for i in range(page_size))) for n in range(3)]
    buffers, end = walfile.build_frames(pages, page_size, 9, b"saltsalt", SEED, big_endian)
    raw = b"".join(buffers)
    seed = SEED
    size = FRAME_HEADER_SIZE + page_size
    for index in range(3):
        frame = raw[index * size : (index + 1) * size]
        seed = slow_checksum(frame[:8] + frame[FRAME_HEADER_SIZE:], big_endian, seed)
        assert struct.unpack_from(">II", frame, 16) == seed
    assert end == seed


def test_a_log_written_by_sqlite_is_read_to_its_last_commit(tmp_path: Path) -> None:
    sql = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    sql.execute("PRAGMA journal_mode=WAL")
    sql.execute("CREATE TABLE t(a)")
    for n in range(20):
        sql.execute("INSERT INTO t VALUES(randomblob(?))", (n * 300,))
    raw = (tmp_path / "a.db-wal").read_bytes()
    header = WalHeader.parse(raw[:HEADER_SIZE])
    assert header is not None
    found = walfile.scan_frames(raw[HEADER_SIZE:], header, header.checksum)
    assert len(found.pgnos) == (len(raw) - HEADER_SIZE) // (FRAME_HEADER_SIZE + 4096)
    assert found.commits[-1] > 0
    sql.close()


def test_a_damaged_frame_ends_the_log(tmp_path: Path) -> None:
    pages = [(n + 1, bytes([n]) * 512) for n in range(5)]
    header = WalHeader.make(512, 0, b"12345678")
    buffers, _end = walfile.build_frames(pages, 512, 5, header.salt, header.checksum, header.big_endian)
    raw = bytearray(b"".join(buffers))
    raw[3 * (FRAME_HEADER_SIZE + 512) + 100] ^= 1
    assert walfile.scan_frames(bytes(raw), header, header.checksum).pgnos == [1, 2, 3]


def test_a_header_with_a_wrong_checksum_is_no_header() -> None:
    raw = WalHeader.make(4096, 3, b"12345678").pack()
    assert WalHeader.parse(raw) is not None
    assert WalHeader.parse(raw[:20] + b"x" + raw[21:]) is None
    assert WalHeader.parse(raw[:31]) is None
