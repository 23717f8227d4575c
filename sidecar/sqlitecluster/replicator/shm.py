"""A database's wal-index (``-shm``), mapped shared with every program that has it open.

Used by ``walwriter`` and ``checkpoint``; made by ``walsession`` under the DMS lock.

Rules:
    1. Frames are entered first, then header copy 1, then copy 0: SQLite's own order
       (``walIndexWriteHdr``). A reader that sees two equal copies sees everything else.
    2. Shared words are stored by aligned single stores or one ``memcpy``; never by
       ``struct.pack_into``, which zeroes first.
    3. Only the holder of WRITE calls ``append``, ``cleanup``, ``publish``; only the
       holder of CKPT moves the backfill words.
    4. Index bytes are in this machine's byte order, salts are the file's raw bytes.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.errors import WALError
from sqlitecluster.replicator import walfile

REGION: Final = 32768
SLOTS: Final = 8192
ENTRIES: Final = 4096
FIRST_ENTRIES: Final = 4062
HASH_AT: Final = 16384
HASH_FACTOR: Final = 383
NOT_USED: Final = 0xFFFF_FFFF
MARKS: Final = 5

_HEADER: Final = struct.Struct("=IIIBBHII8s8s")  # 40 bytes, before its checksum
_HEADER_SIZE: Final = 48
_PAIR: Final = struct.Struct("=II")
_BACKFILL: Final = 24  # u32 index of nBackfill
_MARK: Final = 25
_ATTEMPTED: Final = 32
_FIRST_PGNO: Final = 34


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """What the wal-index publishes: the log up to here is committed."""

    change: int
    page_size: int
    mx_frame: int
    pages: int
    """Database size in pages; 0 only while nothing was ever published."""
    checksum: tuple[int, int]
    """Running checksum of frame ``mx_frame``."""
    salt: bytes
    big_endian: bool

    def pack(self) -> bytes:
        big = int(self.big_endian)
        size = 1 if self.page_size == 65536 else self.page_size
        frame = struct.pack("=II", *self.checksum)
        raw = _HEADER.pack(
            walfile.VERSION, 0, self.change & NOT_USED, 1, big, size, self.mx_frame, self.pages, frame, self.salt
        )
        return raw + _PAIR.pack(*walfile.checksum(raw, walfile.NATIVE_BIG_ENDIAN))

    @classmethod
    def parse(cls, raw: bytes) -> IndexHeader | None:
        """None when it is not initialised or its checksum is wrong."""
        version, _unused, change, ready, big, size, mx, pages, frame, salt = _HEADER.unpack_from(raw)
        if not ready or version != walfile.VERSION:
            return None
        if _PAIR.unpack_from(raw, 40) != walfile.checksum(raw[:40], walfile.NATIVE_BIG_ENDIAN):
            return None
        s0, s1 = _PAIR.unpack(frame)
        return cls(change, 65536 if size == 1 else size, mx, pages, (s0, s1), salt, bool(big))


class WalIndex:
    """A mapped ``-shm`` file; regions of 32 KiB are mapped as they are needed."""

    def __init__(self, fd: int) -> None:
        """Map the first region; the file is extended where it is shorter. DMS must be held."""
        self._fd = fd
        self._growing = threading.Lock()
        self._free: dict[int, int] = {}
        """Where the search for a free hash slot goes on, by the slot where it begins. A page that changes in each
        transaction has a chain of all its frames; without this each append would walk it from its beginning."""
        self._next = 0
        self._maps: list[mmap.mmap] = []
        self._bytes: list[memoryview] = []
        self._hash: list[memoryview] = []
        self._pgnos: list[memoryview] = []
        self._map_region(0)
        self._info = self._bytes[0].cast("I")
        self._header = self._bytes[0]

    def close(self) -> None:
        """Unmap. The descriptor stays open: it carries locks."""
        self._info.release()
        for views in (self._pgnos, self._hash, self._bytes):
            for view in views:
                view.release()
        for mapped in self._maps:
            mapped.close()
        self._maps.clear()

    # header and checkpoint words

    def read(self) -> IndexHeader | None:
        """The published header; None while it is invalid or being changed."""
        first = bytes(self._header[:_HEADER_SIZE])
        fence()
        if bytes(self._header[_HEADER_SIZE : 2 * _HEADER_SIZE]) != first:
            return None
        return IndexHeader.parse(first)

    def publish(self, header: IndexHeader) -> None:
        """Make ``header`` what new readers see."""
        raw = header.pack()
        fence()
        self._header[_HEADER_SIZE : 2 * _HEADER_SIZE] = raw
        fence()
        self._header[:_HEADER_SIZE] = raw
        fence()

    def invalidate(self) -> None:
        """Zero the header: no reader can start until the next ``publish`` (under DMS exclusive only)."""
        self._header[: 2 * _HEADER_SIZE] = bytes(2 * _HEADER_SIZE)
        fence()

    @property
    def backfilled(self) -> int:
        """Frames that are in the database file already."""
        return self._info[_BACKFILL]

    @backfilled.setter
    def backfilled(self, frame: int) -> None:
        fence()
        self._info[_BACKFILL] = frame

    @property
    def attempted(self) -> int:
        return self._info[_ATTEMPTED]

    @attempted.setter
    def attempted(self, frame: int) -> None:
        self._info[_ATTEMPTED] = frame
        fence()

    def mark(self, reader: int) -> int:
        """The frame up to which readers of READ<reader> read."""
        return self._info[_MARK + reader]

    def set_mark(self, reader: int, frame: int) -> None:
        """Needs READ<reader> exclusively."""
        self._info[_MARK + reader] = frame

    def reset_after_rebuild(self, mx_frame: int) -> None:
        """Marks as SQLite's walIndexRecover leaves them; needs every READ lock exclusively."""
        self._reset(attempted=mx_frame, mark0=True, mark1=mx_frame or NOT_USED)

    def reset_after_restart(self) -> None:
        """Marks as SQLite's walRestartHdr leaves them; needs READ1 … READ4 exclusively."""
        self._reset(attempted=0, mark0=False, mark1=0)

    def _reset(self, *, attempted: int, mark0: bool, mark1: int) -> None:
        self.backfilled = 0
        self.attempted = attempted
        if mark0:
            self._info[_MARK] = 0
        self._info[_MARK + 1] = mark1
        for reader in range(2, MARKS):
            self._info[_MARK + reader] = NOT_USED
        fence()

    # frames

    def append(self, first_frame: int, pgnos: Sequence[int]) -> None:
        """Enter frames ``first_frame`` … for these pages; leftovers of a dead writer there are removed."""
        frame = first_frame
        region, at, _zero = _place(frame)
        if frame != self._next:  # not where the last call stopped
            self._free.clear()
        table, pages = self._region(region)
        for pgno in pgnos:
            if at == _entries(region):
                region, at = region + 1, 0
                table, pages = self._region(region)
            if at == 0:
                self._zero_region(region)
                self._free.clear()
            elif pages[at]:
                self.cleanup(frame - 1)
            home = (pgno * HASH_FACTOR) & (SLOTS - 1)
            key = self._free.get(home, home)
            left = at + 1
            while table[key]:
                left -= 1
                if left < 0:
                    raise WALError("wal-index", region, "the hash table is full of foreign entries")
                key = (key + 1) & (SLOTS - 1)
            pages[at] = pgno
            table[key] = at + 1
            self._free[home] = (key + 1) & (SLOTS - 1)
            at += 1
            frame += 1
        self._next = frame

    def cleanup(self, mx_frame: int) -> None:
        """Remove entries beyond ``mx_frame`` from its region (SQLite's walCleanupHash)."""
        if mx_frame == 0:
            return
        self._free.clear()
        region, at, _zero = _place(mx_frame)
        table, pages = self._region(region)
        limit = at + 1
        view = np.frombuffer(table, dtype=np.uint16)
        view[view > limit] = 0
        np.frombuffer(pages, dtype=np.uint32)[limit:] = 0

    def lookup(self, pgno: int, mx_frame: int, first: int = 1) -> int:
        """Newest frame of ``pgno`` in ``first`` … ``mx_frame``; 0 when there is none."""
        if mx_frame == 0:
            return 0
        for region in range(_place(mx_frame)[0], _place(max(first, 1))[0] - 1, -1):
            table, pages = self._region(region)
            zero = _zero(region)
            key = (pgno * HASH_FACTOR) & (SLOTS - 1)
            best = 0
            for _ in range(SLOTS):
                entry = table[key]
                if not entry:
                    break
                if first <= zero + entry <= mx_frame and pages[entry - 1] == pgno:
                    best = max(best, zero + entry)
                key = (key + 1) & (SLOTS - 1)
            if best:
                return best
        return 0

    def pgnos(self, mx_frame: int) -> npt.NDArray[np.uint32]:
        """Page numbers of frames 1 … ``mx_frame``, copied."""
        if mx_frame == 0:
            return np.zeros(0, np.uint32)
        parts = []
        for region in range(_place(mx_frame)[0] + 1):
            _table, pages = self._region(region)
            parts.append(np.frombuffer(pages, dtype=np.uint32)[: mx_frame - _zero(region)])
        return np.concatenate(parts)

    # regions

    def _region(self, index: int) -> tuple[memoryview, memoryview]:
        if index >= len(self._pgnos):
            with self._growing:  # a backfill may run beside apply
                while index >= len(self._pgnos):
                    self._map_region(len(self._pgnos))
        return self._hash[index], self._pgnos[index]

    def _map_region(self, index: int) -> None:
        end = (index + 1) * REGION
        size = max(os.fstat(self._fd).st_size, index * REGION)
        if size < end:
            # Written, not just extended: on a full disk this fails here and not at a later store.
            os.pwrite(self._fd, bytes(end - size), size)
        mapped = mmap.mmap(self._fd, REGION, offset=index * REGION)
        view = memoryview(mapped)
        self._maps.append(mapped)
        self._bytes.append(view)
        self._hash.append(view[HASH_AT:].cast("H"))
        start = _FIRST_PGNO * 4 if index == 0 else 0
        self._pgnos.append(view[start:HASH_AT].cast("I"))

    def _zero_region(self, index: int) -> None:
        start = _FIRST_PGNO * 4 if index == 0 else 0
        self._bytes[index][start:] = bytes(REGION - start)


def _entries(region: int) -> int:
    return FIRST_ENTRIES if region == 0 else ENTRIES


def _zero(region: int) -> int:
    return 0 if region == 0 else FIRST_ENTRIES + (region - 1) * ENTRIES


def _place(frame: int) -> tuple[int, int, int]:
    """(region, index within it, frames before it) of a frame."""
    region = (frame + ENTRIES - FIRST_ENTRIES - 1) // ENTRIES
    zero = _zero(region)
    return region, frame - zero - 1, zero


_NEEDS_FENCE: Final = platform.machine() not in ("x86_64", "AMD64", "i686")
_fences: Final = threading.local()


def fence() -> None:
    """Order stores before against stores after; x86 keeps that order by itself.

    Elsewhere two rounds of a lock: the release of the first and the acquire of the
    second cannot pass each other.
    """
    if not _NEEDS_FENCE:
        return
    lock = getattr(_fences, "lock", None)
    if lock is None:
        lock = _fences.lock = threading.Lock()
    for _ in range(2):
        lock.acquire()
        lock.release()
