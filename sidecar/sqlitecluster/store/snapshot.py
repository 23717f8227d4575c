"""Reading a database's committed content while programs write it, without any SQLite lock.

A page counts when its checksum is the one that the store knows at that moment: from
the database file, or from the newest frame in the WAL. Pages that do not fit are
tried again later. What comes out is a *fuzzy base*: begun at position t0, ended at t1,
every page from somewhere between; who applies the transactions t0+1 … t1 on top has
exactly t1 (and the rolling checksum proves it).

Memory: one batch of at most 1 MiB, and the numbers of pages still to be had.

Called by streams and export, in a worker thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from sqlitecluster.errors import Unavailable
from sqlitecluster.ltx import image_checksums, page_checksum
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.walfile import WalPages
from sqlitecluster.units import lock_page

BATCH_BYTES: Final = 1 << 20
_FIRST_PAUSE_S: Final = 0.002
_LAST_PAUSE_S: Final = 0.25

Lookup = Callable[[int], int | None]
"""Page number → offset of the page's newest committed content in the WAL."""
Batch = list[tuple[int, bytes]]


class LogicalImage:
    """Pages of a database as its readers see them: from the WAL where it has them, else from the file."""

    def __init__(
        self, database_path: Path, wal_path: Path, checksums: ChecksumArray, wal_lookup: Lookup | None = None
    ) -> None:
        self._database_path, self._wal_path = database_path, wal_path
        self.checksums = checksums
        self._frames = WalPages(wal_path)
        self.before: Callable[[], Mapping[int, int]] = dict
        """Other checksums that are right, too: of pages whose change is in flight."""
        self._lookup = wal_lookup or self._frames.find
        self._own_lookup = wal_lookup is None
        self.page_size = checksums.page_size

    def refresh(self) -> None:
        """Look at what the WAL holds now."""
        if self._own_lookup:
            self._frames.refresh()

    def read_run(self, first: int, count: int) -> tuple[Batch, list[int]]:
        """Consecutive pages: those that fit their checksums, and the numbers of the others."""
        size = self.page_size
        image = self._pread(self._database_path, count * size, (first - 1) * size)
        sums = image_checksums(first, image, size)
        wanted = self.checksums.view(first, count)
        good = np.zeros(count, dtype=np.bool_)
        both = min(len(sums), len(wanted))
        good[:both] = sums[:both] == wanted[:both]
        batch: Batch = []
        missing: list[int] = []
        lock = lock_page(size)
        for index, fits in enumerate(good.tolist()):
            pgno = first + index
            if pgno == lock:
                continue
            page = image[index * size : (index + 1) * size] if fits else self.read_page(pgno)
            if page is None:
                missing.append(pgno)
            elif page:
                batch.append((pgno, page))
        return batch, missing

    def read_page(self, pgno: int) -> bytes | None:
        """One page; None when nothing fits its checksum now; empty when the database has become shorter."""
        size = self.page_size
        offset = self._lookup(pgno)
        candidates = [(self._wal_path, offset)] if offset is not None else []
        candidates.append((self._database_path, (pgno - 1) * size))
        for path, at in candidates:
            page = self._pread(path, size, at)
            if len(page) == size and self._fits(pgno, page_checksum(pgno, page)):
                return page
        return b"" if pgno > self.checksums.count else None

    def checksum_now(self, pgno: int) -> int:
        """Of what readers see in a page, whatever it should be; 0 where there is none."""
        at = self._lookup(pgno)
        path, offset = (self._wal_path, at) if at is not None else (self._database_path, (pgno - 1) * self.page_size)
        page = self._pread(path, self.page_size, offset)
        return page_checksum(pgno, page) if len(page) == self.page_size else 0

    def _fits(self, pgno: int, checksum: int) -> bool:
        return checksum in (self.checksums.get(pgno) or None, self.before().get(pgno))

    def _pread(self, path: Path, size: int, at: int) -> bytes:
        # Opened for each run: the mount may put another file in place (import, install, deleted WAL).
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, size, at)
        finally:
            os.close(fd)


class SnapshotReader:
    """Yields every page of a database once, in batches; the order is not quite ascending."""

    def __init__(
        self,
        database_path: Path,
        wal_path: Path,
        checksums: ChecksumArray,
        commit: int,
        wal_lookup: Lookup | None = None,
        *,
        patience_s: float = 30.0,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        before: Callable[[], Mapping[int, int]] = dict,
    ) -> None:
        self._image = LogicalImage(database_path, wal_path, checksums, wal_lookup)
        self._image.before = before
        self._commit = commit
        self._patience_s = patience_s
        self._pause, self._clock = pause, clock
        self.retried = 0
        """Pages that did not fit at the first look."""

    def batches(self) -> Iterator[Batch]:
        """All pages, at most ``BATCH_BYTES`` at a time.

        Raises:
            Unavailable: a page kept changing, or is damaged, longer than ``patience_s``.
        """
        if self._commit == 0:
            return
        self._image.refresh()
        step = max(1, BATCH_BYTES // self._image.page_size)
        left: list[int] = []
        for first in range(1, self._commit + 1, step):
            batch, missing = self._image.read_run(first, min(step, self._commit + 1 - first))
            left += missing
            if batch:
                yield batch
        self.retried = len(left)
        yield from self._again(left, step)

    def _again(self, left: list[int], step: int) -> Iterator[Batch]:
        pause, deadline = _FIRST_PAUSE_S, self._clock() + self._patience_s
        while left:
            self._image.refresh()
            before, missing = len(left), []
            for start in range(0, before, step):
                batch: Batch = []
                for pgno in left[start : start + step]:
                    page = self._image.read_page(pgno)
                    if page is None:
                        missing.append(pgno)
                    elif page:
                        batch.append((pgno, page))
                if batch:
                    yield batch
            left = missing
            if len(left) < before:
                pause, deadline = _FIRST_PAUSE_S, self._clock() + self._patience_s
            elif self._clock() > deadline:
                raise Unavailable(
                    f"{len(left)} pages (first {left[0]}) did not become what the page checksums say within "
                    f"{self._patience_s:g} s: a long transaction, or a damaged image"
                )
            if left:
                self._pause(pause)
                pause = min(pause * 2, _LAST_PAUSE_S)
