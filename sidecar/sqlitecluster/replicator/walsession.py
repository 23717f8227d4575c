"""One database opened the way SQLite opens it in WAL mode: descriptors, locks, wal-index.

Two users:
    role locks    apply on a replica: SHARED + RESERVED on the database, DMS + CKPT + WRITE
                  on ``-shm``, held as long as the node is a replica, so that no program
                  writes, checkpoints or removes the WAL.
    writer locks  capture on the primary, for one transaction: SHARED, DMS, WRITE.

A replica's database is physically in WAL whatever its header says: SQLite opens the WAL
when ``-wal`` is not empty, and page 1 with a rollback header is a frame like any other.

A primary that is about to hand over takes the role locks in two steps: ``seize`` ends
writing (and only that: the database is left as programs know it), ``complete`` makes it a
replica's. In between everything is captured.

Rules:
    1. Order of locks and the last comparison of inodes: see ``locks``.
    2. RESERVED is taken before SHARED, so that a running rollback transaction of a
       program can still commit; a database without WAL content is turned to WAL only
       under EXCLUSIVE, because readers of rollback mode take no READ lock.
    3. The wal-index is valid whenever WRITE is held: readers cannot recover it then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlitecluster.errors import LockTimeout, NotADatabase, StoreError
from sqlitecluster.replicator import locks, through, walfile
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.shm import IndexHeader, WalIndex

_TRIES: Final = 5
_SEIZE_PAUSE_S: Final = 0.0005
_ROLL_BACK_S: Final = 0.05  # at least: SQLite needs some tries, beside programs that try the same
_SCAN_BYTES: Final = 4 << 20
_MAGIC: Final = b"SQLite format 3\0"
_WAL_MODE: Final = 2

Keep = Callable[[str, int], None]


def _keep_nothing(_kind: str, _fd: int) -> None:
    """Default: no supervisor holds duplicates."""


class NotInWalError(StoreError):
    """A writer session was asked for on a database whose programs do not use a WAL."""


class WalSession:
    """An open database. ``index`` is mapped, ``wal_fd`` is where frames are written."""

    def __init__(self, paths: DbPaths, *, role: bool) -> None:
        self.paths = paths
        self.role = role
        self.db_fd = -1
        self.shm_fd = -1
        self.wal_fd = -1
        self.page_size = 0
        self.is_unsynced = True  # an earlier process may have left it so
        self.holds_image = True
        """Whether the log may hold pages of a received image, which no LTX has: the database is made durable
        before the log starts over."""
        self._index: WalIndex | None = None
        self._pause_s = locks.LONGEST_PAUSE_S

    @property
    def index(self) -> WalIndex:
        assert self._index is not None, "the session is closed"
        return self._index

    @classmethod
    def open_role(
        cls, paths: DbPaths, deadline: float, kept: dict[str, int] | None = None, keep: Keep = _keep_nothing
    ) -> WalSession:
        """Take a replica's role locks, or adopt the descriptors that carry them already.

        ``kept`` maps "database" and "shm" to descriptors (taken over); ``keep`` is told
        of new ones before anything is locked on them.

        Raises:
            LockTimeout: a program holds one of them; nothing is held afterwards.
            NotADatabase: the file does not start as a SQLite database does.
        """
        kept = dict(kept or {})
        if not kept:
            _roll_back_hot_journal(paths, deadline)
        return cls._open(paths, deadline, role=True, kept=kept, keep=keep)

    @classmethod
    def seize(
        cls, paths: DbPaths, deadline: float, kept: dict[str, int] | None = None, keep: Keep = _keep_nothing
    ) -> WalSession:
        """The first step of ``open_role``: no program can begin a write transaction any more.

        Waits with short pauses: a busy writer leaves its lock for a moment only. A database
        without a WAL keeps its files: only RESERVED and SHARED are held, ``index`` is not there.

        Raises:
            LockTimeout, NotADatabase: as ``open_role``.
        """
        kept = dict(kept or {})
        try:
            if not kept:
                _roll_back_hot_journal(paths, deadline)
        except LockTimeout as error:
            raise LockTimeout(f"{error.message}{_held_by(paths.database)}") from error
        return cls._open(paths, deadline, role=True, kept=kept, keep=keep, seize=True)

    def complete(self, deadline: float, keep: Keep = _keep_nothing) -> None:
        """The second step: readers use the WAL from now on, and only we write it.

        Raises:
            LockTimeout: a reader of a rollback-mode database does not end; nothing was released.
        """
        if self._index is None:
            self._take_log(deadline, keep)
        self._finish_restart()
        self._turn_to_wal(_read_header(self.db_fd, self.paths.database)[1], deadline)

    @property
    def has_log(self) -> bool:
        """Whether the log and its index are open: not between the two steps in rollback mode."""
        return self._index is not None

    @classmethod
    def open_writer(cls, paths: DbPaths, deadline: float) -> WalSession:
        """Take the locks of a writing program; the database must be in WAL mode."""
        return cls._open(paths, deadline, role=False, kept={}, keep=_keep_nothing)

    @classmethod
    def _open(
        cls, paths: DbPaths, deadline: float, *, role: bool, kept: dict[str, int], keep: Keep, seize: bool = False
    ) -> WalSession:
        for _ in range(_TRIES):
            session = cls(paths, role=role)
            session._pause_s = _SEIZE_PAUSE_S if seize else locks.LONGEST_PAUSE_S
            try:
                session._take(deadline, kept, keep, seize=seize)
                if session._same_files():
                    return session
            except BaseException:
                session.close()
                raise
            session.close()
            kept = {}
        raise LockTimeout(f"{paths.database}: its files are being replaced all the time")

    def end_readers(self, deadline: float) -> None:
        """Wait until no snapshot is open, and let no new one begin for as long as the session is open.

        Raises:
            LockTimeout: a reader stays.
        """
        what = "a read lock of the WAL"
        locks.wait_lock(self.shm_fd, fcntl.F_WRLCK, locks.READ0, deadline, what, locks.READERS)

    def leave(self) -> None:
        """Close the descriptors without unlocking: a duplicate kept elsewhere keeps the locks."""
        if self._index is not None:
            self._index.close()
            self._index = None
        for fd in (self.wal_fd, self.shm_fd, self.db_fd):
            if fd >= 0:
                os.close(fd)
        self.wal_fd = self.shm_fd = self.db_fd = -1

    def close(self) -> None:
        """Release every lock and descriptor. A duplicate kept elsewhere loses the locks too."""
        if self.shm_fd >= 0:
            locks.unlock(self.shm_fd, locks.WRITE, locks.DMS - locks.WRITE)
            locks.unlock(self.shm_fd, locks.DMS)
        if self.db_fd >= 0:
            locks.unlock(self.db_fd, locks.PENDING, 2 + locks.SHARED_SIZE)
        self.leave()

    # taking the locks

    def _take(self, deadline: float, kept: dict[str, int], keep: Keep, *, seize: bool) -> None:
        paths = self.paths
        self.db_fd = kept.pop("database", -1)
        self.shm_fd = kept.pop("shm", -1)
        if self.db_fd < 0:
            self.db_fd = through.open_fd(paths.database, os.O_RDWR)
        if self.role:
            keep("database", self.db_fd)
            self._wait(self.db_fd, locks.RESERVED, deadline, "RESERVED on the database")
        locks.lock_shared(self.db_fd, deadline)
        self.page_size, mode = _read_header(self.db_fd, paths.database)
        uses_wal = mode == _WAL_MODE or _has_content(paths.wal)
        if not uses_wal and not self.role:
            raise NotInWalError(f"{paths.database.name} is in a rollback journal mode")
        if not uses_wal and seize:
            return
        self._take_log(deadline, keep)
        if self.role and not seize:
            self._finish_restart()
            self._turn_to_wal(mode, deadline)

    def _take_log(self, deadline: float, keep: Keep) -> None:
        self._open_wal()
        if self.shm_fd < 0:
            self.shm_fd = _open_beside(self.paths.shm, self.db_fd)
        if self.role:
            keep("shm", self.shm_fd)
        self._lock_dms(deadline)
        if self.role:
            self._wait(self.shm_fd, locks.CKPT, deadline, "the checkpoint lock")
        self._wait(self.shm_fd, locks.WRITE, deadline, "the write lock")
        if self.index.read() is None:
            self._recover(deadline)

    def _wait(self, fd: int, byte: int, deadline: float, what: str) -> None:
        locks.wait_lock(fd, fcntl.F_WRLCK, byte, deadline, what, longest_pause_s=self._pause_s)

    def _open_wal(self) -> None:
        """Create ``-wal`` through the mount, so that no cached negative entry hides it."""
        fd = _open_beside(self.paths.wal, self.db_fd)
        if self.paths.backing_wal == self.paths.wal:
            self.wal_fd = fd
            return
        os.close(fd)
        self.wal_fd = os.open(self.paths.backing_wal, os.O_RDWR | os.O_CLOEXEC)

    def _lock_dms(self, deadline: float) -> None:
        """The dead man's switch: whoever finds nobody else there builds the index."""
        while True:
            # A fresh description also sees a lock that our own, adopted one holds.
            probe = through.open_fd(self.paths.shm, os.O_RDWR)
            try:
                found = locks.holder(probe, locks.DMS)
            finally:
                os.close(probe)
            if found is None and locks.try_lock(self.shm_fd, fcntl.F_WRLCK, locks.DMS):
                # Not truncated, as SQLite would: a program that lost its locks by closing another
                # descriptor of the file still has it mapped.
                self._index = WalIndex(self.shm_fd)
                rebuild(self.index, self.wal_fd, self.page_size)
                locks.try_lock(self.shm_fd, fcntl.F_RDLCK, locks.DMS)
                return
            if (
                found is not None
                and found[0] == fcntl.F_RDLCK
                and locks.try_lock(self.shm_fd, fcntl.F_RDLCK, locks.DMS)
            ):
                self._index = WalIndex(self.shm_fd)
                return
            if time.monotonic() >= deadline:
                raise LockTimeout("the wal-index is being made by another process")
            time.sleep(0.001)

    def _recover(self, deadline: float) -> None:
        """A writer died while it changed the header: do what walIndexRecover does."""
        first = locks.RECOVER if self.role else locks.CKPT
        length = locks.DMS - first
        locks.wait_lock(self.shm_fd, fcntl.F_WRLCK, first, deadline, "a read lock of the WAL", length)
        try:
            rebuild(self.index, self.wal_fd, self.page_size)
        finally:
            locks.unlock(self.shm_fd, first, length)

    def _finish_restart(self) -> None:
        """A predecessor died in a restart, after the index header: more frames backfilled than there are.

        Once as many frames are appended as the stale word says, readers would take READ0 and miss them all.
        """
        header = self.index.read()
        if header is not None and self.index.backfilled > header.mx_frame:
            self.index.backfilled = 0
            self.index.attempted = 0

    def _turn_to_wal(self, mode: int, deadline: float) -> None:
        """Leave a valid header in ``-wal``: a file that is not empty is what makes readers use it."""
        header = self.index.read()
        assert header is not None
        if header.mx_frame:
            return
        if os.fstat(self.wal_fd).st_size >= walfile.HEADER_SIZE or mode == _WAL_MODE:
            self._write_wal_header(header)
            return
        with locks.exclusive(self.db_fd, deadline):
            self._write_wal_header(header)

    def _write_wal_header(self, header: IndexHeader) -> None:
        old = walfile.WalHeader.parse(os.pread(self.wal_fd, walfile.HEADER_SIZE, 0))
        if old is not None and old.salt == header.salt and old.page_size == self.page_size:
            return
        sequence = old.sequence + 1 if old is not None else 0
        # Through the mount: the kernel remembers the size, and a program takes an empty file for none.
        fd = through.open_fd(self.paths.wal, os.O_RDWR)
        try:
            os.pwrite(fd, walfile.WalHeader.make(self.page_size, sequence, header.salt).pack(), 0)
        finally:
            os.close(fd)

    def _same_files(self) -> bool:
        """Whether the paths still lead to what we have locked."""
        pairs = (
            (self.paths.database, self.db_fd),
            (self.paths.shm, self.shm_fd),
            (self.paths.backing_wal, self.wal_fd),
        )
        with contextlib.suppress(FileNotFoundError):
            return all(fd < 0 or through.stat(path).st_ino == os.fstat(fd).st_ino for path, fd in pairs)
        return False


