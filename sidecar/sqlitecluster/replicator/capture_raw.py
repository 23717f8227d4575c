"""Captures a whole image: the first transaction of a database, and what no commit announced.

Called by ``capture_database`` for a database without history, after a raw write (a copy
over the file, journal modes MEMORY and OFF), a changed page size, a drop and re-creation,
and whenever something could not be proved.

Rules:
    1. WAL databases: under SHARED, DMS, WRITE and CKPT, taken as SQLite does. WRITE is
       given back as soon as the end of the log is known; CKPT keeps the database file
       still and the log from being restarted. Pages with a frame in the log are never
       taken from the database file: it may hold older versions.
    2. Rollback databases: under SHARED, and not while a hot journal waits to be played
       back: the file is torn then.
    3. Pages that equal their checksum are skipped. Without history, or with another page
       size, all pages make a snapshot.
    4. A lock that is not free, or a writer that is not quiet, means: again later.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from sqlitecluster.errors import LockTimeout, NotADatabase
from sqlitecluster.replicator import locks
from sqlitecluster.replicator.capture_content import WalContent
from sqlitecluster.replicator.capture_group import Cursor
from sqlitecluster.replicator.capture_image import Image, Shape, frames_of, shape_of
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan
from sqlitecluster.replicator.capture_stream import publish_stream
from sqlitecluster.replicator.capture_wal import WalCapture
from sqlitecluster.replicator.walsession import NotInWalError, WalSession
from sqlitecluster.shared import Word
from sqlitecluster.sqlitefmt.dbheader import HEADER_SIZE
from sqlitecluster.sqlitefmt.journal import is_hot

log = logging.getLogger(__name__)

LOCK_S: Final = 0.05
QUIET_NS: Final = 200_000_000
_IN_MEMORY: Final = 256  # pages


class ImageCapture:
    """The image side of one database."""

    def __init__(self, database: CapturedDatabase, wal: WalCapture, settled: Callable[[], bool]) -> None:
        self._db = database
        self._wal = wal
        self._settled = settled
        """Captures everything that is committed already; False when that is not possible now."""

    def capture(self) -> bool:
        """Bring the history up to the image; False when it has to be tried again later."""
        hint = self._db.words[Word.RAW_HINT]
        if not self._is_quiet():
            return False
        try:
            done = self._capture_wal() if self._uses_wal() else self._capture_rollback()
        except LockTimeout as waiting:
            log.info("%s: the image cannot be captured now: %s", self._db.name, waiting.message)
            return False
        except NotADatabase as wrong:
            self._db.node.problems.report(wrong.code, f"{wrong.message}. Nothing is replicated", self._db.name)
            done = True
        if done:
            self._db.compare_wanted = False
            self._db.words[Word.RAW_HINT_DONE] = hint
            self._db.store.set_needs_compare(False)
        return done

    def _is_quiet(self) -> bool:
        """Whether nobody is in the middle of a raw write, which takes no lock."""
        words = self._db.words
        if not words[Word.WRITERS] or not words[Word.LAST_WRITE_NS]:
            return True
        return time.monotonic_ns() - words[Word.LAST_WRITE_NS] > QUIET_NS

    def _uses_wal(self) -> bool:
        try:
            return os.stat(self._db.directory / "wal").st_size > 0
        except FileNotFoundError:
            return False

    # rollback modes

    def _capture_rollback(self) -> bool:
        db = self._db
        lock_fd = os.open(db.mounted, os.O_RDONLY | os.O_CLOEXEC)
        try:
            locks.lock_shared(lock_fd, time.monotonic() + LOCK_S)
            if self._uses_wal() or self._has_hot_journal(lock_fd) or not self._settled():
                return False
            fd = os.open(db.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
            try:
                shape = shape_of(os.pread(fd, HEADER_SIZE, 0), os.fstat(fd).st_size)
                self._publish(Image(fd, shape), None)
            finally:
                os.close(fd)
        finally:
            locks.unlock(lock_fd, locks.PENDING, 2 + locks.SHARED_SIZE)
            os.close(lock_fd)
        return True

    def _has_hot_journal(self, lock_fd: int) -> bool:
        """Whether a journal waits to be played back: its writer is gone."""
        try:
            with open(self._db.directory / "journal", "rb") as file:
                hot = is_hot(file.read(HEADER_SIZE))
        except FileNotFoundError:
            return False
        return hot and locks.holder(lock_fd, locks.RESERVED) is None

    # WAL mode

    def _capture_wal(self) -> bool:
        db = self._db
        try:
            session = WalSession.open_writer(locks.DbPaths.plain(db.mounted), time.monotonic() + LOCK_S)
        except NotInWalError:
            return False
        try:
            locks.wait_lock(
                session.shm_fd, fcntl.F_WRLCK, locks.CKPT, time.monotonic() + LOCK_S, "the checkpoint lock"
            )
            head = session.index.read()
            if head is None or (not db.needs_whole(session.page_size) and not self._settled()):
                return False
            in_log = head.mx_frame and session.index.backfilled < head.mx_frame
            locks.unlock(session.shm_fd, locks.WRITE)
            return self._capture_logged(head.mx_frame, bool(in_log), Shape(session.page_size, head.pages))
        finally:
            session.close()

    def _capture_logged(self, frames: int, in_log: bool, shape: Shape) -> bool:
        """The image of a WAL database whose last published frame is ``frames``."""
        db = self._db
        content = WalContent.open(db.directory / "wal", db.words[Word.WAL_GEN], None)
        fd = os.open(db.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if content is None or not frames:
                plain = shape_of(os.pread(fd, HEADER_SIZE, 0), os.fstat(fd).st_size)
                self._publish(Image(fd, plain), None)
                return True
            latest, cursor, commit = frames_of(content, content.cursor.end_of(frames))
            if cursor.end != cursor.end_of(frames):
                return False  # another content by now: look again
            image = Image(fd, Shape(shape.page_size, commit), content.fd, latest if in_log else None)
            self._publish(image, WalSpan(cursor, Cursor.start(cursor.header).end, content.generation))
            self._wal.forget()
            return True
        finally:
            os.close(fd)
            if content is not None:
                content.close()

    # both

    def _publish(self, image: Image, wal: WalSpan | None) -> None:
        db, shape = self._db, image.shape
        db.node.problems.clear(NotADatabase.code, db.name)
        if not shape.commit:
            return
        if db.needs_whole(shape.page_size):
            publish_stream(db, image.all_pages(), shape.page_size, shape.commit, 1, wal)
            log.info("%s: captured whole, %d pages, as transaction %d", db.name, shape.commit, db.store.position.txid)
            return
        different = image.differing(db.store.checksums)
        if not different and shape.commit == db.store.commit:
            return
        if len(different) <= _IN_MEMORY:
            db.publish(image.pages(different), shape.page_size, shape.commit, 1)
        else:
            publish_stream(db, image.some_pages(different), shape.page_size, shape.commit, 1)
        log.info("%s: %d pages were written outside of any commit; captured", db.name, len(different))
