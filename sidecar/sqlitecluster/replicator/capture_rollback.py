"""Captures the commits of rollback journal modes, from the spools that the mount made.

A spool holds the byte ranges of the database file that changed while a journal existed,
as they were when the journal ended. Whether that was a commit or a rollback shows only
in the bytes: pages that equal their checksum are skipped, and when nothing is left there
was no transaction.

Rules:
    1. Whole pages come from the spool. Where a range covers a page in part, the rest
       comes from the database file; a later change of it comes with a later spool.
    2. The size is the header's page count if the change counter proves it, else the
       file's size.
    3. A spool is removed only after its transaction is in the log.

Called by ``capture_database``, in the order of the spools' numbers.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from sqlitecluster.errors import NotADatabase
from sqlitecluster.ltx import page_checksums
from sqlitecluster.replicator.capture_group import Pages
from sqlitecluster.replicator.capture_image import Shape, shape_of
from sqlitecluster.replicator.capture_publish import CapturedDatabase, is_whole
from sqlitecluster.replicator.capture_stream import publish_stream
from sqlitecluster.sqlitefmt.dbheader import HEADER_SIZE
from sqlitecluster.store.spool import Spool
from sqlitecluster.units import lock_page

BATCH_BYTES: Final = 1 << 20


class SpooledPages:
    """The pages of one spool. Close it."""

    def __init__(self, database: CapturedDatabase, spool: Spool) -> None:
        self._db = database
        self._spool = spool
        self._fd = os.open(spool.path, os.O_RDONLY | os.O_CLOEXEC)
        self.shape = self._find_shape()
        self._whole: dict[int, int] = {}
        """Page -> where it is in the spool."""
        self._parts: dict[int, list[tuple[int, int, int]]] = {}
        """Page -> (offset in the page, length, offset in the spool) of what the spool has of it."""
        for offset, length, at in spool.places():
            self._add(offset, length, at)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def numbers(self) -> list[int]:
        """Pages that belong to the database, ascending."""
        skip, commit = lock_page(self.shape.page_size), self.shape.commit
        return sorted(pgno for pgno in self._whole.keys() | self._parts.keys() if pgno <= commit and pgno != skip)

    def pages(self, wanted: list[int]) -> Pages:
        """Some of them."""
        return [(pgno, memoryview(self._page(pgno))) for pgno in wanted]

    def _page(self, pgno: int) -> bytes:
        size = self.shape.page_size
        at = self._whole.get(pgno)
        if at is not None:
            return os.pread(self._fd, size, at)
        page = bytearray(self._db.page_on_disk(pgno, size))
        for start, length, place in self._parts.get(pgno, ()):
            page[start : start + length] = os.pread(self._fd, length, place)
        return bytes(page)

    def _add(self, offset: int, length: int, at: int) -> None:
        size = self.shape.page_size
        end = offset + length
        while offset < end:
            index, start = divmod(offset, size)
            part = min(size - start, end - offset)
            if part == size:
                self._whole[index + 1] = at
            else:
                self._parts.setdefault(index + 1, []).append((start, part, at))
            offset += part
            at += part

    def _find_shape(self) -> Shape:
        """Size of a page, and of the database after the commit."""
        spool, store = self._spool, self._db.store
        head = next((at for offset, length, at in spool.places() if not offset and length >= HEADER_SIZE), None)
        if head is not None:
            return shape_of(os.pread(self._fd, HEADER_SIZE, head), spool.db_size)
        if not store.page_size or self._db.is_dropped:
            return shape_of(self._db.page_on_disk(1, HEADER_SIZE), spool.db_size)
        return Shape(store.page_size, min(store.commit, spool.db_size // store.page_size))


def capture_spool(database: CapturedDatabase, spool: Spool) -> bool:
    """Publish what a spool changed; False when the whole image is needed instead.

    Raises:
        NotADatabase: the database file does not start as a SQLite database does.
    """
    if not spool.db_size:
        return True
    try:
        spooled = SpooledPages(database, spool)
    except NotADatabase:
        if database.is_new:
            return True
        raise
    try:
        return _capture(database, spooled)
    finally:
        spooled.close()


def _capture(database: CapturedDatabase, spooled: SpooledPages) -> bool:
    shape, numbers = spooled.shape, spooled.numbers
    if database.needs_whole(shape.page_size):
        if not is_whole(numbers, shape.commit, shape.page_size):
            return False
    else:
        numbers = changed_pages(database, spooled, numbers)
        if not numbers and shape.commit == database.store.commit:
            return True
    if len(numbers) * shape.page_size <= BATCH_BYTES:
        pages = database.with_holes(spooled.pages(numbers), shape.commit, shape.page_size)
        database.publish(pages, shape.page_size, shape.commit, 1)
        return True
    numbers = database.holes(numbers, shape.commit, shape.page_size)
    step = max(1, BATCH_BYTES // shape.page_size)
    batches = (spooled.pages(numbers[at : at + step]) for at in range(0, len(numbers), step))
    publish_stream(database, batches, shape.page_size, shape.commit, 1)
    return True


def changed_pages(database: CapturedDatabase, spooled: SpooledPages, numbers: list[int]) -> list[int]:
    """Those of ``numbers`` that differ from their checksums."""
    step = max(1, BATCH_BYTES // spooled.shape.page_size)
    changed: list[int] = []
    for first in range(0, len(numbers), step):
        some = numbers[first : first + step]
        sums = page_checksums(some, [page for _pgno, page in spooled.pages(some)])
        wrong = np.flatnonzero(sums != database.store.checksums.get_many(some))
        changed += [some[at] for at in wrong.tolist()]
    return changed
