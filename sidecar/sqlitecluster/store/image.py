"""Changing a database file that nobody has open: at the start of a node, before it is mounted.

Rules:
    1. Every function may be killed and run again: pages are written whole at their place.
    2. A file that does not begin as a SQLite database is never written.
    3. The WAL is removed only after what it held is synced in the database file.

Called by ``recovery`` only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from sqlitecluster import failpoints
from sqlitecluster.errors import CorruptLTX, FormatError, LimitError
from sqlitecluster.ltx import image_checksums
from sqlitecluster.sqlitefmt.dbheader import looks_like_database
from sqlitecluster.sqlitefmt.journal import is_hot
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.database import DatabaseStore, StoredLTX
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.journals import drop_unfinished
from sqlitecluster.store.sums import complete, open_piece, store
from sqlitecluster.store.walfile import WalPages


def is_foreign(path: Path, *, is_ours: bool = False) -> bool:
    """Whether a file has content that is not SQLite's.

    Of an image that the sidecar writes (``is_ours``), a power cut may have taken the first page alone.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        return False
    if is_ours and not any(head):
        return False
    return len(head) > 0 and not looks_like_database(head)


def backfill(folder: Path, disk: Disk, limit: int | None = None) -> WalPages:
    """Write the committed frames of ``wal`` (up to an offset) into ``database``; synced at return. ``wal`` stays."""
    found = WalPages(folder / "wal")
    found.refresh(limit)
    if found.header is None or not found.commit:
        return found
    page_size = found.header.page_size
    with _writable(folder / "database", disk) as target, open(folder / "wal", "rb") as source:
        for pgno in sorted(found.pages):
            page = os.pread(source.fileno(), page_size, found.pages[pgno])
            disk.pwritev(target, (page,), (pgno - 1) * page_size)
        disk.truncate(target, found.commit * page_size)
        disk.fsync(target)
    failpoints.hit("recovery.after-backfill")
    return found


def sync(folder: Path, disk: Disk) -> None:
    """Make the database file durable, if there is one."""
    if (folder / "database").exists():
        with _writable(folder / "database", disk) as fd:
            disk.fsync(fd)


def remove_wal(folder: Path, disk: Disk) -> None:
    """Remove ``wal`` and make that durable."""
    disk.unlink(folder / "wal")
    disk.fsync_dir(folder)


def write_chain(database: DatabaseStore, from_txid: int, disk: Disk, to_txid: int | None = None) -> int:
    """Write transactions after ``from_txid`` into the database file, all or up to ``to_txid``; returns the one reached.

    Synced at return. The page checksums are those of the position all the same.

    Everything is read and verified first: when it does not lead to the position, nothing
    is written and ``from_txid`` is returned.
    """
    if from_txid >= database.position.txid or not _is_readable(database, from_txid):
        return from_txid
    reached, target = from_txid, database.position.txid if to_txid is None else to_txid
    with _writable(database.dir / "database", disk) as fd:
        while reached < target and (piece := database.next_after(reached)) is not None:
            _write_piece(database, piece, fd, disk)
            reached = piece.max_txid
        disk.fsync(fd)
    if reached < database.position.txid:
        complete(database, database.checksums)
    return reached


def put_in_place(folder: Path, source: Path, disk: Disk) -> None:
    """Make a complete image the database; WAL and journal of the old one go with it. Synced at return."""
    with open(source, "rb") as file:
        disk.fsync(file.fileno())
    disk.unlink(folder / "wal")
    disk.unlink(folder / "journal")
    disk.replace(source, folder / "database")
    disk.fsync_dir(folder)


def image_sums(path: Path, page_size: int, checksums: ChecksumArray) -> int:
    """Store the checksums of every page of a file; returns the database's checksum."""
    checksums.reset(page_size)
    step = max(1, (1 << 20) // page_size)
    with open(path, "rb") as file:
        first = 1
        while data := file.read(step * page_size):
            sums = image_checksums(first, data, page_size)
            checksums.set_many(np.arange(first, first + len(sums), dtype=np.int64), sums)
            first += len(sums)
    return checksums.rolling


def roll_back_journal(folder: Path) -> bool:
    """Let SQLite undo a transaction that was cut off; returns whether there was one. No journal is left."""
    journal = folder / "journal"
    if drop_unfinished(journal):
        return False
    try:
        with open(journal, "rb") as file:
            hot = is_hot(file.read(28))
    except FileNotFoundError:
        return False
    if not hot:
        journal.unlink()
        return False
    os.replace(journal, folder / "database-journal")  # the name under which SQLite looks for it
    with closing(sqlite3.connect(folder / "database", isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    for suffix in ("-journal", "-wal", "-shm"):
        (folder / f"database{suffix}").unlink(missing_ok=True)
    return True


def _is_readable(database: DatabaseStore, from_txid: int) -> bool:
    """Whether all pieces are there and intact; damaged ones go to lost+found, others may take their place."""
    reached = from_txid
    while reached < database.position.txid:
        piece = database.next_after(reached)
        if piece is None:
            return False
        if _verify(database, piece):
            reached = piece.max_txid
    return True


def _verify(database: DatabaseStore, piece: StoredLTX) -> bool:
    if piece.path is None:
        return True
    try:
        with contextlib.ExitStack() as stack:
            decoder = open_piece(piece, stack)
            for _page in decoder.pages():
                pass
        if (decoder.header.min_txid, decoder.header.max_txid) != (piece.min_txid, piece.max_txid):
            raise CorruptLTX(f"holds transactions {decoder.header.min_txid} to {decoder.header.max_txid}")
    except (FormatError, LimitError, CorruptLTX) as error:
        database.quarantine(piece.path, error.message)
        return False
    return True


@contextlib.contextmanager
def _writable(path: Path, disk: Disk) -> Iterator[int]:
    is_new = not path.exists()
    fd = disk.open(path)
    try:
        if is_new:
            disk.fsync_dir(path.parent)
        yield fd
    finally:
        os.close(fd)


def _write_piece(database: DatabaseStore, piece: StoredLTX, fd: int, disk: Disk) -> None:
    with contextlib.ExitStack() as stack:
        decoder = open_piece(piece, stack)
        header = decoder.header

        def written() -> Iterator[tuple[int, bytes]]:
            for pgno, page in decoder.pages():
                disk.pwritev(fd, (page,), (pgno - 1) * header.page_size)
                yield pgno, page

        store(database.checksums, header, written())
        disk.truncate(fd, header.commit * header.page_size)
