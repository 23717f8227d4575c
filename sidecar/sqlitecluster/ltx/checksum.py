"""Checksums of pages, databases and LTX files.

    crc64(data, previous=0) -> int              CRC-64/GO-ISO; chains: crc64(a + b) == crc64(b, crc64(a))
    page_checksum(pgno, page) -> int            one page, flag bit set
    page_checksums(pgnos, pages) -> uint64[n]   pages: sequence of buffers
    image_checksums(first, image, page_size) -> uint64[n]   consecutive pages in one buffer
    rolling(current, old, new) -> int           database checksum after one page changed (0 = page absent)
    rolling_many(current, olds, news) -> int    the same for uint64 arrays
    fold(sums) -> int                           database checksum of all page checksums (zeros are ignored)

Rules: bit 63 (``CHECKSUM_FLAG``) is set on every real checksum, so that 0 means "none". The
database checksum is the XOR of its pages' checksums with the flag forced on; the lock
page is never part of it (callers leave it out). An empty database has ``CHECKSUM_FLAG``.
Pure; cost about 0.3 us a 4 KiB page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from fastcrc import crc64 as _crc64

from sqlitecluster.units import Bytes

CHECKSUM_FLAG: Final = 1 << 63

Sums = npt.NDArray[np.uint64]

crc64 = _crc64.go_iso
_pgno = struct.Struct(">I").pack


def page_checksum(pgno: int, page: Bytes) -> int:
    """Checksum of one page's number and content."""
    checksum: int = crc64(_pgno(pgno) + page) | CHECKSUM_FLAG
    return checksum


def page_checksums(pgnos: Iterable[int], pages: Sequence[Bytes]) -> Sums:
    """Checksums of several pages, in their order."""
    sums = (crc64(_pgno(pgno) + page) | CHECKSUM_FLAG for pgno, page in zip(pgnos, pages, strict=True))
    return np.fromiter(sums, np.uint64, len(pages))


def image_checksums(first: int, image: Bytes, page_size: int) -> Sums:
    """Checksums of consecutive pages, of which the first is number ``first``; a partial page at the end is ignored."""
    view = memoryview(image).cast("B")
    count = len(view) // page_size
    starts = range(0, count * page_size, page_size)
    sums = (crc64(_pgno(pgno) + view[at : at + page_size]) | CHECKSUM_FLAG for pgno, at in enumerate(starts, first))
    return np.fromiter(sums, np.uint64, count)


def rolling(current: int, old: int, new: int) -> int:
    """Database checksum after one page's checksum went from ``old`` to ``new``."""
    return current ^ old ^ new | CHECKSUM_FLAG


def rolling_many(current: int, olds: Sums, news: Sums) -> int:
    """Database checksum after page checksums went from ``olds`` to ``news`` (lengths may differ)."""
    change = int(np.bitwise_xor.reduce(olds)) ^ int(np.bitwise_xor.reduce(news))
    return current ^ change | CHECKSUM_FLAG


def fold(sums: Sums) -> int:
    """Database checksum of all page checksums."""
    return int(np.bitwise_xor.reduce(sums)) | CHECKSUM_FLAG
