"""SQLite's byte-range locks, taken as open-file-description locks through the mount.

Used by apply and install (role locks of a replica) and by capture on the primary
(``WriterLocks``: the locks that any writing program would take).

Rules:
    1. The kernel keeps the locks of a mount itself, so they hold against every program
       that uses the mount. They belong to the open description: a duplicate in the
       supervisor keeps them alive when this process is killed.
    2. Order: SHARED and RESERVED on the database, then open ``-wal`` and ``-shm``, then
       DMS, CKPT, WRITE; last, path and descriptor must still be the same file.
       Otherwise the last close of a program could unlink ``-shm`` in between.
    3. ``-shm`` is never mapped without the DMS lock: its first opener truncates it.
    4. READ0 … READ4 are locked on a description of its own, which nobody keeps: they
       must not outlive this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster.errors import LockTimeout

PENDING: Final = 0x4000_0000
RESERVED: Final = PENDING + 1
SHARED_FIRST: Final = PENDING + 2
SHARED_SIZE: Final = 510

WRITE: Final = 120
CKPT: Final = 121
RECOVER: Final = 122
READ0: Final = 123  # READ0 … READ4 are 123 … 127
READERS: Final = 5
DMS: Final = 128

_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_FIRST_PAUSE_S: Final = 0.0002
LONGEST_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class DbPaths:
    """Where one database is: as programs see it, and the file behind its ``-wal``."""

    database: Path
    """Through the mount; ``-wal`` and ``-shm`` stand beside it."""
    backing_wal: Path
    """The file that the mount serves, uncached, as ``-wal``."""

    @property
    def wal(self) -> Path:
        return self.database.with_name(self.database.name + "-wal")

    @property
    def shm(self) -> Path:
        return self.database.with_name(self.database.name + "-shm")

    @classmethod
    def plain(cls, database: Path) -> DbPaths:
        """A database that is behind no mount, or whose ``-wal`` is written through it."""
        return cls(database, database.with_name(database.name + "-wal"))


def try_lock(fd: int, kind: int, start: int, length: int = 1) -> bool:
    """Set F_RDLCK, F_WRLCK or F_UNLCK at once; False when another holder is in the way."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except BlockingIOError:
        return False
    except PermissionError:  # EACCES: POSIX allows it for "is locked"
        return False
    return True


def unlock(fd: int, start: int, length: int = 1) -> None:
    """Release; harmless when nothing is held."""
    try_lock(fd, fcntl.F_UNLCK, start, length)


def holder(fd: int, start: int, length: int = 1, *, kind: int = fcntl.F_WRLCK) -> tuple[int, int] | None:
    """(type, pid) of a lock of another description that is in the way of ``kind``, or None.

    The pid is -1 for an open-file-description lock.
    """
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    found, _whence, _start, _length, pid = _FLOCK.unpack(answer)
    return None if found == fcntl.F_UNLCK else (found, pid)


def wait_lock(
    fd: int,
    kind: int,
    start: int,
    deadline: float,
    what: str,
    length: int = 1,
    *,
    longest_pause_s: float = LONGEST_PAUSE_S,
) -> None:
    """Lock, trying again until ``deadline`` (CLOCK_MONOTONIC, seconds).

    Raises:
        LockTimeout: it names the pid that holds the lock, where the kernel knows it.
    """
    pause = _FIRST_PAUSE_S
    while not try_lock(fd, kind, start, length):
        if time.monotonic() >= deadline:
            found = holder(fd, start, length, kind=kind)
            by = f" (pid {found[1]})" if found is not None and found[1] > 0 else ""
            raise LockTimeout(f"{what} is held by another process{by}")
        time.sleep(pause)
        pause = min(pause * 2, longest_pause_s)


def lock_shared(fd: int, deadline: float) -> None:
    """SHARED on a database file, by way of PENDING as SQLite does."""
    wait_lock(fd, fcntl.F_RDLCK, PENDING, deadline, "PENDING on the database")
    try:
        wait_lock(fd, fcntl.F_RDLCK, SHARED_FIRST, deadline, "SHARED on the database", SHARED_SIZE)
    finally:
        unlock(fd, PENDING)


@contextlib.contextmanager
def exclusive(fd: int, deadline: float) -> Iterator[None]:
    """EXCLUSIVE on a database on which SHARED and RESERVED are held; SHARED again afterwards."""
    wait_lock(fd, fcntl.F_WRLCK, PENDING, deadline, "PENDING on the database")
    try:
        wait_lock(fd, fcntl.F_WRLCK, SHARED_FIRST, deadline, "SHARED on the database", SHARED_SIZE)
        yield
    finally:
        try_lock(fd, fcntl.F_RDLCK, SHARED_FIRST, SHARED_SIZE)
        unlock(fd, PENDING)