def rebuild(index: WalIndex, wal_fd: int, page_size: int) -> None:
    """Make a full, valid index from the log's valid frames up to the last commit."""
    index.invalidate()
    head = walfile.WalHeader.parse(os.pread(wal_fd, walfile.HEADER_SIZE, 0))
    if head is None or head.page_size != page_size:
        empty = IndexHeader(0, page_size, 0, 0, (0, 0), secrets.token_bytes(8), walfile.NATIVE_BIG_ENDIAN)
        index.reset_after_rebuild(0)
        index.publish(empty)
        return
    frame, checksum, at = 0, head.checksum, walfile.HEADER_SIZE
    published = IndexHeader(0, page_size, 0, 0, (0, 0), head.salt, head.big_endian)
    size = walfile.FRAME_HEADER_SIZE + page_size
    step = max(1, _SCAN_BYTES // size) * size
    while True:
        found = walfile.scan_frames(os.pread(wal_fd, step, at), head, checksum)
        if not found.pgnos:
            break
        index.append(frame + 1, found.pgnos)
        for offset, commit in enumerate(found.commits):
            if commit:
                mx = frame + offset + 1
                published = IndexHeader(0, page_size, mx, commit, found.sums[offset], head.salt, head.big_endian)
        frame += len(found.pgnos)
        checksum = found.sums[-1]
        at += len(found.pgnos) * size
        if len(found.pgnos) * size < step:
            break
    index.cleanup(published.mx_frame)
    index.reset_after_rebuild(published.mx_frame)
    index.publish(published)


def _read_header(fd: int, path: Path) -> tuple[int, int]:
    """(page size, read version) of a database file."""
    raw = os.pread(fd, 100, 0)
    if len(raw) < 100 or raw[:16] != _MAGIC:
        raise NotADatabase("header", raw[:16], f"{path.name} does not start as a SQLite database does")
    size = int.from_bytes(raw[16:18], "big")
    return (65536 if size == 1 else size), raw[19]


def _has_content(path: Path) -> bool:
    try:
        return through.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _open_beside(path: Path, db_fd: int) -> int:
    """Open or create ``-wal`` or ``-shm`` with the owner and rights of the database."""
    with contextlib.suppress(FileNotFoundError):
        return through.open_fd(path, os.O_RDWR)
    stat = os.fstat(db_fd)
    fd = through.open_fd(path, os.O_RDWR | os.O_CREAT, stat.st_mode & 0o777)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a mount that shows the database's owner refuses it
            os.fchown(fd, stat.st_uid, stat.st_gid)
    return fd


def _held_by(database: Path) -> str:
    """Who has the database locked."""
    fd = through.open_fd(database, os.O_RDONLY)
    try:
        found = locks.holder(fd, locks.PENDING, 2 + locks.SHARED_SIZE)
    finally:
        os.close(fd)
    return f" (pid {found[1]})" if found is not None and found[1] > 0 else ""


def _roll_back_hot_journal(paths: DbPaths, deadline: float) -> None:
    """Let SQLite itself finish what a dead writer left, before we take part."""
    journal = paths.database.with_name(paths.database.name + "-journal")
    if _has_content(journal):
        through.roll_back(paths.database, max(_ROLL_BACK_S, deadline - time.monotonic()))
