"""The first 100 bytes of a SQLite database, big-endian.

    looks_like_database(raw) -> bool      the magic of 16 bytes
    DatabaseHeader.parse(raw)             the fields that are of use here; .pages, .is_wal

Pure. Source: SQLite's file format description, section 1.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from sqlitecluster.errors import NotADatabase
from sqlitecluster.units import PAGE_SIZES, Bytes

MAGIC: Final = b"SQLite format 3\0"
HEADER_SIZE: Final = 100

_FIELDS: Final = struct.Struct(">16sHBBB3xIIIIIIIIIIII20xII")


def looks_like_database(raw: Bytes) -> bool:
    """Whether the first 16 bytes are SQLite's."""
    return bytes(raw[:16]) == MAGIC


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseHeader:
    """What a database says about itself."""

    page_size: int  # bytes
    write_version: int  # 1 rollback journal, 2 WAL
    read_version: int
    reserved: int  # bytes at the end of each page that SQLite leaves alone
    change_counter: int
    pages_stored: int  # only to be believed when ``pages`` is not 0
    schema_cookie: int
    user_version: int
    application_id: int
    version_valid_for: int  # the change counter when ``pages_stored`` was written

    @classmethod
    def parse(cls, raw: Bytes) -> Self:
        """Read a header.

        Raises:
            NotADatabase: the magic or the page size is not SQLite's.
        """
        if len(raw) < HEADER_SIZE:
            raise NotADatabase("header", len(raw), f"expected {HEADER_SIZE} bytes")
        magic, size, write, read, reserved, *words = _FIELDS.unpack_from(raw)
        if magic != MAGIC:
            raise NotADatabase("magic", magic, "not a SQLite database")
        page_size = 1 << 16 if size == 1 else size
        if page_size not in PAGE_SIZES:
            raise NotADatabase("page_size", size, "not a SQLite page size")
        return cls(
            page_size=page_size,
            write_version=write,
            read_version=read,
            reserved=reserved,
            change_counter=words[0],
            pages_stored=words[1],
            schema_cookie=words[4],
            user_version=words[9],
            application_id=words[11],
            version_valid_for=words[12],
        )

    @property
    def is_wal(self) -> bool:
        """Whether connections use a write-ahead log."""
        return self.read_version == 2

    @property
    def pages(self) -> int:
        """Size in pages; 0 when the header does not know it (then the file's size counts)."""
        return self.pages_stored if self.change_counter == self.version_valid_for else 0
