"""The wal-index (``-shm``): header, checkpoint information and hash tables, native little-endian.

    IndexHeader.parse(raw 48 bytes) / .pack()     the two copies at offsets 0 and 48
    read_header(raw >= 96 bytes) -> IndexHeader | None   both copies equal and valid, as SQLite demands it
    CheckpointInfo.parse(raw 40 bytes) / .pack()  at offset 96
    block_count(frames), block_of(frame), block_start(frame_block)   which 32 KiB block holds a frame
    HashBlock(view, block)                        one block, in place: .append(frame, pgno), .find(pgno, min, max)
    build_blocks(pgnos) -> bytearray              a complete index content (header area left zero)
    find_frame(view, pgno, max_frame, min_frame=1) -> int    newest frame of a page, 0 when it has none

Frames are 1-based here, as in wal.c. A block is 32,768 bytes: 4,096 u32 page numbers, then
8,192 u16 hash slots; in block 0 the first 136 bytes are header and checkpoint information, so
that it holds 4,062 frames. Slot of a page: (pgno * 383) & 8191, then the next free one; it
holds the frame's 1-based place in its block.

Rules: pure; ``view`` may be a mapping of the live file, so stores are made in SQLite's order: page
number first, then slot. The caller holds the locks.

Source: wal.c, "WAL-INDEX FILE FORMAT" and walIndexAppend, walFindFrame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from sqlitecluster.errors import WALError
from sqlitecluster.sqlitefmt.walsum import Sum, checksum
from sqlitecluster.units import PAGE_SIZES, Bytes

VERSION: Final = 3_007_000
HEADER_SIZE: Final = 48  # one copy
CHECKPOINT_AT: Final = 96
CHECKPOINT_SIZE: Final = 40
CONTENT_AT: Final = CHECKPOINT_AT + CHECKPOINT_SIZE  # 136: where block 0's page numbers begin

BLOCK_SIZE: Final = 32768
FRAMES_FIRST: Final = 4096 - CONTENT_AT // 4  # 4062
FRAMES_OTHER: Final = 4096
HASH_SLOTS: Final = 8192
HASH_MULTIPLIER: Final = 383
SLOTS_AT: Final = BLOCK_SIZE - HASH_SLOTS * 2  # 16384

READ_MARKS: Final = 5
READ_MARK_UNUSED: Final = 0xFFFF_FFFF

_HEADER: Final = struct.Struct("<IIIBBHIIII8s")
_PAIR: Final = struct.Struct("<II")
_SALTS: Final = struct.Struct(">II")
_CHECKPOINT: Final = struct.Struct("<I5I8sII")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexHeader:
    """One copy of the wal-index header."""

    change: int  # grows with each transaction
    page_size: int  # bytes; 0 on an index without frames
    max_frame: int  # last committed frame; 0: no frames
    pages: int  # size of the database
    frame_checksum: Sum  # running checksum after the last frame
    salt1: int
    salt2: int
    big_endian: bool = False  # byte order of the WAL's checksums
    initialised: bool = True

    @classmethod
    def parse(cls, raw: Bytes) -> Self:
        """Read one copy.

        Raises:
            WALError: version, page size or checksum is wrong, or it is not initialised.
        """
        if len(raw) < HEADER_SIZE:
            raise WALError("index header", len(raw), f"expected {HEADER_SIZE} bytes")
        version, _, change, init, big, size, frames, pages, sum0, sum1, salts = _HEADER.unpack_from(raw)
        if version != VERSION or not init:
            raise WALError("index version", (version, init), f"expected {VERSION} and initialised")
        if _PAIR.unpack_from(raw, 40) != checksum(raw[:40]):
            raise WALError("index checksum", bytes(raw[40:48]), "does not fit the header")
        page_size = size & 0xFE00 | (size & 1) << 16
        if page_size and page_size not in PAGE_SIZES:
            raise WALError("index page size", size, "not a SQLite page size")
        salt1, salt2 = _SALTS.unpack(salts)
        return cls(
            change=change,
            page_size=page_size,
            max_frame=frames,
            pages=pages,
            frame_checksum=(sum0, sum1),
            salt1=salt1,
            salt2=salt2,
            big_endian=bool(big),
        )

    def pack(self) -> bytes:
        """The 48 bytes of one copy; the salts stand in the WAL's byte order, as SQLite copies them."""
        size = self.page_size & 0xFE00 | self.page_size >> 16
        change = self.change & 0xFFFF_FFFF
        salts = _SALTS.pack(self.salt1, self.salt2)
        flags = (int(self.initialised), int(self.big_endian), size)
        raw = _HEADER.pack(VERSION, 0, change, *flags, self.max_frame, self.pages, *self.frame_checksum, salts)
        return raw + _PAIR.pack(*checksum(raw))


