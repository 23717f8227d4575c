"""One snapshot of one database as frames, for a replica that nothing else can help.

Made by ``stream_server``, driven by a ``Lane`` in an executor thread. The pages are a
"fuzzy base": each is committed content, but of moments between ``start`` and the end;
the transactions after ``start`` follow in the same stream and make it exact.

Rules:
    1. No SQLite lock is taken: writers never notice.
    2. Memory is one batch of pages, whatever the database's size.
    3. What a receiver needs to finish (every transaction after ``start``) is pinned in
       the store by the lane's ``needs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from sqlitecluster.ltx import HEADER_SIZE, Header, decode
from sqlitecluster.replication import wire
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.pages import batch_pages, encode_pages
from sqlitecluster.replication.wire import FrameType, SnapshotInfo
from sqlitecluster.store.snapshot import LogicalImage, SnapshotReader

if TYPE_CHECKING:
    from sqlitecluster.replication.position import Position
    from sqlitecluster.store.database import DatabaseStore

Pages = Iterable[Sequence[tuple[int, bytes]]]
"""Batches of (page number, content)."""


def read_pages(db: DatabaseStore) -> Pages:
    """The committed pages of a database, while programs write it."""
    paths = (db.dir / "database", db.dir / "wal")
    return SnapshotReader(*paths, db.checksums, db.commit, before=lambda: db.sums_before).batches()


def read_settled(db: DatabaseStore) -> Pages:
    """The same, also of a node that may not show all that is in its log.

    A new primary gives that to the members before it opens, and some of them may need a snapshot
    first: it is of what is shown, the rest follows and waits.
    """
    settled = db.settled
    if settled == db.position or db.in_flight:
        return read_pages(db)
    paths = (db.dir / "database", db.dir / "wal")
    image = LogicalImage(*paths, db.checksums)
    image.refresh()
    shown = {pgno: image.checksum_now(pgno) for pgno in _pages_after(db, settled.txid)}
    return SnapshotReader(*paths, db.checksums, _commit_at(db, settled), before=lambda: shown).batches()


def _pages_after(db: DatabaseStore, txid: int) -> set[int]:
    """Pages that transactions behind ``txid`` change."""
    return {pgno for blob in db.since(txid) or () for pgno, _page in decode(blob, verify=False).pages}


def _commit_at(db: DatabaseStore, position: Position) -> int:
    """Pages of the database at a position that is, or was, its newest."""
    if position == db.position or not position.txid:
        return db.commit
    piece = db.next_after(position.txid - 1)
    data = db.read(piece) if piece is not None else None
    header = Header.parse(data[:HEADER_SIZE]) if data is not None else None
    return header.commit if header is not None and header.max_txid == position.txid else db.commit


class SnapshotSender:
    """Frames of one snapshot."""

    def __init__(self, db: DatabaseStore, reason: Reason, read: Callable[[DatabaseStore], Pages]) -> None:
        self.start = db.settled
        self._db = db
        self._reason = reason
        self._read = read
        self._frames: Iterator[bytes] | None = self._generate()

    def next_frame(self) -> bytes | None:
        """The next frame, or None after the last. Reads the disk."""
        return next(self._frames, None) if self._frames is not None else None

    def close(self) -> None:
        """Stop early."""
        self._frames = None

    def _generate(self) -> Iterator[bytes]:
        db = self._db
        page_size = db.page_size
        yield wire.encode_snapshot(FrameType.SNAPSHOT_BEGIN, db.name, self._info(page_size))
        limit = batch_pages(page_size)
        for batch in self._read(db):
            for at in range(0, len(batch), limit):
                yield encode_pages(db.name, page_size, batch[at : at + limit])
        yield wire.encode_snapshot(FrameType.SNAPSHOT_END, db.name, self._info(page_size))

    def _info(self, page_size: int) -> SnapshotInfo:
        """At the beginning where increments start, at the end how far they must reach."""
        db = self._db
        settled = db.settled
        return SnapshotInfo(page_size, _commit_at(db, settled), settled, db.timestamp_ms, int(self._reason))
