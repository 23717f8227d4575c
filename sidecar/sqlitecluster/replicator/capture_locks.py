"""Keeping a WAL database still while its image is read, on a primary.

CKPT keeps the database file from being written and the log from being restarted while
it holds frames that are not written back. WRITE is not needed: frames behind the end
that was read do not count. A writer may even hold it and wait for capture.

Rules:
    1. Order as SQLite's: SHARED on the database, DMS, CKPT; then path and descriptor must
       still be the same file.
    2. Where nobody is connected the wal-index may be stale: then it is built anew, as the
       first connection would, by ``WalSession``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlitecluster.errors import LockTimeout
from sqlitecluster.replicator import locks, through
from sqlitecluster.replicator.walsession import NotInWalError, WalSession
from sqlitecluster.sqlitefmt.walindex import CHECKPOINT_AT, CHECKPOINT_SIZE, CheckpointInfo, read_header


@dataclass(frozen=True, slots=True)
class StillLog:
    """What the wal-index said when the locks were held."""

    frames: int
    """Published frames."""
    backfilled: int
    """Frames that are in the database file already."""
    salts: tuple[int, int] | None
    """Of the log that the index belongs to; None on an index that was just made."""
    page_size: int


@contextlib.contextmanager
def still_log(database: Path, timeout_s: float) -> Iterator[StillLog]:
    """Hold a WAL database still.

    Raises:
        LockTimeout: a checkpoint runs, or a program has it locked exclusively.
        NotInWalError: it has no WAL and is in a rollback mode.
        NotADatabase: the file does not start as a SQLite database does.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        found = _join(database, deadline, stack)
        yield found if found is not None else _begin(database, deadline, stack)


@contextlib.contextmanager
def held_still(session: WalSession) -> Iterator[StillLog]:
    """The same for a database whose role locks are ours already.

    Raises:
        NotInWalError: it has no WAL.
    """
    if not session.has_log:
        raise NotInWalError("it is in a rollback journal mode")
    head = session.index.read()
    if head is None:
        raise LockTimeout("the wal-index is not valid")
    salts = int.from_bytes(head.salt[:4], "big"), int.from_bytes(head.salt[4:], "big")
    yield StillLog(head.mx_frame, session.index.backfilled, salts if head.mx_frame else None, session.page_size)


def _join(database: Path, deadline: float, stack: contextlib.ExitStack) -> StillLog | None:
    """Take the locks beside connected programs; None when there are none."""
    shm = database.with_name(database.name + "-shm")
    try:
        db_fd = _open(database, os.O_RDONLY, stack)
        locks.lock_shared(db_fd, deadline)
        shm_fd = _open(shm, os.O_RDWR, stack)
    except FileNotFoundError:
        return None
    if locks.holder(shm_fd, locks.DMS) is None:
        return None
    locks.wait_lock(shm_fd, fcntl.F_RDLCK, locks.DMS, deadline, "the wal-index")
    locks.wait_lock(shm_fd, fcntl.F_WRLCK, locks.CKPT, deadline, "the checkpoint lock")
    raw = os.pread(shm_fd, CHECKPOINT_AT + CHECKPOINT_SIZE, 0)
    head = read_header(raw)
    if head is None or not _is_same(shm, shm_fd):
        raise LockTimeout("the wal-index is being changed")
    info = CheckpointInfo.parse(raw[CHECKPOINT_AT:])
    return StillLog(head.max_frame, info.backfilled, (head.salt1, head.salt2), head.page_size)


def _begin(database: Path, deadline: float, stack: contextlib.ExitStack) -> StillLog:
    """Be the first connection."""
    stack.close()
    session = WalSession.open_writer(locks.DbPaths.plain(database), deadline)
    stack.callback(session.close)
    locks.wait_lock(session.shm_fd, fcntl.F_WRLCK, locks.CKPT, deadline, "the checkpoint lock")
    head = session.index.read()
    if head is None:
        raise LockTimeout("the wal-index is being changed")
    salts = int.from_bytes(head.salt[:4], "big"), int.from_bytes(head.salt[4:], "big")
    found = StillLog(head.mx_frame, session.index.backfilled, salts if head.mx_frame else None, session.page_size)
    locks.unlock(session.shm_fd, locks.WRITE)
    return found


def _open(path: Path, flags: int, stack: contextlib.ExitStack) -> int:
    """A descriptor whose locks end with the stack."""
    fd = through.open_fd(path, flags)
    stack.callback(os.close, fd)
    return fd


def _is_same(path: Path, fd: int) -> bool:
    try:
        return through.stat(path).st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False
