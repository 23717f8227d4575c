"""Writes a WAL back into its database file; on a replica also starts the WAL over.

Backfill may run in a thread of its own while a writer appends (``Backfill.run``): apply on
a replica, programs on the primary (``backfill_primary``). The restart (``try_restart``)
belongs to the apply thread, which must not append meanwhile.

Rules (SQLite's walCheckpoint and walRestartHdr, step by step):
    1. No frame is backfilled beyond what the readers of READ1 … READ4 still need.
    2. READ0 is held exclusively while pages are written: its readers read only the
       database file. Pages go through the mount, so that the kernel's cache is right.
    3. A restart needs everything backfilled and READ1 … READ4 exclusively; then the
       index header (new salts, no frames), the backfill words and marks, and only then
       the log's file header. A successor that finds the first without the last writes it.
    4. The READ locks are taken on a description of their own, which dies with us.
    5. LTX that the frames came from is durable before the first page is written.
    6. With ``sync`` the database is durable before the index says so: a writer may overwrite
       the frames from then on. That counts what an earlier pass without it has written, too.
    7. A log that was started over between two looks at the index is not touched: its frames
       are other ones than those that were counted (SQLite's WAL-reset bug, fixed in 3.51.3).
       Once there is something to backfill and CKPT is ours, nobody can start it over.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from sqlitecluster import failpoints
from sqlitecluster.replicator import locks, through, walfile
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.shm import MARKS, NOT_USED, WalIndex
from sqlitecluster.replicator.walfile import FRAME_HEADER_SIZE, HEADER_SIZE
from sqlitecluster.replicator.walsession import WalSession
from sqlitecluster.replicator.walwriter import WalWriter, write_buffers

_RUN_PAGES: Final = 256  # pages written by one call; below IOV_MAX
_RUN_BYTES: Final = 1 << 20
MOST_AT_RESTART: Final = 2000
"""Frames that a restart backfills itself; more is left to another pass."""
_KEEP_FACTOR: Final = 2  # a WAL file longer than this many thresholds is cut after a restart


class Logged(Protocol):
    """An open database whose CKPT lock is ours."""

    paths: DbPaths
    db_fd: int
    wal_fd: int
    page_size: int
    is_unsynced: bool
    """Whether a pass may have written what no fsync has followed."""

    @property
    def index(self) -> WalIndex: ...


class Backfill:
    """One pass over the WAL of a database whose CKPT lock we hold."""

    def __init__(self, session: Logged, is_over: Callable[[], bool] = lambda: False) -> None:
        """``is_over``: asked between two writes; the pass then ends and has changed nothing for readers."""
        self._session = session
        self._index: WalIndex = session.index
        self._is_over = is_over

    def run(self, *, sync: bool, limit: int = NOT_USED, alone: int = -1) -> int:
        """Copy frames into the database as far as readers allow; returns the frame reached.

        ``sync`` makes the database durable (slow: not in the apply thread). Frames beyond ``limit``
        stay. ``alone``: a descriptor on which READ1 … READ4 are held exclusively already.
        """
        if alone >= 0:
            return self._run(alone, sync=sync, limit=limit, alone=True)
        fd = through.open_fd(self._session.paths.shm, os.O_RDWR)
        try:
            return self._run(fd, sync=sync, limit=limit, alone=False)
        finally:
            os.close(fd)

    def _run(self, fd: int, *, sync: bool, limit: int, alone: bool) -> int:
        reached = self._pass(fd, sync=sync, limit=limit, alone=alone)
        if sync:
            self._sync()  # even if nothing was left to write
        return reached

    def _pass(self, fd: int, *, sync: bool, limit: int, alone: bool) -> int:
        index = self._index
        header, done = index.read(), index.backfilled
        again = index.read()
        if header is None or again is None or again.salt != header.salt or header.mx_frame <= done:
            return done
        safe = min(limit, self._safe_frame(fd, header.mx_frame, alone=alone))
        if done >= safe or not locks.try_lock(fd, fcntl.F_WRLCK, locks.READ0):
            return done
        index.attempted = safe
        pages, frames = newest_frames(index.pgnos(header.mx_frame), done, safe, header.pages)
        self._session.is_unsynced = True
        if not self._copy(pages, frames):
            return done
        now = index.read()
        if now is not None and now.mx_frame == safe and now.salt == header.salt:
            self._cut(now.pages)
        if sync:
            self._sync()
        failpoints.hit("checkpoint.before-backfilled")
        index.backfilled = safe
        return safe

    def _sync(self) -> None:
        """Make the database durable, if it is not."""
        if self._session.is_unsynced:
            os.fsync(self._session.db_fd)
            self._session.is_unsynced = False

    def _safe_frame(self, fd: int, mx_frame: int, *, alone: bool) -> int:
        """The newest frame that no reader's snapshot is older than."""
        safe = mx_frame
        for reader in range(1, MARKS):
            mark = self._index.mark(reader)
            if safe <= mark:
                continue
            if alone:
                self._index.set_mark(reader, safe if reader == 1 else NOT_USED)
            elif locks.try_lock(fd, fcntl.F_WRLCK, locks.READ0 + reader):
                self._index.set_mark(reader, safe if reader == 1 else NOT_USED)
                locks.unlock(fd, locks.READ0 + reader)
            else:
                safe = mark
        return safe

    def _copy(self, pages: npt.NDArray[np.int64], frames: npt.NDArray[np.int64]) -> bool:
        """Write each page from its frame; neighbouring pages by one call. False: it was ended."""
        session = self._session
        page_size = session.page_size
        frame_size = FRAME_HEADER_SIZE + page_size
        most = max(1, min(_RUN_PAGES, _RUN_BYTES // page_size))
        waiting: list[bytes | memoryview] = []
        start = 0
        offsets = (HEADER_SIZE + (frames - 1) * frame_size + FRAME_HEADER_SIZE).tolist()
        for pgno, offset in zip(pages.tolist(), offsets, strict=True):
            if waiting and (pgno != start + len(waiting) or len(waiting) == most):
                write_buffers(session.db_fd, waiting, (start - 1) * page_size)
                waiting = []
                if self._is_over():
                    return False
            if not waiting:
                start = pgno
                failpoints.hit("checkpoint.page")
            waiting.append(os.pread(session.wal_fd, page_size, offset))
        if waiting:
            write_buffers(session.db_fd, waiting, (start - 1) * page_size)
        return not self._is_over()

    def _cut(self, pages: int) -> None:
        """Give the database file its exact length."""
        size = pages * self._session.page_size
        if size and os.fstat(self._session.db_fd).st_size != size:
            os.ftruncate(self._session.db_fd, size)


def try_restart(session: WalSession, writer: WalWriter, keep_bytes: int, sync_log: Callable[[], None]) -> bool:
    """Backfill what is left and start the log over; False while a reader is in the way.

    The database need not be durable: after a power cut it is made again from LTX. Not so what only the log
    holds (``WalSession.holds_image``).
    """
    mx_frame = writer.header.mx_frame
    if mx_frame == 0:
        session.holds_image = False
        return True
    left = mx_frame - session.index.backfilled
    if left > MOST_AT_RESTART:
        return False
    if left or session.holds_image:
        sync_log()
        if Backfill(session).run(sync=session.holds_image) < mx_frame:
            return False
        session.holds_image = False  # the database has it, durable
    fd = through.open_fd(session.paths.shm, os.O_RDWR)
    try:
        if not locks.try_lock(fd, fcntl.F_WRLCK, locks.READ0 + 1, MARKS - 1):
            return False
        _restart(session, writer, keep_bytes)
    finally:
        os.close(fd)
    return True


def _restart(session: WalSession, writer: WalWriter, keep_bytes: int) -> None:
    index, old = session.index, writer.header
    first = (int.from_bytes(old.salt[:4], "big") + 1) & 0xFFFF_FFFF
    salt = first.to_bytes(4, "big") + secrets.token_bytes(4)
    before = walfile.WalHeader.parse(os.pread(session.wal_fd, HEADER_SIZE, 0))
    index.publish(replace(old, mx_frame=0, salt=salt))
    failpoints.hit("checkpoint.after-index-header")
    index.reset_after_restart()
    failpoints.hit("checkpoint.after-marks")
    sequence = before.sequence + 1 if before is not None else 0
    os.pwrite(session.wal_fd, walfile.WalHeader.make(session.page_size, sequence, salt).pack(), 0)
    if os.fstat(session.wal_fd).st_size > _KEEP_FACTOR * keep_bytes:
        os.ftruncate(session.wal_fd, max(HEADER_SIZE, keep_bytes))
    writer.reload()


def newest_frames(
    pgnos: npt.NDArray[np.uint32], after: int, safe: int, commit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(pages, frames), by page: the newest frame of each page, if it is in ``after`` + 1 … ``safe``."""
    pages, from_end = np.unique(pgnos[::-1], return_index=True)
    frames = len(pgnos) - from_end
    chosen = (frames > after) & (frames <= safe) & (pages <= commit) & (pages > 0)
    return pages[chosen].astype(np.int64), frames[chosen].astype(np.int64)


def sync_first(sync_log: Callable[[], None], session: WalSession) -> int:
    """A whole pass outside the apply thread: LTX durable, then pages, then the database."""
    sync_log()
    os.fdatasync(session.wal_fd)
    return Backfill(session).run(sync=True)
