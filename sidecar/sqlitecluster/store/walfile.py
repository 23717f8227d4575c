"""Which pages a WAL file on disk holds: newest committed frame of each, found by its checksums alone.

Needs no wal-index and no lock; reads in pieces of 1 MiB and continues where it stopped.

Called by recovery (nobody else has the file open), snapshots and the verifier (which check
every page against its checksum afterwards).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlitecluster.errors import WALError
from sqlitecluster.sqlitefmt.wal import FRAME_HEADER_SIZE, HEADER_SIZE, WALHeader, frame_size, scan

_CHUNK: Final = 1 << 20  # bytes


class WalPages:
    """The committed frames of one WAL, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: WALHeader | None = None
        """None: no WAL, or no valid header."""
        self.pages: dict[int, int] = {}
        """Page number → offset of its newest committed content in the file."""
        self.commit = 0
        """Database size in pages after the last commit."""
        self.end = 0
        """Offset behind the last committed frame."""
        self._seed = (0, 0)

    def refresh(self, limit: int | None = None) -> None:
        """Read on, up to offset ``limit`` if given; starts anew when the WAL was restarted."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._restart(None)
            return
        try:
            self._check_header(fd)
            if self.header is not None:
                self._read_on(fd, self.header, limit)
        finally:
            os.close(fd)

    def find(self, pgno: int) -> int | None:
        """Offset of a page's newest committed content; None when the WAL does not have it."""
        return self.pages.get(pgno)

    def _check_header(self, fd: int) -> None:
        try:
            header = WALHeader.parse(os.pread(fd, HEADER_SIZE, 0))
        except WALError:
            self._restart(None)
            return
        if header != self.header:
            self._restart(header)

    def _restart(self, header: WALHeader | None) -> None:
        self.header = header
        self.pages = {}
        self.commit = 0
        self.end = HEADER_SIZE if header is not None else 0
        self._seed = header.seed if header is not None else (0, 0)

    def _read_on(self, fd: int, header: WALHeader, limit: int | None) -> None:
        row = frame_size(header.page_size)
        at, seed = self.end, self._seed
        waiting: dict[int, int] = {}  # frames of a transaction whose commit was not read yet
        while True:
            size = max(_CHUNK // row, 1) * row
            if limit is not None:
                size = min(size, (limit - at) // row * row)
            data = os.pread(fd, size, at) if size > 0 else b""
            found = scan(data, header, seed)
            start = 0
            for stop in found.commit_ends:
                waiting.update((found.pgnos[i], at + i * row + FRAME_HEADER_SIZE) for i in range(start, stop))
                self._commit(waiting, found.sizes[stop - 1], at + stop * row, found.seed_after(stop))
                waiting, start = {}, stop
            waiting.update((found.pgnos[i], at + i * row + FRAME_HEADER_SIZE) for i in range(start, found.valid))
            if found.valid * row < size or not found.valid:
                return
            at, seed = at + found.valid * row, found.seed_after(found.valid)

    def _commit(self, pages: dict[int, int], commit: int, end: int, seed: tuple[int, int]) -> None:
        if commit < self.commit:
            self.pages = {pgno: offset for pgno, offset in self.pages.items() if pgno <= commit}
        self.pages.update(pages)
        self.commit, self.end, self._seed = commit, end, seed
