"""SQLite's WAL checksum, by linear algebra.

    checksum(data, seed=(0, 0), big_endian=False) -> (s0, s1)     any multiple of 8 bytes
    frame_deltas(rows) -> uint32[n, 2]        what each frame adds, for rows of 24 + page bytes as u32 words
    step(page_size) -> (m00, m01, m10, m11)   what one frame does to the running sum
    advance(seed, step, delta) -> (s0, s1)    next running sum

For each pair of words (x, y) SQLite computes ``s0 += x + s1; s1 += y + s0`` modulo 2**32. That is
linear: after n pairs the sum is M**n times the seed plus a dot product of the words with
fixed coefficients, so a page costs one or two microseconds. In a frame the words of the
salts and of the stored checksum get the coefficient 0.

Used by ``wal`` and ``walindex``. Pure. Source: the file format description of SQLite,
section 4.2, and wal.c (walChecksumBytes).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.errors import WALError
from sqlitecluster.units import Bytes

Words = npt.NDArray[np.uint32]
Sum = tuple[int, int]
Step = tuple[int, int, int, int]

MASK: Final = 0xFFFF_FFFF
_CHUNK: Final = 1 << 16  # bytes summed at once
_SHORT: Final = 64  # bytes up to which plain arithmetic is faster
_MANY: Final = 4  # rows from which einsum is faster than matmul


@lru_cache(maxsize=64)
def _coefficients(words: int) -> Words:
    """Row i says what word i of ``words`` adds to (s0, s1)."""
    table = np.zeros((words, 2), np.uint32)
    x, y = (1, 1), (0, 1)
    for i in range(words - 2, -1, -2):
        table[i], table[i + 1] = x, y
        x = ((x[0] + x[1]) & MASK, (x[0] + 2 * x[1]) & MASK)
        y = ((y[0] + y[1]) & MASK, (y[0] + 2 * y[1]) & MASK)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def _frame_coefficients(words: int) -> tuple[Words, Words]:
    """Coefficients of one frame, also transposed; words 2 to 5 (salts, checksum) do not count."""
    plain = _coefficients(words - 4)
    table = np.concatenate((plain[:2], np.zeros((4, 2), np.uint32), plain[2:]))
    across = np.ascontiguousarray(table.T)
    table.flags.writeable = across.flags.writeable = False
    return table, across


@lru_cache(maxsize=128)
def _power(pairs: int) -> Step:
    """The matrix that ``pairs`` pairs of words apply to the running sum: [[1, 1], [1, 2]] ** pairs."""
    a, b, c, d = 1, 0, 0, 1
    e, f, g, h = 1, 1, 1, 2
    while pairs:
        if pairs & 1:
            a, b, c, d = (
                (a * e + b * g) & MASK,
                (a * f + b * h) & MASK,
                (c * e + d * g) & MASK,
                (c * f + d * h) & MASK,
            )
        e, f, g, h = (e * e + f * g) & MASK, (e * f + f * h) & MASK, (g * e + h * g) & MASK, (g * f + h * h) & MASK
        pairs >>= 1
    return a, b, c, d


def step(page_size: int) -> Step:
    """What one frame (8 bytes of its header and the page) does to the running sum."""
    return _power(page_size // 8 + 1)


def advance(seed: Sum, by: Step, delta: Sum) -> Sum:
    """The running sum after one more frame, or other data, that adds ``delta``."""
    s0, s1 = seed
    return (by[0] * s0 + by[1] * s1 + delta[0]) & MASK, (by[2] * s0 + by[3] * s1 + delta[1]) & MASK


def frame_deltas(rows: Words) -> Words:
    """What each frame adds; ``rows`` holds whole frames as u32 in the WAL's byte order."""
    table, across = _frame_coefficients(rows.shape[1])
    if len(rows) < _MANY:
        return rows @ table
    deltas: Words = np.einsum("ij,kj->ik", rows, across)
    return deltas


def checksum(data: Bytes, seed: Sum = (0, 0), *, big_endian: bool = False) -> Sum:
    """Running WAL checksum over ``data``, read as words in the given byte order.

    Raises:
        WALError: the length is no multiple of 8.
    """
    view = memoryview(data).cast("B")
    if len(view) % 8:
        raise WALError("length", len(view), "checksums need a multiple of 8 bytes")
    if len(view) <= _SHORT:
        return _short(view, seed, big_endian)
    for at in range(0, len(view), _CHUNK):
        words = np.frombuffer(view[at : at + _CHUNK], ">u4" if big_endian else "<u4")
        delta = words.astype(np.uint32, copy=False) @ _coefficients(len(words))
        seed = advance(seed, _power(len(words) // 2), (int(delta[0]), int(delta[1])))
    return seed


def _short(view: memoryview, seed: Sum, big_endian: bool) -> Sum:
    s0, s1 = seed
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(view) // 4}I", view)
    for x, y in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + x + s1) & MASK
        s1 = (s1 + y + s0) & MASK
    return s0, s1
