"""One record of the node's log: a 40-byte head, the database's name, the LTX bytes.

    magic 4s · kind u8 · 0 u8 · name length u16 · blob length u32 · 0 u32
    · segment u64 · sequence u64 · XXH3-64 of all of it u64        (little-endian)

The segment's number is part of what is hashed, so a recycled segment file holds no
valid record of its former life. A segment that was left in order ends with an END
record or at the end of its file. Pure; used by ``log`` and ``logscan``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import xxhash

MAGIC: Final = b"SCL1"
KIND_LTX: Final = 1
KIND_END: Final = 2
HEAD_SIZE: Final = 40

_HEAD: Final = struct.Struct("<4sBBHIIQQ")
_DIGEST: Final = struct.Struct("<Q")
_pack = _HEAD.pack
_pack_digest = _DIGEST.pack
_hash = xxhash.xxh3_64_intdigest


@dataclass(frozen=True, slots=True)
class Record:
    """Where one logged LTX blob is."""

    kind: int
    name: bytes
    sequence: int
    blob_at: int
    """Offset in the segment file."""
    blob_size: int

    @property
    def end(self) -> int:
        """Offset behind the record."""
        return self.blob_at + self.blob_size


def head(kind: int, name: bytes, blob: bytes | memoryview, segment: int, sequence: int) -> bytes:
    """The bytes before the blob: head and name."""
    packed = _pack(MAGIC, kind, 0, len(name), len(blob), 0, segment, sequence)
    return packed + _pack_digest(_hash(blob, _hash(packed + name))) + name


def parse(data: memoryview, at: int, segment: int) -> Record | None:
    """The record at an offset of a segment; None when there is no whole and valid one."""
    if at + HEAD_SIZE > len(data):
        return None
    magic, kind, zero, name_size, blob_size, zero2, number, sequence = _HEAD.unpack_from(data, at)
    if magic != MAGIC or number != segment or zero or zero2 or kind not in (KIND_LTX, KIND_END):
        return None
    blob_at = at + HEAD_SIZE + name_size
    if blob_at + blob_size > len(data):
        return None
    name = bytes(data[at + HEAD_SIZE : blob_at])
    seed = _hash(bytes(data[at : at + _HEAD.size]) + name)
    if _hash(data[blob_at : blob_at + blob_size], seed) != _DIGEST.unpack_from(data, at + _HEAD.size)[0]:
        return None
    return Record(kind, name, sequence, blob_at, blob_size)


def looks_torn(data: memoryview, at: int, segment: int) -> bool:
    """Whether a record of this very segment starts here without being whole."""
    if at + _HEAD.size > len(data):
        return at < len(data) and bytes(data[at : at + 4]) == MAGIC
    fields = _HEAD.unpack_from(data, at)
    return bool(fields[0] == MAGIC and fields[6] == segment)
