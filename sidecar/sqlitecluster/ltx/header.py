"""LTX header (first 100 bytes) and trailer (last 16 bytes), big-endian, the same in every generation.

    Header.parse(raw) / .pack()      100 bytes; both run ``check``
    Trailer.parse(raw) / .pack()     16 bytes; ``check(header)`` compares it with the header

Rules: pure; what would not be read is never written. ``min_txid == 1`` makes a file a
snapshot: it holds every page and has no checksum from before.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from sqlitecluster.errors import LimitError, LTXError
from sqlitecluster.ltx.checksum import CHECKSUM_FLAG
from sqlitecluster.ltx.generation import FLAG_COMPRESSED, FLAG_NO_CHECKSUM, Generation
from sqlitecluster.units import LIMITS, PAGE_SIZES, lock_page

MAGIC: Final = b"LTX1"
HEADER_SIZE: Final = 100
TRAILER_SIZE: Final = 16
MIN_FILE_SIZE: Final = HEADER_SIZE + 4 + TRAILER_SIZE

_HEADER: Final = struct.Struct(">4sIIIQQqQqqIIQ20s")
_TRAILER: Final = struct.Struct(">QQ")
_RESERVED: Final = bytes(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one LTX file says about itself before its first page."""

    page_size: int  # bytes
    commit: int  # pages of the database after this file; 0 means "database deleted"
    min_txid: int
    max_txid: int
    timestamp_ms: int  # since the Unix epoch; informative, never compared
    pre_apply: int  # database checksum before; 0 on a snapshot
    flags: int = 0
    wal_offset: int = 0  # bytes; 0 when the transaction came from a rollback journal
    wal_size: int = 0  # bytes
    wal_salt1: int = 0
    wal_salt2: int = 0
    node_id: int = 0  # 0 after compaction

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a header.

        Raises:
            LTXError: a field is not legal in any generation.
            LimitError: the database would be absurdly large.
        """
        if len(raw) != HEADER_SIZE:
            raise LTXError("header", len(raw), f"expected {HEADER_SIZE} bytes")
        magic, flags, page_size, commit, low, high, time, pre, offset, size, salt1, salt2, node, rest = _HEADER.unpack(
            raw
        )
        if magic != MAGIC:
            raise LTXError("magic", magic, f"expected {MAGIC!r}")
        if rest != _RESERVED:
            raise LTXError("reserved", rest, "expected zeros")
        header = cls(
            flags=flags,
            page_size=page_size,
            commit=commit,
            min_txid=low,
            max_txid=high,
            timestamp_ms=time,
            pre_apply=pre,
            wal_offset=offset,
            wal_size=size,
            wal_salt1=salt1,
            wal_salt2=salt2,
            node_id=node,
        )
        header.check(Generation.G1 if flags & FLAG_COMPRESSED else None)
        return header

    def pack(self, generation: Generation = Generation.G3B) -> bytes:
        """The 100 bytes of this header; raises like ``parse``."""
        self.check(generation)
        try:
            return self._pack()
        except struct.error as wrong:
            raise LTXError("header", str(wrong), "a field does not fit its size") from None

    def _pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC,
            self.flags,
            self.page_size,
            self.commit,
            self.min_txid,
            self.max_txid,
            self.timestamp_ms,
            self.pre_apply,
            self.wal_offset,
            self.wal_size,
            self.wal_salt1,
            self.wal_salt2,
            self.node_id,
            _RESERVED,
        )

    @property
    def is_snapshot(self) -> bool:
        """Whether the file stands for itself: it holds every page."""
        return self.min_txid == 1

    @property
    def is_tracked(self) -> bool:
        """Whether database checksums are kept (they are in every file of ours)."""
        return not self.flags & FLAG_NO_CHECKSUM

    @property
    def lock_page(self) -> int:
        """Number of the page that is never stored."""
        return lock_page(self.page_size)

    @property
    def snapshot_pages(self) -> int:
        """Pages that a snapshot of this size holds."""
        return self.commit - (self.commit >= self.lock_page)

    def check(self, generation: Generation | None = None) -> None:
        """Raise unless every field is legal; ``None`` accepts what any generation allows."""
        if self.flags & ~(Generation.G1 if generation is None else generation).flag_mask:
            raise LTXError("flags", self.flags, "unknown flag")
        if self.page_size not in PAGE_SIZES:
            raise LTXError("page_size", self.page_size, "not a SQLite page size")
        if self.commit * self.page_size > LIMITS.database_bytes:
            raise LimitError(f"LTX: a database of {self.commit} pages of {self.page_size} bytes is not accepted")
        if not 1 <= self.min_txid <= self.max_txid:
            raise LTXError("min_txid", self.min_txid, f"not within 1 to {self.max_txid}")
        self._check_pre_apply()
        if self.wal_offset or self.wal_size or self.wal_salt1 or self.wal_salt2:
            self._check_wal(generation)

    def _check_pre_apply(self) -> None:
        if self.min_txid == 1 or self.flags & FLAG_NO_CHECKSUM:
            if self.pre_apply:
                raise LTXError("pre_apply", self.pre_apply, "must be 0 on a snapshot and without tracking")
        elif not self.pre_apply & CHECKSUM_FLAG:
            raise LTXError("pre_apply", self.pre_apply, "presence bit is missing")

    def _check_wal(self, generation: Generation | None) -> None:
        if self.wal_offset < 0 or self.wal_size < 0:
            raise LTXError("wal_offset", self.wal_offset, "negative offset or size")
        if not self.wal_offset:
            raise LTXError("wal_offset", 0, "must not be 0 when a size or salts are given")
        if generation is Generation.G1 and not self.wal_size:
            raise LTXError("wal_size", 0, "must not be 0 when an offset is given")


@dataclass(frozen=True, slots=True)
class Trailer:
    """What one LTX file says after its last page."""

    post_apply: int  # database checksum after this file; 0 when not tracked
    file_checksum: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a trailer; ``check`` compares it with the header."""
        if len(raw) != TRAILER_SIZE:
            raise LTXError("trailer", len(raw), f"expected {TRAILER_SIZE} bytes")
        return cls(*_TRAILER.unpack(raw))

    def pack(self) -> bytes:
        """The 16 bytes of this trailer."""
        return _TRAILER.pack(self.post_apply, self.file_checksum)

    def check(self, header: Header) -> None:
        """Raise LTXError unless the trailer fits the header."""
        check_post_apply(header, self.post_apply)
        if not self.file_checksum & CHECKSUM_FLAG:
            raise LTXError("file_checksum", self.file_checksum, "presence bit is missing")


def check_post_apply(header: Header, post_apply: int) -> None:
    """Raise LTXError unless the database checksum after a file fits the file's header."""
    if not header.is_tracked:
        if post_apply:
            raise LTXError("post_apply", post_apply, "must be 0 without tracking")
    elif not post_apply & CHECKSUM_FLAG:
        raise LTXError("post_apply", post_apply, "presence bit is missing")
    elif not header.commit and post_apply != CHECKSUM_FLAG:
        raise LTXError("post_apply", post_apply, "must be the bare flag when the database is deleted")
