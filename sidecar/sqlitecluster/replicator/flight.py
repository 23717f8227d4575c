"""A commit that is in the log and waits: what ``hold`` remembers of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sqlitecluster.ltx import page_checksum
from sqlitecluster.replicator.capture_group import Cursor
from sqlitecluster.replicator.capture_image import Image, Shape
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan
from sqlitecluster.sqlitefmt.wal import FRAME_HEADER_SIZE


@dataclass(slots=True)
class Flight:
    """A transaction that is in the log and not settled."""

    seq: int
    txid: int
    pgnos: list[int]
    commit_before: int
    """Pages of the database without it."""
    commit: int
    """Pages with it."""
    deadline: float
    span: WalSpan | None = None
    """Where in the log it ends; None: a rollback-mode commit."""
    salts: tuple[int, int] = (0, 0)


def frame_end(cursor: Cursor, reach: int) -> int:
    """The end of the frame that byte ``reach - 1`` belongs to."""
    return cursor.end - (cursor.end - reach) // cursor.frame_size * cursor.frame_size


def are_in_database(database: CapturedDatabase, pgnos: list[int], commit: int) -> bool:
    """The log began anew or is gone: a published commit was written back into the database first."""
    store = database.store
    try:
        fd = os.open(database.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        image = Image(fd, Shape(store.page_size, commit))
        wanted = [pgno for pgno in pgnos if pgno <= commit]
        return all(
            page_checksum(pgno, page) == store.checksums.get(pgno)
            for pages in image.some_pages(wanted)
            for pgno, page in pages
        )
    finally:
        os.close(fd)


def void(database: CapturedDatabase, span: WalSpan) -> None:
    """[programs cannot write] Let no recovery find a commit that was never published."""
    fd = os.open(database.directory / "wal", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, bytes(FRAME_HEADER_SIZE), span.cursor.end - span.cursor.frame_size)
        os.fdatasync(fd)
    finally:
        os.close(fd)
