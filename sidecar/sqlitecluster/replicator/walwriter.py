"""Appends transactions to a database's WAL as SQLite itself would.

``WalWriter`` is used by apply, which holds the role locks for good; ``append_as_writer``
is used by capture on the primary (import, settling), which takes a writer's locks for
one transaction while programs keep the database open.

Rules:
    1. Frames first, then the index entries, then the header copies: what a reader can
       see is always whole. A kill in between leaves bytes that nobody uses; the next
       append overwrites them.
    2. The log's file header is written when the index says that the log is empty, with
       the index's salts: a restart that was cut in two is finished here.
    3. Pages of one transaction appear once each; the lock page never.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from sqlitecluster import failpoints
from sqlitecluster.errors import WALError
from sqlitecluster.replicator import walfile
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.shm import IndexHeader
from sqlitecluster.replicator.walfile import FRAME_HEADER_SIZE, HEADER_SIZE, Page
from sqlitecluster.replicator.walsession import WalSession

BATCH_BYTES: Final = 1 << 20
_MOST_BUFFERS: Final = 1024  # IOV_MAX


class WalWriter:
    """Writes the WAL of one session; WRITE must be held."""

    def __init__(self, session: WalSession) -> None:
        self._session = session
        self.reload()

    def reload(self) -> None:
        """Take over what is published, after another writer may have been there."""
        header = self._session.index.read()
        if header is None:
            raise WALError("wal-index", None, "the header is not valid")
        self.header: IndexHeader = header
        self._next = header.mx_frame
        self._sum = header.checksum

    @property
    def size(self) -> int:
        """Bytes of the log that are in use."""
        return HEADER_SIZE + self.header.mx_frame * (FRAME_HEADER_SIZE + self._session.page_size)

    def append(self, pages: Sequence[Page], commit: int) -> None:
        """Append and publish one transaction; the database is ``commit`` pages long afterwards."""
        self.write(pages, commit)
        self.publish(commit)

    def append_many(self, batches: Iterable[Sequence[Page]], commit: int) -> int:
        """Append one transaction that comes in batches (bounded memory); returns its pages.

        Nothing is published before the last batch is written; an error leaves no trace.
        """
        count = 0
        waiting: Sequence[Page] = ()
        for batch in batches:
            if waiting:
                self.write(waiting, 0)
            waiting = batch
            count += len(batch)
        if waiting:
            self.append(waiting, commit)
        return count

    def write(self, pages: Sequence[Page], commit: int) -> None:
        """Write frames behind the last written one; ``commit`` 0 when more follow."""
        session, header = self._session, self.header
        if self._next == 0:
            self._start_log()
            header = self.header
        frames, self._sum = walfile.build_frames(
            pages, session.page_size, commit, header.salt, self._sum, header.big_endian
        )
        at = HEADER_SIZE + self._next * (FRAME_HEADER_SIZE + session.page_size)
        failpoints.hit("apply.before-frames")
        write_buffers(session.wal_fd, frames, at)
        failpoints.hit("apply.after-frames")
        session.index.append(self._next + 1, [pgno for pgno, _page in pages])
        failpoints.hit("apply.after-index")
        self._next += len(pages)

    def publish(self, commit: int) -> None:
        """Make everything written visible."""
        old = self.header
        self.header = IndexHeader(
            old.change + 1, self._session.page_size, self._next, commit, self._sum, old.salt, old.big_endian
        )
        self._session.index.publish(self.header)

    def abandon(self) -> None:
        """Forget frames that were written and not published."""
        self._next = self.header.mx_frame
        self._sum = self.header.checksum

    def _start_log(self) -> None:
        session, old = self._session, self.header
        before = walfile.WalHeader.parse(os.pread(session.wal_fd, HEADER_SIZE, 0))
        salt = old.salt if any(old.salt) else secrets.token_bytes(8)
        head = walfile.WalHeader.make(session.page_size, before.sequence + 1 if before else 0, salt)
        write_buffers(session.wal_fd, [head.pack()], 0)
        self.header = replace(old, salt=salt, big_endian=head.big_endian)
        self._sum = head.checksum


def append_as_writer(paths: DbPaths, batches: Iterable[Sequence[Page]], commit: int, timeout_s: float = 5.0) -> int:
    """On the primary: append one transaction as any writing program would; returns its pages.

    ``paths.backing_wal`` is the path through the mount there, so that capture sees the frames.

    Raises:
        LockTimeout: a program held a lock for longer than ``timeout_s``.
    """
    session = WalSession.open_writer(paths, time.monotonic() + timeout_s)
    try:
        return WalWriter(session).append_many(batches, commit)
    finally:
        session.close()


def write_buffers(fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
    """Write buffers one behind the other from offset ``at`` on."""
    for start in range(0, len(buffers), _MOST_BUFFERS):
        some = buffers[start : start + _MOST_BUFFERS]
        size = sum(map(len, some))
        done = os.pwritev(fd, some, at)
        while done < size:  # a signal, or the disk just had room again
            rest = b"".join(some)[done:]
            done += os.pwrite(fd, rest, at + done)
        at += size
