"""Writes the WAL of a database of the primary back, beside the programs that use it.

``checkpointing`` decides when. Three steps, of which the last two need nobody's leave:

    join      SHARED on the database, DMS, CKPT: what a connection that runs a checkpoint holds
    pass      frames into the database, as far as readers allow
    close in  a writer that never rests has appended again when a pass is done. READ1 … READ4 are
              taken as they come free; with all of them nobody can begin a snapshot that needs the
              log, so it stands still, and the few frames that are left are written back, too.
              Whoever begins meanwhile tries again inside SQLite (WAL_RETRY): a pause, no error.

Afterwards readers and writers read the database file only, and the next writer starts the log over
by itself, as after any checkpoint. Who was the last to close the database meanwhile could not remove
the log, because our locks looked like another connection's: then we are the last.

Rules:
    1. Only published frames that are captured: what is held back for a quorum is neither.
    2. Never a restart, never a truncation of the log: those are the programs'. It is removed only
       under EXCLUSIVE, when nobody has the database open. Locks alone do not tell: a program that
       opens and closes the file beside SQLite, to copy it, loses the locks of its connections.
    3. No waiting for locks: what is not free now is tried at another time. A database that is
       locked exclusively, has a rollback journal, or that nobody has open, is left alone.
    4. WAL durable before the first page is written, the database before the index says so.
    5. Pages go through the mount, so that what the kernel cached, also for mapped reads, is right.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from sqlitecluster import failpoints
from sqlitecluster.errors import LockTimeout
from sqlitecluster.replicator import locks, through, walfile
from sqlitecluster.replicator.checkpoint import Backfill
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.shm import MARKS, REGION, WalIndex
from sqlitecluster.sqlitefmt.walindex import CHECKPOINT_AT, CHECKPOINT_SIZE, CheckpointInfo, read_header

CLOSE_IN_S: Final = 0.1
CAPTURED_S: Final = 0.02
CLOSED_S: Final = 10.0
"""So long a log that nobody has open any more waits for its capture."""
RELEASED_S: Final = 0.1
"""So long after its locks went the handles of a program that closed may be known to the mount."""
CLOSING_S: Final = 0.03
"""So long a program's last close takes that found our lock, and so left the log."""
_PASSES: Final = 3
MOST_AT_ONCE: Final = 8192
"""Frames of one pass: a program's own checkpoint that meets ours is told that it is busy."""
MOST_AT_END: Final = 256
"""Frames that are written back while readers wait to begin."""
_SLOW_S: Final = 0.25
"""A disk whose syncs take longer is not made to sync while readers wait."""
_PAUSE_S: Final = 0.0001


