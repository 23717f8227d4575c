"""Puts good pages back into a damaged database on the primary, as one more careful SQLite writer.

    WAL mode       under WRITE: the pages are appended to the log as a transaction, which readers see
                   like any other and a checkpoint brings into the file
    rollback mode  under EXCLUSIVE: in place; page 1 gets a new change counter, as a transaction, so
                   that connections forget what they cached
    page 1         decides the mode, so it comes first: in place, under CKPT or EXCLUSIVE

Called by ``mending`` in an executor thread.

Rules:
    1. Nothing is judged before everything that programs committed is captured, and a lock keeps
       more from coming: then page, page checksum and position belong together. A commit that is in
       flight is in the checksums but not in the image, and may be taken back: nothing is judged then.
    2. What the disk has counts, not what the kernel cached: pages are read from the backing file
       and written through the mount.
    3. A lock that is not free within ``LOCK_S`` means: again later.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from sqlitecluster.errors import LockTimeout, NotADatabase
from sqlitecluster.ltx import page_checksum
from sqlitecluster.replicator import locks, through
from sqlitecluster.replicator.capture import Capture
from sqlitecluster.replicator.importing import is_captured
from sqlitecluster.replicator.install import ContentReader
from sqlitecluster.replicator.judging import Verdict, judge
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.walsession import NotInWalError, WalSession
from sqlitecluster.replicator.walwriter import WalWriter, write_buffers
from sqlitecluster.sqlitefmt.dbheader import DatabaseHeader
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.journals import has_hot_journal
from sqlitecluster.store.snapshot import LogicalImage

LOCK_S: Final = 0.25
_COUNTERS: Final = (slice(24, 28), slice(92, 96))


def mend(
    node: NodeServices, capture: Capture, name: str, suspects: Sequence[int], good: Mapping[int, bytes]
) -> Verdict:
    """Look at suspects under SQLite's locks, and write what is damaged and known.

    Raises:
        LockTimeout: a program is in the way, or something is not captured yet.
        OSError: the disk is full, or this node may not write any more.
    """
    work = _Mending(node, capture, name)
    first = Verdict()
    if 1 in suspects and not work.is_readable():
        first = work.first_page(good)
        if first.left:
            return first
    try:
        found = work.in_log(suspects, good, again=first.mend)
    except NotInWalError:
        found = work.in_place(suspects, good, again=first.mend)
    found.mend.update(first.mend)
    return found


class _Mending:
    """One database of the primary."""

    def __init__(self, node: NodeServices, capture: Capture, name: str) -> None:
        self._node = node
        self._capture = capture
        self._name = name
        self._store: DatabaseStore = node.store.open(name)
        self._mounted = node.mount_dir / name

    def is_readable(self) -> bool:
        """Whether the first page still says what the locks need to know.

        Where the log has a newer one, that in the file is another one rightly.
        """
        store, database = self._store, self._store.dir / "database"
        page = _read(database, 1, store.page_size)
        if page_checksum(1, page) == store.checksums.get(1):
            return True
        try:
            if DatabaseHeader.parse(page).page_size != store.page_size:
                return False
        except NotADatabase:
            return False
        image = LogicalImage(database, store.dir / "wal", store.checksums)
        image.refresh()
        return bool(image.read_page(1))

    def in_log(self, suspects: Sequence[int], good: Mapping[int, bytes], again: Mapping[int, bytes]) -> Verdict:
        """WAL mode."""
        session = WalSession.open_writer(DbPaths.plain(self._mounted), time.monotonic() + LOCK_S)
        try:
            self._check_captured()
            with _backing(self._store) as fd:
                reader = ContentReader(session, fd)
                found = self._judge(lambda pgno: reader.read(pgno, 1), suspects, good)
            pages = sorted({**again, **found.mend}.items())
            if pages:
                WalWriter(session).append(pages, reader.pages)
        finally:
            session.close()
        return found

    def in_place(self, suspects: Sequence[int], good: Mapping[int, bytes], again: Mapping[int, bytes]) -> Verdict:
        """A rollback mode."""
        size = self._store.page_size
        with self._exclusive() as fd, _backing(self._store) as backing:
            found = self._judge(lambda pgno: _pread(backing, pgno, size), suspects, good)
            if found.mend or again:
                for pgno, page in sorted(found.mend.items()):
                    write_buffers(fd, [page], (pgno - 1) * size)
                self._new_counter(fd, found.mend.get(1) or _pread(backing, 1, size))
                os.fsync(fd)
        return found

    def first_page(self, good: Mapping[int, bytes]) -> Verdict:
        """Page 1, in place: without it the mode is not known."""
        size = self._store.page_size
        with self._still() as fd, _backing(self._store) as backing:
            found = self._judge(lambda pgno: _pread(backing, pgno, size), [1], good)
            if found.mend:
                write_buffers(fd, [found.mend[1]], 0)
                os.fsync(fd)
        return found

    def _judge(self, read: object, suspects: Sequence[int], good: Mapping[int, bytes]) -> Verdict:
        self._check_settled()
        found = judge(self._store.checksums, self._store.position, read, suspects, good)  # type: ignore[arg-type]
        self._check_settled()
        return found

    def _check_settled(self) -> None:
        """While a commit waits for acknowledgements the page checksums are ahead of the image, which may stay."""
        if self._store.in_flight:
            raise LockTimeout(f"{self._name}: a commit waits for acknowledgements")

    def _check_captured(self) -> None:
        slot = self._node.state.find(self._name)
        if slot is None or not is_captured(self._node.state, slot):
            raise LockTimeout(f"{self._name}: what programs wrote is not captured yet")

    def _check_ended(self) -> None:
        if has_hot_journal(self._store.dir):
            raise LockTimeout(f"{self._name}: a transaction has not ended, or waits to be rolled back")

    def _new_counter(self, fd: int, page: bytes) -> None:
        """Give the database a change counter that no connection has seen, as a transaction."""
        changed = bytearray(page)
        counter = int.from_bytes(page[_COUNTERS[0]], "big") + 1 + secrets.randbits(24) & 0xFFFF_FFFF
        for place in _COUNTERS:
            changed[place] = counter.to_bytes(4, "big")
        self._capture.publish(self._name, [(1, memoryview(bytes(changed)))])
        write_buffers(fd, [bytes(changed)], 0)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[int]:
        """EXCLUSIVE on the database: nobody reads or writes it.

        RESERVED comes first: who waits for it with SHARED stands in the way of the writer it waits for.
        """
        self._check_ended()
        deadline = time.monotonic() + LOCK_S
        fd = through.open_fd(self._mounted, os.O_RDWR)
        try:
            locks.wait_lock(fd, fcntl.F_WRLCK, locks.RESERVED, deadline, "RESERVED on the database")
            locks.lock_shared(fd, deadline)
            with locks.exclusive(fd, deadline):
                self._check_captured()
                self._check_ended()
                yield fd
        finally:
            locks.unlock(fd, locks.PENDING, 2 + locks.SHARED_SIZE)
            os.close(fd)

    @contextlib.contextmanager
    def _still(self) -> Iterator[int]:
        """Nobody writes the database file: CKPT where programs use a WAL, else EXCLUSIVE."""
        paths = DbPaths.plain(self._mounted)
        try:
            shm = through.open_fd(paths.shm, os.O_RDWR)
        except FileNotFoundError:
            shm = -1
        try:
            if shm < 0 or locks.holder(shm, locks.DMS) is None:
                with self._exclusive() as fd:
                    yield fd
                return
            deadline = time.monotonic() + LOCK_S
            locks.wait_lock(shm, fcntl.F_RDLCK, locks.DMS, deadline, "the wal-index")
            locks.wait_lock(shm, fcntl.F_WRLCK, locks.CKPT, deadline, "the checkpoint lock")
            fd = through.open_fd(self._mounted, os.O_RDWR)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            if shm >= 0:
                os.close(shm)


@contextlib.contextmanager
def _backing(store: DatabaseStore) -> Iterator[int]:
    fd = os.open(store.dir / "database", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _pread(fd: int, pgno: int, size: int) -> bytes:
    return os.pread(fd, size, (pgno - 1) * size).ljust(size, b"\0")


def _read(path: Path, pgno: int, size: int) -> bytes:
    with open(path, "rb") as file:
        return _pread(file.fileno(), pgno, size)
