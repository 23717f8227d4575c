"""The rollback journal.

    is_hot(first_bytes) -> bool                whether SQLite would roll it back (locks apart)
    JournalHeader.parse(raw)                   first 28 bytes of a segment
    JournalHeader.records(segment) -> iterator of (pgno, page)      valid records only
    sealed(start, rest) -> start               with our seal over everything
    sealed_size(raw) -> bytes or None          how much of a sealed journal counts

Pure. Source: SQLite's file format description, section 3; pager.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import xxhash

from sqlitecluster.errors import JournalError, LimitError
from sqlitecluster.units import LIMITS, PAGE_SIZES, Bytes

MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
HEADER_SIZE: Final = 28
ZEROED: Final = bytes(HEADER_SIZE)  # what PERSIST mode writes over the header to commit
KEPT: Final = (bytes(8) + b"SCKEPT1").ljust(HEADER_SIZE, b"\0")  # ours: no journal, its file serves the next one

SEAL_AT: Final = 32  # in the header's sector, where SQLite writes zeros and reads nothing
SEAL_END: Final = 56  # everything before SEAL_AT and from here to the sealed size is covered
_SEAL: Final = struct.Struct(">8sQQ")  # magic, sealed bytes of the file, XXH3 of all that is covered
_SEAL_MAGIC: Final = b"SCSEAL01"

_FIELDS: Final = struct.Struct(">8s5I")
_TO_THE_END: Final = 0xFFFF_FFFF  # record count of a journal that was not synced


def is_hot(first_bytes: Bytes) -> bool:
    """Whether the journal's content would be rolled back: it is not empty and does not begin with a zero byte."""
    return len(first_bytes) > 0 and first_bytes[0] != 0


def sealed(start: Bytes, rest: Bytes) -> bytes:
    """The first SEAL_END bytes of a journal, of which ``start`` has the first SEAL_AT; ``rest`` follows them."""
    size = SEAL_END + len(rest)
    return bytes(start) + _SEAL.pack(_SEAL_MAGIC, size, _digest(start, rest))


def is_sealed(start: Bytes) -> bool:
    """Whether the first SEAL_END bytes of a file are those of a sealed journal."""
    return start[: len(MAGIC)] == MAGIC and start[SEAL_AT : SEAL_AT + len(_SEAL_MAGIC)] == _SEAL_MAGIC


def sealed_size(raw: Bytes) -> int | None:
    """How much of a sealed journal's file belongs to it; None when it is not whole: it never was made durable."""
    _magic, size, digest = _SEAL.unpack_from(raw, SEAL_AT)
    if not SEAL_END <= size <= len(raw) or _digest(raw[:SEAL_AT], memoryview(raw)[SEAL_END:size]) != digest:
        return None
    return int(size)


def _digest(start: Bytes, rest: Bytes) -> int:
    hasher = xxhash.xxh3_64(start)
    hasher.update(rest)
    return hasher.intdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHeader:
    """The header of one segment of a rollback journal."""

    record_count: int | None  # None: up to the end of the file
    nonce: int  # seed of the records' checksums
    initial_pages: int  # database size before the transaction
    sector_size: int  # bytes; the header is padded to it
    page_size: int  # bytes

    @classmethod
    def parse(cls, raw: Bytes) -> Self:
        """Read a segment's header.

        Raises:
            JournalError: it is no journal header.
            LimitError: it announces an absurd number of records.
        """
        if len(raw) < HEADER_SIZE:
            raise JournalError("header", len(raw), f"expected {HEADER_SIZE} bytes")
        magic, count, nonce, initial, sector, page_size = _FIELDS.unpack_from(raw)
        if magic != MAGIC:
            raise JournalError("magic", magic, "not a rollback journal")
        if not 32 <= sector <= 65536 or sector & (sector - 1):
            raise JournalError("sector_size", sector, "not a power of two from 32 to 65536")
        if page_size not in PAGE_SIZES:
            raise JournalError("page_size", page_size, "not a SQLite page size")
        if count != _TO_THE_END and count > LIMITS.journal_records:
            raise LimitError(f"journal: {count} records are not accepted")
        return cls(
            record_count=None if count == _TO_THE_END else count,
            nonce=nonce,
            initial_pages=initial,
            sector_size=sector,
            page_size=page_size,
        )

    @property
    def record_size(self) -> int:
        """Bytes of one record: page number, page, checksum."""
        return self.page_size + 8

    def record_checksum(self, page: Bytes) -> int:
        """The sum of every 200th byte from the end, seeded by the nonce."""
        return (self.nonce + sum(page[self.page_size - 200 : 0 : -200])) & 0xFFFF_FFFF

    def records(self, segment: Bytes) -> Iterator[tuple[int, bytes]]:
        """(pgno, page before the transaction) of a segment that begins with this header; stops at the first bad one."""
        view = memoryview(segment).cast("B")
        at, left = self.sector_size, self.record_count
        while at + self.record_size <= len(view) and left != 0:
            pgno = int.from_bytes(view[at : at + 4], "big")
            page = bytes(view[at + 4 : at + 4 + self.page_size])
            stored = int.from_bytes(view[at + 4 + self.page_size : at + self.record_size], "big")
            if pgno == 0 or stored != self.record_checksum(page):
                return
            yield pgno, page
            at += self.record_size
            left = None if left is None else left - 1
