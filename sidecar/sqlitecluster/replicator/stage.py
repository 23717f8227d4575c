"""An image under construction: a base of pages, then transactions, until it is exact.

Used by the stream client (a received snapshot) and by export (a copy of a living
database). Runs in an executor thread.

Rules:
    1. The image is a plain file beside its final place; nothing sees it before
       ``finish`` found every page's checksum to add up to the position's.
    2. Memory is one checksum (8 bytes) a page, grown only as pages arrive.
    3. A page number beyond what the snapshot announced, and then some growth, is refused
       before anything is allocated for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.errors import Diverged, PositionMismatch, WireError
from sqlitecluster.ltx import Decoder, fold, page_checksums
from sqlitecluster.replication.position import Position
from sqlitecluster.units import lock_page

_GROWTH: Final = 1 << 20
"""Pages that a database may grow by while its snapshot is sent."""


class Stage:
    """One image that is being put together."""

    def __init__(self, path: Path, page_size: int, pages: int, start: Position) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.page_size = page_size
        self.pages = pages
        self.position = start
        self.timestamp_ms = 0
        self._limit = pages + _GROWTH
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._sums: npt.NDArray[np.uint64] = np.zeros(1024, dtype=np.uint64)

    @property
    def checksum(self) -> int:
        """The database checksum of what is there now."""
        return fold(self._sums[: self.pages])

    def add(self, numbers: Sequence[int], data: bytes) -> None:
        """Write pages of the base.

        Raises:
            WireError: a page number that the snapshot cannot have.
        """
        highest = max(numbers)
        if highest > self._limit:
            raise WireError("page number", highest, f"the snapshot announced {self.pages} pages")
        size = self.page_size
        view = memoryview(data)
        pages = [view[at : at + size] for at in range(0, len(data), size)]
        self._write(numbers, pages)

    def apply(self, ltx: bytes) -> None:
        """Apply one LTX file on top.

        Raises:
            PositionMismatch: it does not continue where the image is.
            LTXError: it is damaged.
        """
        decoder = Decoder.of(ltx)
        header = decoder.header
        if header.max_txid <= self.position.txid:
            return
        if header.min_txid > self.position.txid + 1:
            raise PositionMismatch(self.position, f"{header.min_txid - 1:016x}")
        if header.is_snapshot:
            self._clear(header.page_size)
        self._limit = max(self._limit, header.commit)
        for pgno, page in decoder.pages():
            self._write([pgno], [page])
        self._resize(header.commit)
        self.position = Position(header.max_txid, decoder.trailer.post_apply)
        self.timestamp_ms = header.timestamp_ms

    def finish(self, *, sync: bool = True) -> None:
        """Verify the image against its position and make it durable.

        Raises:
            Diverged: pages are missing, or their checksums do not add up.
        """
        self._resize(self.pages)
        if self.checksum != self.position.checksum:
            have = Position(self.position.txid, self.checksum)
            raise Diverged(f"the received image adds up to {have}, it should be {self.position}")
        if sync:
            os.fsync(self._fd)

    def close(self, *, remove: bool) -> None:
        """Close the file; ``remove`` it unless someone took it over."""
        os.close(self._fd)
        if remove:
            self.path.unlink(missing_ok=True)

    def _write(self, numbers: Sequence[int], pages: Sequence[bytes | memoryview]) -> None:
        highest = max(numbers)
        if highest > len(self._sums):
            grown = np.zeros(max(highest, min(2 * len(self._sums), self._limit)), dtype=np.uint64)
            grown[: len(self._sums)] = self._sums
            self._sums = grown
        size = self.page_size
        for first, run in _runs(numbers):
            os.pwritev(self._fd, pages[first : first + run], (numbers[first] - 1) * size)
        self._sums[np.array(numbers, dtype=np.int64) - 1] = page_checksums(numbers, pages)
        self.pages = max(self.pages, highest)

    def _resize(self, pages: int) -> None:
        self.pages = pages
        if len(self._sums) < pages:
            self._sums = np.concatenate((self._sums, np.zeros(pages - len(self._sums), dtype=np.uint64)))
        self._sums[pages:] = 0
        lock = lock_page(self.page_size)
        if lock <= pages:
            self._sums[lock - 1] = 0
        os.ftruncate(self._fd, pages * self.page_size)

    def _clear(self, page_size: int) -> None:
        os.ftruncate(self._fd, 0)
        self.page_size = page_size
        self.pages = 0
        self._sums[:] = 0


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """(index, length) of runs of consecutive page numbers, at most 512 long."""
    runs: list[tuple[int, int]] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1 or i - start >= 512:
            runs.append((start, i - start))
            start = i
    return runs