class Joined:
    """A database that programs use, with the locks of a checkpoint; close it soon."""

    def __init__(self, paths: DbPaths) -> None:
        self.paths = paths
        self.page_size = 0
        self.is_unsynced = False  # who backfills here syncs, as SQLite does
        self.db_fd = self.shm_fd = self.wal_fd = -1
        self._index: WalIndex | None = None

    @property
    def index(self) -> WalIndex:
        assert self._index is not None, "it is closed"
        return self._index

    @classmethod
    def open(cls, paths: DbPaths) -> Self | None:
        """Take the locks; None when that is not possible now."""
        joined = cls(paths)
        taken = False
        try:
            taken = joined._take()
        except (FileNotFoundError, LockTimeout):
            taken = False
        finally:
            if not taken:
                joined.close()
        return joined if taken else None

    def _take(self) -> bool:
        paths, now = self.paths, time.monotonic()
        self.db_fd = through.open_fd(paths.database, os.O_RDWR)
        locks.lock_shared(self.db_fd, now)
        self.shm_fd = through.open_fd(paths.shm, os.O_RDWR)
        found = locks.holder(self.shm_fd, locks.DMS)
        if found is None or found[0] != fcntl.F_RDLCK or not locks.try_lock(self.shm_fd, fcntl.F_RDLCK, locks.DMS):
            return False
        if not locks.try_lock(self.shm_fd, fcntl.F_WRLCK, locks.CKPT):
            return False
        if os.fstat(self.shm_fd).st_size < REGION or not self._is_same():
            return False
        self._index = WalIndex(self.shm_fd)
        return self._open_log()

    def _open_log(self) -> bool:
        """The file behind ``-wal``, if it is the log that the index speaks of."""
        header = self.index.read()
        if header is None or not header.mx_frame:
            return False
        self.wal_fd = os.open(self.paths.backing_wal, os.O_RDONLY | os.O_CLOEXEC)
        head = walfile.WalHeader.parse(os.pread(self.wal_fd, walfile.HEADER_SIZE, 0))
        self.page_size = header.page_size
        return head is not None and head.salt == header.salt and head.page_size == header.page_size

    def _is_same(self) -> bool:
        pairs = ((self.paths.database, self.db_fd), (self.paths.shm, self.shm_fd))
        return all(through.stat(path).st_ino == os.fstat(fd).st_ino for path, fd in pairs)

    def close(self) -> None:
        """Give every lock back."""
        if self._index is not None:
            self._index.close()
            self._index = None
        for fd in (self.wal_fd, self.shm_fd, self.db_fd):
            if fd >= 0:
                os.close(fd)
        self.wal_fd = self.shm_fd = self.db_fd = -1

    # what is worth knowing

    @property
    def frames(self) -> int:
        """Published frames; 0 while the index is being changed."""
        header = self.index.read()
        return header.mx_frame if header is not None else 0

    @property
    def is_in_database(self) -> bool:
        """Whether the next connection needs nothing of the log."""
        return self.index.backfilled == self.frames

    # writing back

    def write_back(self, captured: Callable[[], int], is_over: Callable[[], bool]) -> None:
        """Passes, and the rest if the log can be made to stand still.

        ``captured``: frames of this log that are captured. ``is_over``: stop, the role changes.
        """
        for _ in range(_PASSES):
            began = time.monotonic()
            there = captured()
            limit = min(there, self.index.backfilled + MOST_AT_ONCE)
            if not self._pass(limit, is_over) or limit < there or self.is_in_database or is_over():
                return
            slow = time.monotonic() - began > _SLOW_S and self.frames - limit > MOST_AT_END
            if slow or self._close_in(captured, is_over):
                return

    def _pass(self, limit: int, is_over: Callable[[], bool]) -> bool:
        """Frames into the database; False when a reader did not let all of them go."""
        if limit <= self.index.backfilled:
            return True
        os.fdatasync(self.wal_fd)
        return Backfill(self, is_over).run(sync=True, limit=limit) >= limit

    def _close_in(self, captured: Callable[[], int], is_over: Callable[[], bool]) -> bool:
        """Write the last frames back; False when there are too many of them for that."""
        fd = through.open_fd(self.paths.shm, os.O_RDWR)  # READ locks end with it
        try:
            if not _take_readers(fd, time.monotonic() + CLOSE_IN_S, is_over):
                return True
            frames = self.frames  # from here on nobody can append to it
            if frames - self.index.backfilled > MOST_AT_END:
                return False
            deadline = time.monotonic() + CAPTURED_S
            while captured() < frames:
                if time.monotonic() >= deadline or is_over():
                    return False
                time.sleep(_PAUSE_S)
            failpoints.hit("checkpoint.closed-in")
            os.fdatasync(self.wal_fd)
            Backfill(self, is_over).run(sync=True, limit=frames, alone=fd)
        finally:
            os.close(fd)
        return True

    def close_for_programs(
        self,
        captured: Callable[[], int],
        committed: Callable[[], int],
        is_over: Callable[[], bool],
        is_open: Callable[[], bool],
    ) -> None:
        """The last program closed the database meanwhile, and could not remove its log because of us: do it.

        ``committed``: frames up to the last commit, published or not; what was not is judged by others.
        ``is_open``: whether a program has a file handle to write the database by, with locks or without.
        """
        began = time.monotonic()
        while self._is_last() and self.frames and committed() == self.frames and not is_over():
            still_open = is_open()
            if captured() >= self.frames and not still_open:
                self._close_for_programs(is_open)
                return
            if time.monotonic() >= began + (RELEASED_S if still_open else CLOSED_S):
                return
            time.sleep(10 * _PAUSE_S)

    def _is_last(self) -> bool:
        """Whether nobody but us holds a lock on the database, and its log is there.

        While somebody does, SHARED is given back, and looked again: who begins to close it from then on
        removes the log, and who was closing it already is gone after ``CLOSING_S``.
        """
        if not self._is_alone:
            locks.unlock(self.db_fd, locks.SHARED_FIRST, locks.SHARED_SIZE)
            until = time.monotonic() + CLOSING_S
            while not self._is_alone:
                if time.monotonic() >= until:
                    return False
                time.sleep(10 * _PAUSE_S)
            if not locks.try_lock(self.db_fd, fcntl.F_RDLCK, locks.SHARED_FIRST, locks.SHARED_SIZE):
                return False
        with contextlib.suppress(FileNotFoundError):
            return self._is_same()
        return False

    @property
    def _is_alone(self) -> bool:
        return locks.holder(self.db_fd, locks.SHARED_FIRST, locks.SHARED_SIZE) is None

    def _close_for_programs(self, is_open: Callable[[], bool]) -> None:
        """Under EXCLUSIVE, as SQLite's own last close."""
        fd = self.db_fd
        if not locks.try_lock(fd, fcntl.F_WRLCK, locks.PENDING):
            return
        try:
            if not locks.try_lock(fd, fcntl.F_WRLCK, locks.SHARED_FIRST, locks.SHARED_SIZE):
                return
            frames = self.frames
            self._pass(frames, lambda: False)
            if frames and self.is_in_database and not is_open():
                for path in (self.paths.shm, self.paths.wal):
                    with contextlib.suppress(FileNotFoundError):
                        through.unlink(path)
        finally:
            locks.unlock(fd, locks.PENDING, 2 + locks.SHARED_SIZE)


