"""Ids, quantities, limits and names that every package shares.

    TXID PageNo Checksum NodeID Epoch     NewTypes over int
    Bytes                                 bytes | bytearray | memoryview: what holds pages
    LIMITS                                every limit on input, with its reason
    PAGE_SIZES, lock_page(page_size)      SQLite's page sizes; the page that is never stored
    format_txid / parse_txid              16 lower-case hex digits (also for checksums)
    format_position / parse_position      "TXID/CHECKSUM", 33 characters
    format_node_id / parse_node_id        16 upper-case hex digits
    valid_database_name / check_database_name, encode_name / decode_name (percent-encoded UTF-8)

Rules: pure; imports only ``errors``; raises FormatError for texts, BadName for names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NewType
from urllib.parse import quote, unquote

from sqlitecluster.errors import BadName, FormatError

TXID = NewType("TXID", int)
PageNo = NewType("PageNo", int)  # 1-based
Checksum = NewType("Checksum", int)  # bit 63 set on every real one, so that 0 means "none"
NodeID = NewType("NodeID", int)
Epoch = NewType("Epoch", int)
Bytes = bytes | bytearray | memoryview

PAGE_SIZES: Final = frozenset(1 << n for n in range(9, 17))  # bytes: 512 … 65536
MAX_TXID: Final = (1 << 64) - 1
MAX_PAGES: Final = 0xFFFF_FFFE  # SQLite's own limit (SQLITE_MAX_PAGE_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is accepted from outside; anything beyond is a LimitError before memory is taken."""

    database_bytes: int = 1 << 44
    """Commit times page size of an LTX header: SQLite itself stops at 256 TiB, nobody gets past 16 TiB."""
    ltx_bytes: int = 1 << 31
    """An LTX file decoded whole in memory; larger ones go through the streaming Decoder."""
    lz4_frame_header_bytes: int = 19
    """Magic, descriptor, content size and dictionary id: the longest legal LZ4 frame header."""
    index_entry_bytes: int = 30
    """Three varints of at most 10 bytes: one entry of an LTX page index."""
    compact_sources: int = 4096
    """Files merged in one pass; each holds one page in memory."""
    journal_records: int = MAX_PAGES
    """Records that a rollback journal's header may announce."""
    name_parts: int = 8
    """Parts of a database name: deep enough for every program seen, shallow enough for one readdir."""
    name_part_bytes: int = 127
    """Characters of one part."""
    file_name_bytes: int = 255
    """Bytes of an encoded name: the longest file name that file systems take; shared memory has 1,024 for it."""


LIMITS: Final = Limits()

_NAME: Final = re.compile(r"(?!\.)[^/]{1,127}(?:/(?!\.)[^/]{1,127}){0,7}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9._/-]*")
_RESERVED: Final = ("-journal", "-wal", "-shm", "-pos", "-lock")
_SUPER_JOURNAL: Final = re.compile(r".*-mj[0-9A-F]{6}9[0-9A-F]{2}")  # as SQLite's vdbeCommit names them
_HEX16: Final = re.compile(r"[0-9a-fA-F]{16}")


def lock_page(page_size: int) -> int:
    """The page that holds SQLite's lock bytes (at 1 GiB); it has no content and is never stored."""
    return 0x4000_0000 // page_size + 1


def valid_database_name(name: str) -> bool:
    """Whether a path below the mount may be a replicated database."""
    return (
        _NAME.fullmatch(name) is not None
        and name.isprintable()  # and so it is UTF-8, and one line of a log
        and "\ufffd" not in name  # what stands for bytes that are no UTF-8
        and not name.endswith(_RESERVED)
        and _SUPER_JOURNAL.fullmatch(name) is None
        and len(encode_name(name)) <= LIMITS.file_name_bytes
    )


def check_database_name(name: str) -> str:
    """Return the name; raise BadName, which says what is allowed, unless it is legal."""
    if not valid_database_name(name):
        raise BadName(f"{name[:200]!r} is not a database name. {BadName.meaning}")
    return name


def encode_name(name: str) -> str:
    """A database name as one file name or object key part: ``sub/my data.db`` is ``sub%2Fmy%20data.db``."""
    if _PLAIN.fullmatch(name):
        return name.replace("/", "%2F")
    return quote(name, safe="")


def decode_name(encoded: str) -> str:
    """The inverse of ``encode_name``; raises BadName when the result is no database name."""
    name = check_database_name(unquote(encoded, errors="replace"))
    if encode_name(name) != encoded:
        raise BadName(f"{encoded[:200]!r} is not an encoded database name. {BadName.meaning}")
    return name


def format_txid(value: int) -> str:
    """16 lower-case hex digits; also the text form of a checksum."""
    return f"{value:016x}"


format_checksum = format_txid


def parse_txid(text: str) -> TXID:
    """Read 16 hex digits.

    Raises:
        FormatError: any other text.
    """
    return TXID(_parse_hex("txid", text))


def parse_checksum(text: str) -> Checksum:
    """Read 16 hex digits.

    Raises:
        FormatError: any other text.
    """
    return Checksum(_parse_hex("checksum", text))


def format_position(txid: int, checksum: int) -> str:
    """``TXID/CHECKSUM``: 33 characters, as LiteFS writes it."""
    return f"{txid:016x}/{checksum:016x}"


def parse_position(text: str) -> tuple[TXID, Checksum]:
    """Read ``TXID/CHECKSUM``.

    Raises:
        FormatError: any other text.
    """
    txid, slash, checksum = text.partition("/")
    if not slash:
        raise FormatError("position", text[:64], "expected TXID/CHECKSUM, 16 hex digits each")
    return parse_txid(txid), parse_checksum(checksum)


def format_node_id(value: int) -> str:
    """16 upper-case hex digits."""
    return f"{value:016X}"


def parse_node_id(text: str) -> NodeID:
    """Read 16 hex digits.

    Raises:
        FormatError: any other text.
    """
    return NodeID(_parse_hex("node id", text))


def _parse_hex(field: str, text: str) -> int:
    if _HEX16.fullmatch(text) is None:
        raise FormatError(field, text[:64], "expected 16 hex digits")
    return int(text, 16)
