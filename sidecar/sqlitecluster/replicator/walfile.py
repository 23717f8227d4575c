"""Frames of a write-ahead log, built and checked fast. Pure: no files, no locks.

Used by ``walwriter`` (append) and ``walsession`` (rebuild an index from a file).
A WAL checksum is linear in its input, so one page costs two dot products with
coefficients that are computed once per page size; the chain over the frames is then
a few integer operations per frame.

Rules:
    1. New logs use the checksum order of this machine; logs of the other order are read.
    2. Salts are kept as the eight raw bytes that the file and the wal-index share.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

MAGIC: Final = 0x377F_0682  # the lowest bit says that checksums are big-endian
VERSION: Final = 3_007_000
HEADER_SIZE: Final = 32
FRAME_HEADER_SIZE: Final = 24
NATIVE_BIG_ENDIAN: Final = sys.byteorder == "big"

_HEADER: Final = struct.Struct(">IIII8s")
_PAIR: Final = struct.Struct(">II")
_FRAME: Final = struct.Struct(">II8sII")
_MASK: Final = 0xFFFF_FFFF
_LITTLE: Final = np.dtype("<u4")
_BIG: Final = np.dtype(">u4")

Page = tuple[int, bytes | memoryview]


@dataclass(frozen=True, slots=True)
class WalHeader:
    """The 32 bytes at the start of a log."""

    page_size: int
    sequence: int
    """Counts restarts."""
    salt: bytes
    big_endian: bool
    checksum: tuple[int, int]
    """Seed of the first frame's checksum."""

    @classmethod
    def make(cls, page_size: int, sequence: int, salt: bytes) -> WalHeader:
        """A header in this machine's checksum order."""
        magic = MAGIC | int(NATIVE_BIG_ENDIAN)
        raw = _HEADER.pack(magic, VERSION, page_size, sequence & _MASK, salt)
        return cls(page_size, sequence & _MASK, salt, NATIVE_BIG_ENDIAN, checksum(raw, NATIVE_BIG_ENDIAN))

    @classmethod
    def parse(cls, raw: bytes) -> WalHeader | None:
        """None unless all of it is valid: then SQLite too takes the log for empty."""
        if len(raw) < HEADER_SIZE:
            return None
        magic, version, page_size, sequence, salt = _HEADER.unpack_from(raw)
        if magic & ~1 != MAGIC or version != VERSION or not _legal_page_size(page_size):
            return None
        big = bool(magic & 1)
        total = checksum(raw[:24], big)
        if total != _PAIR.unpack_from(raw, 24):
            return None
        return cls(page_size, sequence, salt, big, total)

    def pack(self) -> bytes:
        magic = MAGIC | int(self.big_endian)
        return _HEADER.pack(magic, VERSION, self.page_size, self.sequence, self.salt) + _PAIR.pack(*self.checksum)


@dataclass(frozen=True, slots=True)
class _Coefficients:
    first: npt.NDArray[np.uint32]
    second: npt.NDArray[np.uint32]
    matrix: tuple[int, int, int, int]
    """How the seed enters: (s0, s1) -> (a·s0 + b·s1, c·s0 + d·s1)."""


@cache
def _coefficients(size: int) -> _Coefficients:
    """For ``size`` bytes: per pair (x, y) a step is s0 += x + s1, s1 += y + s0; walked from the end."""
    words = size // 4
    first, second = np.zeros(words, np.uint32), np.zeros(words, np.uint32)
    a, b, c, d = 1, 0, 0, 1
    for at in range(words - 2, -1, -2):
        first[at], first[at + 1] = (a + b) & _MASK, b
        second[at], second[at + 1] = (c + d) & _MASK, d
        a, b = (a + b) & _MASK, (a + 2 * b) & _MASK
        c, d = (c + d) & _MASK, (c + 2 * d) & _MASK
    return _Coefficients(first, second, (a, b, c, d))


