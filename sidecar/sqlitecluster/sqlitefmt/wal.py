"""The write-ahead log: header, frames, and a vectorised scan for commits.

    WALHeader.parse(raw 32 bytes) / .pack()      fields page_size, big_endian, sequence, salt1, salt2; .seed
    FrameHeader.parse(raw 24 bytes) / .pack()    fields pgno, commit, salt1, salt2, checksum1, checksum2
    frame_size(page_size), frame_offset(i, page_size), frames_in(wal_size, page_size)
    scan(data, header, seed=None) -> Scan        data: whole frames from a transaction's first one
        .valid         frames whose salts and checksum chain hold, from the first on
        .pgnos .sizes .sums   lists of a frame's page number; database size in pages where it commits, else 0;
                       running checksum after it
        .commit_ends   counts of frames after which a transaction is complete, ascending
        .committed     the last of them (0: no commit)
        .seed_after(n) running checksum after the first n frames
        .db_size(n)    database size after the commit that ends with frame n
        .pages(n=committed, start=0)   newest copy of each page: [(pgno, memoryview)], ascending, none beyond
                                       the database size, no lock page: what ``ltx.encode`` takes
        .frame_of(n=committed, start=0)  the same as [(pgno, frame index)]
    build_frames(pages, commit, header, seed) -> (bytes, seed)   one transaction as SQLite writes it
    frame_checksums(frames, page_size, seed, big_endian) -> [(s0, s1)]

A frame is 24 bytes of header (big-endian always) and one page. Its checksum runs over the
first 8 header bytes and the page, seeded by the frame before (the first by the header),
read as words in the byte order that the magic names.

Rules: pure; raises WALError for a header only: an invalid frame is where the log ends. Cost
of ``scan``: about 7 us plus 2 us a frame of 4 KiB, 0.8 us from 16 frames on.

Source: SQLite's file format description, section 4; wal.c.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from sqlitecluster.errors import WALError
from sqlitecluster.sqlitefmt.walsum import MASK, Sum, Words, advance, checksum, frame_deltas, step
from sqlitecluster.units import PAGE_SIZES, Bytes, lock_page

MAGIC_LITTLE: Final = 0x377F_0682
MAGIC_BIG: Final = 0x377F_0683
VERSION: Final = 3_007_000
HEADER_SIZE: Final = 32
FRAME_HEADER_SIZE: Final = 24

_HEADER: Final = struct.Struct(">6I")
_FRAME: Final = struct.Struct(">6I")
_PAIR: Final = struct.Struct(">II")
_FEW: Final = 12  # frames up to which plain arithmetic along the chain is faster

Head = tuple[int, int, int, int, int, int]  # pgno, commit, salts, checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class WALHeader:
    """The first 32 bytes of a write-ahead log."""

    page_size: int  # bytes
    salt1: int  # grows by one with each restart of the log
    salt2: int  # random with each restart
    sequence: int = 0  # checkpoints, counted by SQLite
    big_endian: bool = False  # byte order of checksums; the creating machine's

    @classmethod
    def parse(cls, raw: Bytes) -> Self:
        """Read a header.

        Raises:
            WALError: it is short, no WAL header, or its checksum is wrong.
        """
        if len(raw) < HEADER_SIZE:
            raise WALError("header", len(raw), f"expected {HEADER_SIZE} bytes")
        magic, version, page_size, sequence, salt1, salt2 = _HEADER.unpack_from(raw)
        if magic not in (MAGIC_LITTLE, MAGIC_BIG):
            raise WALError("magic", magic, "not a write-ahead log")
        if version != VERSION:
            raise WALError("version", version, f"expected {VERSION}")
        if page_size not in PAGE_SIZES:
            raise WALError("page_size", page_size, "not a SQLite page size")
        header = cls(page_size=page_size, salt1=salt1, salt2=salt2, sequence=sequence, big_endian=magic == MAGIC_BIG)
        if _PAIR.unpack_from(raw, 24) != checksum(raw[:24], big_endian=header.big_endian):
            raise WALError("checksum", bytes(raw[24:32]), "does not fit the header")
        return header

    def pack(self) -> bytes:
        """The 32 bytes of this header."""
        raw = self._pack_24()
        return raw + _PAIR.pack(*checksum(raw, big_endian=self.big_endian))

    def _pack_24(self) -> bytes:
        magic = MAGIC_BIG if self.big_endian else MAGIC_LITTLE
        return _HEADER.pack(magic, VERSION, self.page_size, self.sequence, self.salt1, self.salt2)

    @property
    def seed(self) -> Sum:
        """The checksum of this header: the seed of the first frame."""
        return checksum(self._pack_24(), big_endian=self.big_endian)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The 24 bytes before each page of a write-ahead log."""

    pgno: int
    commit: int  # database size in pages on the last frame of a transaction, else 0
    salt1: int
    salt2: int
    checksum1: int
    checksum2: int

    @classmethod
    def parse(cls, raw: Bytes) -> Self:
        """Read a frame header; nothing about it is checked."""
        if len(raw) < FRAME_HEADER_SIZE:
            raise WALError("frame", len(raw), f"expected {FRAME_HEADER_SIZE} bytes")
        return cls(*_FRAME.unpack_from(raw))

    def pack(self) -> bytes:
        """The 24 bytes of this frame header."""
        return _FRAME.pack(self.pgno, self.commit, self.salt1, self.salt2, self.checksum1, self.checksum2)


