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

from sqlitecluster.replication import wire
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.pages import batch_pages, encode_pages
from sqlitecluster.replication.wire import FrameType, SnapshotInfo
from sqlitecluster.store.snapshot import SnapshotReader

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore

Pages = Iterable[Sequence[tuple[int, bytes]]]
"""Batches of (page number, content)."""


def read_pages(db: DatabaseStore) -> Pages:
    """The committed pages of a database, while programs write it."""
    paths = (db.dir / "database", db.dir / "wal")
    return SnapshotReader(*paths, db.checksums, db.commit, before=lambda: db.sums_before).batches()


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
        return SnapshotInfo(page_size, db.commit, db.settled, db.timestamp_ms, int(self._reason))
