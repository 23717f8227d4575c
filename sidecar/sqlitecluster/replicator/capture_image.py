"""The committed image of a database at one moment, read in batches.

A page comes from the newest frame of the WAL if it has one, else from the database file.
Used for first captures, for a changed page size and for comparing with the checksums;
the caller (``capture_raw``) holds the locks that keep the image still.

Rules:
    1. Memory is bounded: one batch of pages, and 100 bytes for each page in the WAL.
    2. The header's page count is believed only if its change counter is the one it was
       written with and the file is long enough; else the file's size counts.
    3. The lock page is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from sqlitecluster.ltx import image_checksums
from sqlitecluster.replicator.capture_content import WalContent
from sqlitecluster.replicator.capture_group import Cursor, Pages
from sqlitecluster.sqlitefmt.dbheader import DatabaseHeader
from sqlitecluster.sqlitefmt.wal import FRAME_HEADER_SIZE
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.units import lock_page

BATCH_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """How large an image is."""

    page_size: int
    commit: int
    """Pages."""


def shape_of(head: bytes, file_size: int) -> Shape:
    """The shape of a database file without WAL content.

    Raises:
        NotADatabase: the file does not start as a SQLite database does.
    """
    header = DatabaseHeader.parse(head)
    there = file_size // header.page_size
    stored = header.pages
    return Shape(header.page_size, stored if 0 < stored <= there else there)


def frames_of(content: WalContent, end: int) -> tuple[dict[int, int], Cursor, int]:
    """(page -> offset of its newest version, cursor at the end, database size) of all frames before ``end``."""
    latest: dict[int, int] = {}
    cursor, commit = Cursor.start(content.cursor.header), 0
    for window in content.windows(end, cursor):
        found = window.found
        first = window.cursor.end + FRAME_HEADER_SIZE
        step = window.cursor.frame_size
        latest.update(zip(found.pgnos, range(first, first + found.valid * step, step), strict=True))
        commit = found.db_size() or commit
        cursor = window.after
    return latest, cursor, commit


class Image:
    """An image that does not change while it is read."""

    def __init__(self, fd: int, shape: Shape, wal_fd: int = -1, frames: dict[int, int] | None = None) -> None:
        self.shape = shape
        self._fd = fd
        self._wal_fd = wal_fd
        self._frames = frames or {}
        self._lock_page = lock_page(shape.page_size)
        self._step = max(1, BATCH_BYTES // shape.page_size)

    def all_pages(self) -> Iterator[Pages]:
        """Every page, in ascending batches."""
        for first in range(1, self.shape.commit + 1, self._step):
            last = min(first + self._step - 1, self.shape.commit)
            yield self.pages([pgno for pgno in range(first, last + 1) if pgno != self._lock_page])

    def some_pages(self, wanted: list[int]) -> Iterator[Pages]:
        """The wanted pages (ascending), in batches."""
        for first in range(0, len(wanted), self._step):
            yield self.pages(wanted[first : first + self._step])

    def pages(self, wanted: list[int]) -> Pages:
        """Some pages."""
        return [(pgno, memoryview(self._page(pgno))) for pgno in wanted]

    def differing(self, checksums: ChecksumArray) -> list[int]:
        """Pages that are not what the checksums say, ascending."""
        commit = self.shape.commit
        found: list[int] = []
        for first in range(1, commit + 1, self._step):
            count = min(self._step, commit + 1 - first)
            known = np.zeros(count, np.uint64)
            if first <= checksums.count:
                entries = checksums.view(first, count)
                known[: len(entries)] = entries
            sums = image_checksums(first, self._run(first, count), self.shape.page_size)
            found += [pgno for pgno in (np.flatnonzero(sums != known) + first).tolist() if pgno != self._lock_page]
        return found

    def _run(self, first: int, count: int) -> bytes | bytearray:
        """Consecutive pages as one piece."""
        size = self.shape.page_size
        data = os.pread(self._fd, count * size, (first - 1) * size).ljust(count * size, b"\0")
        logged = [pgno for pgno in range(first, first + count) if pgno in self._frames] if self._frames else []
        if not logged:
            return data
        patched = bytearray(data)
        for pgno in logged:
            patched[(pgno - first) * size : (pgno - first + 1) * size] = self._page(pgno)
        return patched

    def _page(self, pgno: int) -> bytes:
        size = self.shape.page_size
        at = self._frames.get(pgno)
        if at is not None:
            return os.pread(self._wal_fd, size, at)
        return os.pread(self._fd, size, (pgno - 1) * size).ljust(size, b"\0")