def frame_size(page_size: int) -> int:
    """Bytes of one frame."""
    return FRAME_HEADER_SIZE + page_size


def frame_offset(index: int, page_size: int) -> int:
    """Where frame ``index`` (0-based) begins in the file."""
    return HEADER_SIZE + index * (FRAME_HEADER_SIZE + page_size)


def frames_in(wal_size: int, page_size: int) -> int:
    """Whole frames in a file of ``wal_size`` bytes."""
    return max(0, wal_size - HEADER_SIZE) // (FRAME_HEADER_SIZE + page_size)


class Scan:
    """What ``scan`` found; see the module's docstring."""

    __slots__ = ("_data", "_page_size", "_seed", "commit_ends", "committed", "pgnos", "sizes", "sums", "valid")

    def __init__(self, data: memoryview, page_size: int, seed: Sum, heads: list[Head]) -> None:
        self._data = data
        self._page_size = page_size
        self._seed = seed
        self.valid = len(heads)
        self.pgnos: list[int] = [head[0] for head in heads]
        self.sizes: list[int] = [head[1] for head in heads]
        self.sums: list[Sum] = [(head[4], head[5]) for head in heads]
        self.commit_ends: list[int] = [i for i, size in enumerate(self.sizes, 1) if size]
        self.committed = self.commit_ends[-1] if self.commit_ends else 0

    def seed_after(self, frames: int) -> Sum:
        """The running checksum after the first ``frames`` frames."""
        return self.sums[frames - 1] if frames else self._seed

    def db_size(self, frames: int | None = None) -> int:
        """Database size in pages after the commit that ends with frame ``frames``; 0 if it is no commit."""
        end = self.committed if frames is None else frames
        return self.sizes[end - 1] if end else 0

    def frame_of(self, frames: int | None = None, start: int = 0) -> list[tuple[int, int]]:
        """(pgno, index of its newest frame) of the pages in frames ``start`` to ``frames``, ascending."""
        end = self.committed if frames is None else frames
        newest = dict(zip(self.pgnos[start:end], range(start, end), strict=True))
        size, lock = self.db_size(end), lock_page(self._page_size)
        return [(pgno, newest[pgno]) for pgno in sorted(newest) if pgno <= size and pgno != lock]

    def pages(self, frames: int | None = None, start: int = 0) -> list[tuple[int, memoryview]]:
        """(pgno, newest content) of the pages in frames ``start`` to ``frames``, ascending; no bytes are copied."""
        data, row = self._data, FRAME_HEADER_SIZE + self._page_size
        return [(p, data[i * row + FRAME_HEADER_SIZE : i * row + row]) for p, i in self.frame_of(frames, start)]


def scan(data: Bytes, header: WALHeader, seed: Sum | None = None) -> Scan:
    """Read whole frames that follow one another; a partial one at the end is ignored.

    ``seed`` is the running checksum before the first frame; None means that ``data``
    begins right after the WAL's header.
    """
    view = memoryview(data).cast("B")
    row = FRAME_HEADER_SIZE + header.page_size
    count = len(view) // row
    if seed is None:
        seed = header.seed
    find = _heads_of_few if count <= _FEW else _heads_of_many
    return Scan(view, header.page_size, seed, find(view, header, count, seed))