def _take_readers(fd: int, deadline: float, is_over: Callable[[], bool]) -> bool:
    """READ1 … READ4 exclusively, each as it comes free; what was got is kept until all are.

    A busy writer leaves its lock for microseconds only, so this does not sleep.
    """
    left = list(range(locks.READ0 + 1, locks.READ0 + MARKS))
    while True:
        left = [byte for byte in left if not locks.try_lock(fd, fcntl.F_WRLCK, byte)]
        if not left:
            return True
        if time.monotonic() >= deadline or is_over():
            return False


def reader_in_the_way(shm: Path) -> int:
    """The process with the oldest snapshot that keeps the log from being written back; 0: nobody, or not known."""
    with contextlib.suppress(OSError):
        fd = through.open_fd(shm, os.O_RDONLY)
        try:
            raw = os.pread(fd, CHECKPOINT_AT + CHECKPOINT_SIZE, 0)
            if read_header(raw) is not None:
                info = CheckpointInfo.parse(raw[CHECKPOINT_AT:])
                return _oldest(fd, info)
        finally:
            os.close(fd)
    return 0


def _oldest(fd: int, info: CheckpointInfo) -> int:
    found: list[tuple[int, int]] = []
    for reader in range(1, MARKS):
        held = locks.holder(fd, locks.READ0 + reader)
        if held is not None and held[1] > 0 and info.read_marks[reader] <= info.backfilled:
            found.append((info.read_marks[reader], held[1]))
    if found:
        return min(found)[1]
    held = locks.holder(fd, locks.READ0)  # reads the database file only, and lets nobody write it
    return max(held[1], 0) if held is not None else 0
