"""Spool files: what a rollback-mode commit or a raw write changed, handed from mount to capture.

``<data>/spool/<slot>-<seq>``, little-endian:

    head    magic 8s · flags u32 · range count u32 · database size u64 · XXH3-64 of the table u64
            · WAL generation u64 · drop count u64 (the slot's words when the spool was made)
    table   per range: offset u64 · length u64
    bytes   of every range, in the table's order

Rules:
    1. Written beside and renamed, so that it is whole when it is found. Not synced: after
       a power cut the image is compared instead.
    2. Ranges are read one at a time; the writer may give them lazily.

Written by the mount, read and removed by capture.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from sqlitecluster.errors import CorruptStore
from sqlitecluster.store.disk import translate

FLAG_RAW: Final = 1  # written with neither journal nor WAL
FLAG_TRUNCATED: Final = 2  # the file became shorter
FLAG_HELD: Final = 4  # its journal has not ended: the commit waits for acknowledgements

_MAGIC: Final = b"SCSPOOL1"
_HEAD: Final = struct.Struct("<8sIIQQQQ")
_RANGE: Final = struct.Struct("<QQ")
_MAX_RANGES: Final = 1 << 24
_NAME: Final = re.compile(r"(\d{1,10})-(\d{1,20})")

Source = Callable[[int, int], bytes]
"""Reads (offset, length) of the database file."""


@dataclass(frozen=True, slots=True)
class Spool:
    """One spool file that was opened."""

    path: Path
    flags: int
    db_size: int
    """Bytes of the database file when the spool was made."""
    ranges: tuple[tuple[int, int], ...]
    """(offset, length) of each range."""
    wal_gen: int = 0
    """``WAL_GEN`` at that moment: WAL contents up to it are older than this spool."""
    gone_seq: int = 0
    """``GONE_SEQ`` at that moment: drops up to it are older than this spool."""

    @property
    def is_raw(self) -> bool:
        """Whether it comes from a write without journal or WAL."""
        return bool(self.flags & FLAG_RAW)

    @property
    def is_held(self) -> bool:
        """Its commit waits for acknowledgements; its journal has not ended."""
        return bool(self.flags & FLAG_HELD)

    def places(self) -> Iterator[tuple[int, int, int]]:
        """(offset in the database, length, offset in this file) of each range."""
        at = _HEAD.size + _RANGE.size * len(self.ranges)
        for offset, length in self.ranges:
            yield offset, length, at
            at += length

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of each range.

        Raises:
            CorruptStore: the file ends early.
        """
        with open(self.path, "rb") as file:
            file.seek(_HEAD.size + _RANGE.size * len(self.ranges))
            for offset, length in self.ranges:
                data = file.read(length)
                if len(data) != length:
                    raise CorruptStore(f"{self.path}: ends inside a range")
                yield offset, data


def spool_path(root: Path, slot: int, seq: int) -> Path:
    """Where the spool of a slot and sequence number is, below the data or (small ones) the runtime directory."""
    return root / "spool" / f"{slot}-{seq}"


def list_spools(root: Path) -> list[tuple[int, int, Path]]:
    """(slot, seq, path) of all finished spools, in order; unfinished ones are left alone."""
    try:
        entries = list(os.scandir(root / "spool"))
    except FileNotFoundError:
        return []
    found = [(match, entry) for entry in entries if (match := _NAME.fullmatch(entry.name))]
    return sorted((int(match[1]), int(match[2]), Path(entry.path)) for match, entry in found)


def write_spool(
    path: Path,
    ranges: Sequence[tuple[int, bytes | memoryview]],
    db_size: int,
    flags: int = 0,
    *,
    wal_gen: int = 0,
    gone_seq: int = 0,
) -> None:
    """Write a spool of ranges that are in memory.

    Raises:
        NoSpace: the disk is full; no spool was made.
    """
    table = [(offset, len(data)) for offset, data in ranges]
    _write(path, table, (data for _offset, data in ranges), db_size, flags, (wal_gen, gone_seq))


def copy_spool(
    path: Path,
    ranges: Sequence[tuple[int, int]],
    read: Source,
    db_size: int,
    flags: int = 0,
    *,
    wal_gen: int = 0,
    gone_seq: int = 0,
) -> None:
    """Write a spool of (offset, length) ranges of a file, in pieces of 1 MiB; what lies beyond its end is left out.

    Raises:
        NoSpace: the disk is full; no spool was made.
    """
    table = [(offset, min(length, db_size - offset)) for offset, length in ranges if offset < db_size]
    _write(path, table, _pieces(table, read), db_size, flags, (wal_gen, gone_seq))


def read_spool(path: Path) -> Spool:
    """Open a spool file.

    Raises:
        CorruptStore: it is not one, or it is damaged.
        FileNotFoundError: there is none.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD.size)
        if len(head) != _HEAD.size:
            raise CorruptStore(f"{path}: too short for a spool")
        magic, flags, count, db_size, digest, wal_gen, gone_seq = _HEAD.unpack(head)
        if magic != _MAGIC or count > _MAX_RANGES:
            raise CorruptStore(f"{path}: not a spool")
        table = file.read(_RANGE.size * count)
        if xxhash.xxh3_64_intdigest(table) != digest:
            raise CorruptStore(f"{path}: the table of ranges is damaged")
        ranges = tuple(_RANGE.iter_unpack(table))
        if os.fstat(file.fileno()).st_size != _HEAD.size + len(table) + sum(length for _offset, length in ranges):
            raise CorruptStore(f"{path}: size does not fit its table")
    return Spool(path, flags, db_size, ranges, wal_gen, gone_seq)


def _pieces(table: Sequence[tuple[int, int]], read: Source) -> Iterator[bytes]:
    for offset, length in table:
        done = 0
        while done < length:
            data = read(offset + done, min(1 << 20, length - done))
            if not data:  # the file became shorter under us: zeros keep the table true
                data = bytes(min(1 << 20, length - done))
            yield data
            done += len(data)


def _write(
    path: Path,
    table: Sequence[tuple[int, int]],
    pieces: Iterator[bytes | memoryview],
    db_size: int,
    flags: int,
    order: tuple[int, int],
) -> None:
    packed = b"".join(_RANGE.pack(*each) for each in table)
    head = _HEAD.pack(_MAGIC, flags, len(table), db_size, xxhash.xxh3_64_intdigest(packed), *order)
    temporary = f"{path}.tmp"
    try:
        # Part of a commit in rollback mode: as few system calls as can be.
        fd = _create(temporary)
        try:
            _write_all(fd, head + packed + next(pieces, b""))
            for piece in pieces:
                _write_all(fd, piece)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise translate(error) from error


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o600)


def _write_all(fd: int, data: bytes | memoryview) -> None:
    while (done := os.write(fd, data)) < len(data):
        data = memoryview(data)[done:]