def _rows(view: memoryview, page_size: int, big_endian: bool, count: int) -> Words:
    """``count`` frames as words in the log's byte order."""
    row = (FRAME_HEADER_SIZE + page_size) // 4
    words = np.frombuffer(view, ">u4" if big_endian else "<u4", count * row).reshape(count, row)
    return words.astype(np.uint32, copy=False)


def _heads_of_few(view: memoryview, header: WALHeader, count: int, seed: Sum) -> list[Head]:
    row, salts = FRAME_HEADER_SIZE + header.page_size, (header.salt1, header.salt2)
    heads: list[Head] = []
    for at in range(0, count * row, row):
        head: Head = _FRAME.unpack_from(view, at)
        if head[2:4] != salts or not head[0]:
            break
        heads.append(head)
    if not heads:
        return heads
    a, b, c, d = step(header.page_size)
    s0, s1 = seed
    deltas = frame_deltas(_rows(view, header.page_size, header.big_endian, len(heads))).tolist()
    for i, ((d0, d1), head) in enumerate(zip(deltas, heads, strict=True)):
        s0, s1 = (a * s0 + b * s1 + d0) & MASK, (c * s0 + d * s1 + d1) & MASK
        if head[4] != s0 or head[5] != s1:
            return heads[:i]
    return heads


def _heads_of_many(view: memoryview, header: WALHeader, count: int, seed: Sum) -> list[Head]:
    heads = np.ndarray((count, 6), ">u4", view, 0, (FRAME_HEADER_SIZE + header.page_size, 4)).astype(np.uint32)
    salted = (heads[:, 2] == header.salt1) & (heads[:, 3] == header.salt2) & (heads[:, 0] != 0)
    heads = heads[: _first_false(salted)]
    if not len(heads):
        return []
    before = np.empty((len(heads), 2), np.uint32)
    before[0] = seed
    before[1:] = heads[:-1, 4:6]  # each frame is checked against what the one before says of itself
    a, b, c, d = step(header.page_size)
    expected = before @ np.array(((a, c), (b, d)), np.uint32)
    expected += frame_deltas(_rows(view, header.page_size, header.big_endian, len(heads)))
    good = (expected == heads[:, 4:6]).all(axis=1)
    return list(map(tuple, heads[: _first_false(good)].tolist()))


def _first_false(flags: npt.NDArray[np.bool_]) -> int:
    return len(flags) if flags.all() else int(flags.argmin())


def frame_checksums(frames: Bytes, page_size: int, seed: Sum, *, big_endian: bool = False) -> list[Sum]:
    """Running checksum after each of some consecutive frames, whatever checksums they carry."""
    view = memoryview(frames).cast("B")
    by, sums = step(page_size), []
    for d0, d1 in frame_deltas(_rows(view, page_size, big_endian, len(view) // frame_size(page_size))).tolist():
        seed = advance(seed, by, (d0, d1))
        sums.append(seed)
    return sums


def build_frames(
    pages: Sequence[tuple[int, Bytes]], commit: int, header: WALHeader, seed: Sum
) -> tuple[bytearray, Sum]:
    """The frames of one transaction and the running checksum after it.

    Args:
        pages: (pgno, content), in the order in which they shall stand.
        commit: database size in pages, for the last frame.
        seed: running checksum before the first frame (``header.seed`` at the log's start).
    """
    salts = _PAIR.pack(header.salt1, header.salt2) + bytes(8)
    last = len(pages) - 1
    parts: list[Bytes] = []
    for i, (pgno, data) in enumerate(pages):
        parts += (_PAIR.pack(pgno, commit if i == last else 0) + salts, data)
    frames = bytearray().join(parts)
    row = FRAME_HEADER_SIZE + header.page_size
    if len(frames) != row * len(pages):
        raise WALError("page", len(frames), f"expected {len(pages)} pages of {header.page_size} bytes")
    for i, seed in enumerate(frame_checksums(frames, header.page_size, seed, big_endian=header.big_endian)):  # noqa: B020
        _PAIR.pack_into(frames, i * row + 16, *seed)
    return frames, seed