def checksum(raw: bytes, big_endian: bool, seed: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """SQLite's WAL checksum of a short text (a multiple of 8 bytes)."""
    s0, s1 = seed
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(raw) // 4}I", raw)
    for at in range(0, len(words), 2):
        s0 = (s0 + words[at] + s1) & _MASK
        s1 = (s1 + words[at + 1] + s0) & _MASK
    return s0, s1


def build_frames(
    pages: Sequence[Page], page_size: int, commit: int, salt: bytes, seed: tuple[int, int], big_endian: bool
) -> tuple[list[bytes | memoryview], tuple[int, int]]:
    """Frames for ``pages``, the last one with the commit size ``commit`` (0: not yet a commit).

    Returns buffers to be written one behind the other, and the checksum that the next
    frame continues from.
    """
    coefficients = _coefficients(page_size)
    by_first, by_second = coefficients.first, coefficients.second
    a, b, c, d = coefficients.matrix
    dtype = _BIG if big_endian else _LITTLE
    s0, s1 = seed
    last = len(pages) - 1
    out: list[bytes | memoryview] = []
    for index, (pgno, page) in enumerate(pages):
        size_after = commit if index == last else 0
        words = np.frombuffer(page, dtype)
        s0 += s1 + (pgno if big_endian else _swap(pgno))
        s1 += s0 + (size_after if big_endian else _swap(size_after))
        s0, s1 = (
            (a * s0 + b * s1 + int(words.dot(by_first))) & _MASK,
            (c * s0 + d * s1 + int(words.dot(by_second))) & _MASK,
        )
        out.append(_FRAME.pack(pgno, size_after, salt, s0, s1))
        out.append(page)
    return out, (s0, s1)


@dataclass(frozen=True, slots=True)
class Scanned:
    """The valid frames at the start of a piece of a log."""

    pgnos: list[int]
    commits: list[int]
    """Database size in pages for commit frames, else 0."""
    sums: list[tuple[int, int]]
    """Running checksum after each frame."""


def scan_frames(raw: bytes, header: WalHeader, seed: tuple[int, int]) -> Scanned:
    """Frames of ``raw`` (whole frames) up to the first that does not continue the chain."""
    size = FRAME_HEADER_SIZE + header.page_size
    heads: list[tuple[int, int]] = []
    stored: list[tuple[int, int]] = []
    for at in range(0, len(raw) - size + 1, size):
        pgno, commit, salt, s0, s1 = _FRAME.unpack_from(raw, at)
        if salt != header.salt or pgno == 0:
            break
        heads.append((pgno, commit))
        stored.append((s0, s1))
    if not heads:
        return Scanned([], [], [])
    sums = _running_sums(raw[: len(heads) * size], heads, header, seed)
    good = next((i for i, pair in enumerate(sums) if pair != stored[i]), len(sums))
    return Scanned([h[0] for h in heads[:good]], [h[1] for h in heads[:good]], sums[:good])


def _running_sums(
    raw: bytes, heads: Sequence[tuple[int, int]], header: WalHeader, seed: tuple[int, int]
) -> list[tuple[int, int]]:
    """The running checksum after each frame of ``raw``, whatever the frames themselves say."""
    coefficients = _coefficients(header.page_size)
    a, b, c, d = coefficients.matrix
    words = np.frombuffer(raw, _BIG if header.big_endian else _LITTLE)
    pages = words.reshape(len(heads), -1)[:, FRAME_HEADER_SIZE // 4 :]
    firsts, seconds = (pages @ coefficients.first).tolist(), (pages @ coefficients.second).tolist()
    s0, s1 = seed
    sums = []
    for (pgno, commit), first, second in zip(heads, firsts, seconds, strict=True):
        x, y = (pgno, commit) if header.big_endian else (_swap(pgno), _swap(commit))
        s0 += x + s1
        s1 += y + s0
        s0, s1 = (a * s0 + b * s1 + first) & _MASK, (c * s0 + d * s1 + second) & _MASK
        sums.append((s0, s1))
    return sums


def _swap(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little") if value else 0


def _legal_page_size(size: int) -> bool:
    return 512 <= size <= 65536 and size & (size - 1) == 0
