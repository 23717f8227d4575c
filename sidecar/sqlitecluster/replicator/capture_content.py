"""One content of a write-ahead log, opened for capture: its file, generation and cursor.

A new content begins with each rewrite of the WAL header (new salts) and with each new
file; the mount counts them as ``WAL_GEN``. Used by ``capture_wal`` and ``capture_image``.

Rules:
    1. The file behind the mount is read, never the mount itself.
    2. Capture continues at the store's WAL mark when the salts are the same, else at the
       first frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sqlitecluster.errors import WALError
from sqlitecluster.replicator.capture_group import Cursor
from sqlitecluster.sqlitefmt import wal
from sqlitecluster.store.database import WalMark

WINDOW: Final = 4 << 20
"""Bytes of frames looked at in one go; a larger transaction is captured in a stream."""


@dataclass(frozen=True, slots=True)
class Window:
    """Frames read at a cursor."""

    cursor: Cursor
    data: bytes
    found: wal.Scan
    wanted: int
    """Whole frames that were asked for."""

    @property
    def is_broken(self) -> bool:
        """Whether the chain ends before what was asked for."""
        return self.found.valid < self.wanted

    def reaches(self, end: int) -> bool:
        """Whether this is all there is before byte ``end``."""
        return self.is_broken or self.cursor.end + self.wanted * self.cursor.frame_size >= end

    @property
    def after(self) -> Cursor:
        """The cursor behind its last valid frame."""
        return self.cursor.after(self.found, self.found.valid)


class WalContent:
    """An open WAL; ``cursor`` moves as frames are captured."""

    def __init__(self, fd: int, generation: int, cursor: Cursor) -> None:
        self.fd = fd
        self.generation = generation
        self.cursor = cursor
        self.overlay: tuple[int, bytes] | None = None
        """(offset, bytes) that the mount holds back: read as if they were written."""

    @classmethod
    def open(cls, path: Path, generation: int, mark: WalMark | None) -> WalContent | None:
        """Open at the mark; None while there is no valid header."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            start = Cursor.start(wal.WALHeader.parse(os.pread(fd, wal.HEADER_SIZE, 0)))
        except WALError:
            os.close(fd)
            return None
        return cls(fd, generation, _continued(fd, start, mark) or start)

    def read(self, end: int, cursor: Cursor | None = None) -> Window:
        """The frames from the cursor up to byte ``end``, at most one window of them, verified."""
        cursor = cursor or self.cursor
        count = max(1, min(end - cursor.end, WINDOW) // cursor.frame_size)
        data = self.bytes_at(cursor.end, count * cursor.frame_size)
        return Window(cursor, data, wal.scan(data, cursor.header, cursor.seed), count)

    def bytes_at(self, at: int, size: int) -> bytes:
        """Bytes of the log, those that are held back included."""
        data = os.pread(self.fd, size, at)
        return data if self.overlay is None else _laid_over(data, at, size, *self.overlay)

    def windows(self, end: int, cursor: Cursor) -> Iterator[Window]:
        """All valid frames from ``cursor`` to ``end``, window after window."""
        while cursor.end < end:
            window = self.read(end, cursor)
            if not window.found.valid:
                return
            yield window
            if window.is_broken:
                return
            cursor = window.after

    def has_last(self) -> bool:
        """Whether the frame before the cursor is still the one that was captured."""
        cursor = self.cursor
        if cursor.end == wal.HEADER_SIZE:
            return True
        raw = os.pread(self.fd, wal.FRAME_HEADER_SIZE, cursor.end - cursor.frame_size)
        if len(raw) < wal.FRAME_HEADER_SIZE:
            return True  # cut: a new content begins
        head = wal.FrameHeader.parse(raw)
        return (head.checksum1, head.checksum2) == cursor.seed

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


def _laid_over(data: bytes, start: int, size: int, at: int, held: bytes) -> bytes:
    """``data``, read at ``start``, with what is held back at ``at``."""
    low, high = max(at, start), min(at + len(held), start + size)
    if low >= high:
        return data
    patched = bytearray(data.ljust(high - start, b"\0"))
    patched[low - start : high - start] = held[low - at : high - at]
    return bytes(patched)


def _continued(fd: int, start: Cursor, mark: WalMark | None) -> Cursor | None:
    """The cursor at the mark when it belongs to this content and lies behind one of its frames."""
    if mark is None or (mark.salt1, mark.salt2) != (start.header.salt1, start.header.salt2):
        return None
    frames, rest = divmod(mark.end - wal.HEADER_SIZE, start.frame_size)
    if frames < 1 or rest:
        return None
    raw = os.pread(fd, wal.FRAME_HEADER_SIZE, mark.end - start.frame_size)
    if len(raw) < wal.FRAME_HEADER_SIZE:
        return replace(start, end=mark.end, seed=(0, 0))  # the file lost its end: nothing continues there
    head = wal.FrameHeader.parse(raw)
    return replace(start, end=mark.end, seed=(head.checksum1, head.checksum2))