def read_header(raw: Bytes) -> IndexHeader | None:
    """The header, if both copies are equal and valid; None while a writer is between them or there is none."""
    if len(raw) < CHECKPOINT_AT or raw[:HEADER_SIZE] != raw[HEADER_SIZE:CHECKPOINT_AT]:
        return None
    try:
        return IndexHeader.parse(raw)
    except WALError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What a checkpointer and readers tell one another."""

    backfilled: int = 0  # frames written back into the database
    read_marks: tuple[int, ...] = field(default=(0,) + (READ_MARK_UNUSED,) * (READ_MARKS - 1))
    backfill_attempted: int = 0

    @classmethod
    def parse(cls, raw: Bytes) -> Self:
        """Read the 40 bytes at offset 96 of the index."""
        if len(raw) < CHECKPOINT_SIZE:
            raise WALError("checkpoint information", len(raw), f"expected {CHECKPOINT_SIZE} bytes")
        backfilled, m0, m1, m2, m3, m4, _, attempted, _ = _CHECKPOINT.unpack_from(raw)
        return cls(backfilled=backfilled, read_marks=(m0, m1, m2, m3, m4), backfill_attempted=attempted)

    def pack(self) -> bytes:
        """The 40 bytes; the lock bytes are 0, nobody reads them."""
        return _CHECKPOINT.pack(self.backfilled, *self.read_marks, bytes(8), self.backfill_attempted, 0)


def block_of(frame: int) -> int:
    """The block that holds a (1-based) frame."""
    return (frame + FRAMES_OTHER - FRAMES_FIRST - 1) // FRAMES_OTHER


def block_count(frames: int) -> int:
    """Blocks of an index of so many frames; at least one."""
    return block_of(max(frames, 1)) + 1


def block_start(block: int) -> int:
    """The number of frames before the first one of a block."""
    return FRAMES_FIRST + (block - 1) * FRAMES_OTHER if block else 0


class HashBlock:
    """One block of the index, read and written in place."""

    def __init__(self, view: memoryview, block: int) -> None:
        """``view``: exactly the block's 32,768 bytes; block 0 includes the header area."""
        if len(view) != BLOCK_SIZE:
            raise WALError("index block", len(view), f"expected {BLOCK_SIZE} bytes")
        self._view = view
        self._first = 0 if block else CONTENT_AT
        self.pgnos = view[self._first : SLOTS_AT].cast("I")
        self.slots = view[SLOTS_AT:].cast("H")
        self.start = block_start(block)

    def append(self, frame: int, pgno: int) -> None:
        """Add a frame; the first one of a block clears it.

        Raises:
            WALError: the block is corrupt, or not the frame's.
        """
        place = frame - self.start
        if not 1 <= place <= len(self.pgnos):
            raise WALError("frame", frame, f"does not belong to the block after frame {self.start}")
        if place == 1:
            self._view[self._first :] = bytes(BLOCK_SIZE - self._first)
        elif self.pgnos[place - 1]:
            self.truncate(frame - 1)  # left over from a writer that died
        slots, key, left = self.slots, pgno * HASH_MULTIPLIER & (HASH_SLOTS - 1), place
        while slots[key]:
            key = (key + 1) & (HASH_SLOTS - 1)
            left -= 1
            if left < 0:
                raise WALError("index block", frame, "hash table is full")
        self.pgnos[place - 1] = pgno
        slots[key] = place

    def truncate(self, frame: int) -> None:
        """Forget every frame after ``frame`` (as walCleanupHash)."""
        limit = max(frame - self.start, 0)
        for key, place in enumerate(self.slots.tolist()):
            if place > limit:
                self.slots[key] = 0
        for place in range(limit, len(self.pgnos)):
            self.pgnos[place] = 0

    def find(self, pgno: int, max_frame: int, min_frame: int = 1) -> int:
        """The newest frame of a page within the range; 0 when there is none here."""
        slots, key, found = self.slots, pgno * HASH_MULTIPLIER & (HASH_SLOTS - 1), 0
        for _ in range(HASH_SLOTS):
            place = slots[key]
            if not place:
                return found
            frame = place + self.start
            if min_frame <= frame <= max_frame and self.pgnos[place - 1] == pgno:
                found = frame  # later slots of a chain hold later frames
            key = (key + 1) & (HASH_SLOTS - 1)
        raise WALError("index block", pgno, "hash table has no free slot")


def build_blocks(pgnos: Sequence[int]) -> bytearray:
    """A whole index for these frames; the first 136 bytes are zero, for header and checkpoint information."""
    content = bytearray(block_count(len(pgnos)) * BLOCK_SIZE)
    view = memoryview(content)
    for number in range(block_count(len(pgnos))):
        block = HashBlock(view[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE], number)
        for place in range(min(len(block.pgnos), len(pgnos) - block.start)):
            block.append(block.start + place + 1, pgnos[block.start + place])
    return content


def find_frame(view: memoryview, pgno: int, max_frame: int, min_frame: int = 1) -> int:
    """The newest frame of a page in a whole index; 0 when the page has none in the range."""
    for number in range(block_of(max(max_frame, 1)), block_of(max(min_frame, 1)) - 1, -1):
        block = HashBlock(view[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE], number)
        found = block.find(pgno, max_frame, min_frame)
        if found:
            return found
    return 0
