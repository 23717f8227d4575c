"""After a power cut of a primary whose commits were answered after the log had them: the log counts.

With ``replication.mode: Quorum`` or ``localDurability: Always`` every answered commit is in the
node's log, synced. The image may lack any of them, page by page, whatever ``synchronous`` said: it
is brought to the position of the log, and proved by the page checksums.

Rules:
    1. A marker in the data directory says how the *last* run answered; the present configuration
       may be another one.
    2. Nothing is written unless every page that differs is in the stored chain: the image may be
       newer than the log where a program writes without commits (journal_mode MEMORY or OFF).
    3. Journal and WAL go last, when the image is whole and synced.

Called by ``recovery``, before the mount is served. Reads the image once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from sqlitecluster.ltx import image_checksums
from sqlitecluster.store import image
from sqlitecluster.store.sums import open_piece
from sqlitecluster.store.walfile import WalPages
from sqlitecluster.units import lock_page

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore
    from sqlitecluster.store.node import NodeStore

log = logging.getLogger(__name__)

_MARKER: Final = "answered-after-log"
_STEP_BYTES: Final = 1 << 20


def was_logged_first(store: NodeStore) -> bool:
    """Whether the last run answered commits only after the log had them."""
    return (store.data_dir / _MARKER).exists()


def note(store: NodeStore, *, logged_first: bool) -> None:
    """Say how this run will answer; durable at return, before a program can commit."""
    path = store.data_dir / _MARKER
    if logged_first and not path.exists():
        store.disk.write_file(path, (b"every answered commit is in the log\n",))
    elif not logged_first and path.exists():
        store.disk.unlink(path)
        store.disk.fsync_dir(store.data_dir)


def restore(store: NodeStore, database: DatabaseStore) -> bool:
    """Bring the image to the log's position; False when that is impossible, and the image is as it was found."""
    if database.position.is_zero or not database.commit:
        return False
    _settle(store, database)
    wrong = damaged(database)
    start = database.earliest()
    if wrong and not wrong <= _written_after(database, start):
        log.error("%s: after the power cut %d pages are not what the log says", database.name, len(wrong))
        return False
    if wrong and image.write_chain(database, start, store.disk) != database.position.txid:
        return False
    if wrong:
        log.warning("%s: %d pages that a power cut took are put back from the log", database.name, len(wrong))
        if damaged(database):
            return False
    _cut_off(store, database)
    store.disk.unlink(database.dir / "journal")
    image.remove_wal(database.dir, store.disk)
    database.set_wal_mark(0, 0, 0, 0)
    database.set_needs_compare(False)
    return True


def _settle(store: NodeStore, database: DatabaseStore) -> None:
    """Let SQLite undo what was cut off, and write back what the WAL holds of the captured history."""
    with contextlib.suppress(sqlite3.Error, OSError):
        image.roll_back_journal(database.dir)
    mark, seen = database.wal_mark, WalPages(database.dir / "wal")
    seen.refresh()
    if mark is not None and seen.header is not None and (seen.header.salt1, seen.header.salt2) == (
        mark.salt1, mark.salt2,
    ):  # fmt: skip
        image.backfill(database.dir, store.disk, min(mark.end, seen.end))


def _cut_off(store: NodeStore, database: DatabaseStore) -> None:
    """What lies behind the last page is of a time when the database was longer."""
    length = database.commit * database.page_size
    with (database.dir / "database").open("r+b") as file:
        if file.seek(0, os.SEEK_END) > length:
            file.truncate(length)
            store.disk.fsync(file.fileno())


def damaged(database: DatabaseStore) -> set[int]:
    """Pages of the image that are not what their checksums say, or are missing."""
    size, count = database.page_size, database.commit
    found = np.zeros(count + 1, dtype=np.uint64)
    with contextlib.suppress(FileNotFoundError), Path(database.dir / "database").open("rb") as file:
        first = 1
        while first <= count and (data := file.read(max(1, _STEP_BYTES // size) * size)):
            data = data[: len(data) // size * size]
            if not data:
                break
            sums = image_checksums(first, data, size)[: count + 1 - first]
            found[first : first + len(sums)] = sums
            first += len(sums)
    wanted = database.checksums.get_many(np.arange(1, count + 1, dtype=np.int64))
    wrong = {int(at) + 1 for at in np.flatnonzero((found[1:] != wanted) | (wanted == 0))}
    return wrong - {lock_page(size)}


def _written_after(database: DatabaseStore, txid: int) -> set[int]:
    """Pages that the stored transactions after ``txid`` hold."""
    pages: set[int] = set()
    while (piece := database.next_after(txid)) is not None:
        with contextlib.ExitStack() as stack:
            pages.update(pgno for pgno, _page in open_piece(piece, stack).pages())
        txid = piece.max_txid
    return pages
