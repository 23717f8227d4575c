"""Captures a whole image: the first transaction of a database, and what no commit announced.

Called by ``capture_database`` for a database without history, after a raw write (a copy
over the file, journal modes MEMORY and OFF), a changed page size, a drop and re-creation,
and whenever something could not be proved.

Rules:
    1. WAL databases: under CKPT (``capture_locks``). Pages with a frame in the log are
       never taken from the database file: it may hold older versions. Capture goes on
       behind the frames that the image contains.
    2. Rollback databases: under SHARED, and not while a hot journal waits to be played
       back: the file is torn then.
    3. Pages that equal their checksum are skipped. Without history, or with another page
       size, all pages make a snapshot.
    4. A lock that is not free, or a writer that is not quiet, means: again later.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final

from sqlitecluster.errors import LockTimeout, NotADatabase
from sqlitecluster.replicator import locks, through
from sqlitecluster.replicator.capture_content import WalContent
from sqlitecluster.replicator.capture_group import Cursor
from sqlitecluster.replicator.capture_image import Image, Shape, frames_of, shape_of
from sqlitecluster.replicator.capture_locks import StillLog, held_still, still_log
from sqlitecluster.replicator.capture_proof import follows
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan
from sqlitecluster.replicator.capture_stream import publish_stream
from sqlitecluster.replicator.capture_wal import WalCapture
from sqlitecluster.replicator.walsession import NotInWalError
from sqlitecluster.shared import Word
from sqlitecluster.sqlitefmt.dbheader import HEADER_SIZE
from sqlitecluster.store.journals import has_hot_journal

log = logging.getLogger(__name__)

LOCK_S: Final = 0.05
REPORT_S: Final = 5.0
QUIET_NS: Final = 200_000_000
_IN_MEMORY: Final = 256  # pages


class ImageCapture:
    """The image side of one database."""

    def __init__(self, database: CapturedDatabase, wal: WalCapture, settled: Callable[[], bool]) -> None:
        self._db = database
        self._wal = wal
        self._settled = settled
        """Captures everything older than the present image; False when that is not possible now."""
        self._since = 0.0

    def capture(self) -> bool:
        """Bring the history up to the image; False when it has to be tried again later."""
        hint = self._db.words[Word.RAW_HINT]
        if not self._is_quiet():
            return False
        try:
            done = self._capture_wal() if self._uses_wal() else self._capture_rollback()
        except LockTimeout as waiting:
            self._waits(waiting)
            return False
        except NotADatabase as wrong:
            self._db.node.problems.report(wrong.code, f"{wrong.message}. Nothing is replicated", self._db.name)
            done = True
        if done:
            self._since = 0.0
            self._db.node.problems.clear(LockTimeout.code, self._db.name)
            self._db.compare_wanted = False
            self._db.words[Word.RAW_HINT_DONE] = hint
            self._db.store.set_needs_compare(False)
        return done

    def _waits(self, waiting: LockTimeout) -> None:
        """Report a lock that stays taken."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > REPORT_S:
            message = f"its image must be captured, but {waiting.message}"
            self._db.node.problems.report(waiting.code, message, self._db.name)

    def _is_quiet(self) -> bool:
        """Whether nobody is in the middle of a raw write, which takes no lock."""
        words = self._db.words
        if not words[Word.WRITERS] or not words[Word.LAST_WRITE_NS] or self._db.name in self._db.node.held:
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
        if has_hot_journal(db.directory):  # SHARED would stand in the way of its writer, or of who rolls it back
            return False
        lock_fd = through.open_fd(db.mounted, os.O_RDONLY)
        try:
            locks.lock_shared(lock_fd, time.monotonic() + LOCK_S)
            if self._uses_wal() or self._has_hot_journal(lock_fd) or not self._settled():
                return False
            fd = os.open(db.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._publish(Image(fd, self._shape_of(fd)), None)
            finally:
                os.close(fd)
        finally:
            locks.unlock(lock_fd, locks.PENDING, 2 + locks.SHARED_SIZE)
            os.close(lock_fd)
        return True

    def _has_hot_journal(self, lock_fd: int) -> bool:
        """Whether a journal waits to be played back: its writer is gone."""
        return has_hot_journal(self._db.directory) and locks.holder(lock_fd, locks.RESERVED) is None

    # WAL mode

    def _capture_wal(self) -> bool:
        db = self._db
        try:
            session = db.node.held.get(db.name)
            with held_still(session) if session is not None else still_log(db.mounted, LOCK_S) as log_now:
                return self._settled() and self._capture_logged(log_now)
        except NotInWalError:
            return False

    def _capture_logged(self, log_now: StillLog) -> bool:
        """The image of a WAL database that is held still."""
        db = self._db
        content = WalContent.open(db.directory / "wal", db.words[Word.WAL_GEN], None)
        fd = os.open(db.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if content is None:
                self._publish(Image(fd, self._shape_of(fd)), None)
                return True
            image, cursor = self._logical(fd, content, log_now)
            if image is None:
                return False  # another content by now: look again
            span = WalSpan(cursor, Cursor.start(cursor.header).end, content.generation)
            self._publish(image, span)
            self._wal.forget()
            if db.store.wal_mark is None or db.store.wal_mark.end != cursor.end:
                db.store.set_wal_mark(*cursor.salts, cursor.end, content.generation)
            return True
        finally:
            os.close(fd)
            if content is not None:
                content.close()

    def _logical(self, fd: int, content: WalContent, log_now: StillLog) -> tuple[Image | None, Cursor]:
        """The image, and the cursor behind all that it contains of the log."""
        if log_now.salts is not None and log_now.salts != content.cursor.salts:
            # What was published is in the database file: the log is about to be restarted,
            # or it is new and nothing of it is published yet.
            restarts = follows(log_now.salts, content.cursor.salts)
            _latest, cursor, _commit = frames_of(content, self._db.words[Word.WAL_END] if restarts else 0)
            return Image(fd, self._shape_of(fd)), cursor
        end = content.cursor.end_of(log_now.frames)
        latest, cursor, commit = frames_of(content, end)
        if cursor.end != end:
            return None, cursor
        if log_now.backfilled >= log_now.frames:
            return Image(fd, self._shape_of(fd)), cursor
        return Image(fd, Shape(log_now.page_size, commit), content.fd, latest), cursor

    @staticmethod
    def _shape_of(fd: int) -> Shape:
        return shape_of(os.pread(fd, HEADER_SIZE, 0), os.fstat(fd).st_size)

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
            db.publish(image.pages(different), shape.page_size, shape.commit, 1, wal)
        else:
            publish_stream(db, image.some_pages(different), shape.page_size, shape.commit, 1, wal)
        log.info("%s: %d pages were written outside of any commit; captured", db.name, len(different))
