"""The page index of an LTX file (generations 2 and 3): where each page stands.

    put_entry(out, pgno, offset, length)   append one entry
    finish(entries) -> bytes               the index section: entries, end marker, 8-byte length
    PageIndex.parse(section, commit=...)   from the section's bytes
    PageIndex.read(read_at, size)          from the tail of a file: read_at(offset, length) -> bytes
        .find(pgno) -> (offset, length) | None ; len() ; iteration gives (pgno, offset, length)

Layout: for each page in ascending order three varints (pgno, file offset of its page
header, stored length); a varint 0; u64be length of everything before. The last 24
bytes of a file are that length and the trailer.

Rules: pure; varints of at most 10 bytes; the index is for finding pages, never for trust
(a Decoder compares it with the pages it saw).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Self

from sqlitecluster.errors import LimitError, LTXError
from sqlitecluster.ltx.header import HEADER_SIZE, TRAILER_SIZE, Header
from sqlitecluster.units import LIMITS

ReadAt = Callable[[int, int], bytes]


def put_entry(out: bytearray, pgno: int, offset: int, length: int) -> None:
    """Append one entry: three unsigned LEB128 numbers."""
    for value in (pgno, offset, length):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)


def finish(entries: bytearray) -> bytes:
    """The index section of already appended entries."""
    return bytes(entries) + b"\0" + (len(entries) + 1).to_bytes(8, "big")


def _get_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise LTXError("index", at, "ends inside a number")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise LTXError("index", at, "number is longer than 64 bits")


class PageIndex:
    """Where each page of one LTX file stands."""

    __slots__ = ("_lengths", "_offsets", "_pgnos")

    def __init__(self) -> None:
        self._pgnos = array("I")
        self._offsets = array("Q")
        self._lengths = array("I")

    @classmethod
    def parse(cls, section: bytes, *, commit: int) -> Self:
        """Read an index section; raises LTXError unless it is well formed and ascending up to ``commit``."""
        index = cls()
        end = len(section) - 8
        if end < 1 or int.from_bytes(section[end:], "big") != end:
            raise LTXError("index", len(section), "length does not agree")
        at, last, free = 0, 0, HEADER_SIZE
        while True:
            pgno, at = _get_varint(section, at)
            if pgno == 0:
                break
            offset, at = _get_varint(section, at)
            length, at = _get_varint(section, at)
            if not last < pgno <= commit or offset < free or offset >> 62 or not 4 < length < 1 << 18:
                raise LTXError("index", (pgno, offset, length), "entry is not legal here")
            index._append(pgno, offset, length)
            last, free = pgno, offset + length
        if at != end:
            raise LTXError("index", at, "bytes after the end marker")
        return index

    @classmethod
    def read(cls, read_at: ReadAt, size: int) -> Self:
        """Read header, length and index of a file of ``size`` bytes, without its pages.

        Raises:
            LTXError: the file has no index, or a damaged one.
            LimitError: the index is longer than the header allows.
        """
        if size < HEADER_SIZE + TRAILER_SIZE + 9:
            raise LTXError("size", size, "too short for a page index")
        header = Header.parse(read_at(0, HEADER_SIZE))
        length = int.from_bytes(read_at(size - TRAILER_SIZE - 8, 8), "big")
        start = size - TRAILER_SIZE - 8 - length
        if start < HEADER_SIZE:
            raise LTXError("index", length, "longer than the file")
        if length > header.commit * LIMITS.index_entry_bytes + 1:
            raise LimitError(f"LTX: a page index of {length} bytes for {header.commit} pages is not accepted")
        return cls.parse(read_at(start, length + 8), commit=header.commit)

    def _append(self, pgno: int, offset: int, length: int) -> None:
        self._pgnos.append(pgno)
        self._offsets.append(offset)
        self._lengths.append(length)

    def find(self, pgno: int) -> tuple[int, int] | None:
        """(offset, length) of a page's stored bytes, header included; None when it is not in the file."""
        at = bisect_left(self._pgnos, pgno)
        if at == len(self._pgnos) or self._pgnos[at] != pgno:
            return None
        return self._offsets[at], self._lengths[at]

    def __len__(self) -> int:
        return len(self._pgnos)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self._pgnos, self._offsets, self._lengths, strict=True)
