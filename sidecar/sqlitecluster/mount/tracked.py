"""The files of a database: bytes pass through, and what they mean is noted for the replicator.

Rules:
    1. On a node that may not write, a program's write is refused here, whatever locks it got.
    2. What would destroy frames that are not captured waits, with a deadline (``settled``).
    3. Dirty ranges are marked before the write; a commit is spooled before the journal (``journalfile``) goes.
       The fence is asked before the write that completes a commit and again before its answer:
       a commit that is refused leaves no valid frame behind.
    4. While commits are held back (``holding``) the write that completes one waits; the bytes
       reach the log only when enough replicas have the commit.
    5. A request may come twice (after a take-over): the same bytes again change nothing.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Final

from sqlitecluster.mount import holding
from sqlitecluster.mount.buffers import Data
from sqlitecluster.mount.files import File
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.parking import Park
from sqlitecluster.mount.waltrack import HEADER_BYTES, Seen, WalTracker
from sqlitecluster.shared import NodeWord, Word

if TYPE_CHECKING:
    from sqlitecluster.mount.database import Database

_DB_HEADER_BYTES: Final = 100


class TrackedFile(File):
    """A file that belongs to a database."""

    __slots__ = ("owner",)

    def __init__(self, owner: Database, kind: Kind, ino: int, path: str) -> None:
        suffix = "" if kind is Kind.DATABASE else f"-{kind.value}"
        super().__init__(owner.context, kind, owner.name + suffix, ino, path)
        self.owner = owner
        self.database = owner


class DatabaseFile(TrackedFile):
    """The database itself: checkpoints pass, everything else is marked dirty."""

    __slots__ = ("_size",)

    def __init__(self, owner: Database, kind: Kind, ino: int, path: str) -> None:
        super().__init__(owner, kind, ino, path)
        self._size = -1

    def write(self, offset: int, data: Data, *, privileged: bool) -> int | None:
        """Mark, then write."""
        owner, end = self.owner, offset + len(data)
        fd = self.descriptor()
        if self._size < 0:
            self._size = os.fstat(fd).st_size
        if not privileged and not self.unlinked:
            self.context.require_primary()
            if end > self._size:  # in place needs no room: a rollback must work on a full disk
                self.context.space.take(len(data))
            if offset == 0:
                owner.check_content(data)
            owner.mark(offset, len(data))
        done = os.pwrite(fd, data, offset)
        self._size = max(self._size, offset + done)
        if offset < _DB_HEADER_BYTES and not self.unlinked:
            owner.note_header()
        return done

    def truncate(self, size: int, *, privileged: bool) -> bool | None:
        """Mark, then set the size."""
        fd = self.descriptor()
        before = os.fstat(fd).st_size
        if not privileged and not self.unlinked and size != before:
            self.context.require_primary()
            self.owner.mark_size(before, size)
        os.ftruncate(fd, size)
        self._size = size
        if min(before, size) < _DB_HEADER_BYTES and not self.unlinked:
            self.owner.note_header()
        return True

    def opened(self, *, writing: bool, privileged: bool) -> None:
        """Count writers."""
        super().opened(writing=writing, privileged=privileged)
        if writing and not privileged:
            self.owner.words[Word.WRITERS] += 1

    async def acknowledged(self) -> None:
        """After a program's fsync in the middle of a rollback-mode transaction: its pages are final now.

        Raises:
            OSError: EIO: not enough replicas hold it, and the program rolls it back; ENOSPC.
        """
        owner = self.owner
        if not holding.is_on(owner) or not owner.hold():
            return
        owner.journal_refused = True
        await holding.judged(owner)
        holding.passed(owner)
        owner.journal_refused = False
        owner.held_is_durable()

    def released(self, *, writing: bool, privileged: bool) -> None:
        """When the last writer is gone, raw writes are finished."""
        super().released(writing=writing, privileged=privileged)
        words = self.owner.words
        if writing and not privileged and words[Word.WRITERS]:
            words[Word.WRITERS] -= 1
            if not words[Word.WRITERS] and words[Word.DIRTY_RAW] and not self.unlinked:
                self.owner.spool_raw()


class WalFile(TrackedFile):
    """A write-ahead log: the log is the truth, so nothing in it goes before it is captured."""

    __slots__ = ("tracker",)

    direct_io = True

    def __init__(self, owner: Database, kind: Kind, ino: int, path: str) -> None:
        super().__init__(owner, kind, ino, path)
        self.tracker = WalTracker(lambda offset, size: os.pread(self.descriptor(), size, offset))

    def write(self, offset: int, data: Data, *, privileged: bool) -> int | None:
        """Write and follow the frames."""
        tracker = self.tracker
        if self.unlinked:
            return os.pwrite(self.descriptor(), data, offset)
        if not privileged:
            context = self.context
            context.require_primary()
            context.space.take(len(data))
        if self.context.state.node[NodeWord.PROMOTIONS] != self.owner.words[Word.WAL_OF]:
            self.reload()
        if offset < tracker.size or offset < HEADER_BYTES:
            if offset < HEADER_BYTES:
                return self._write_header(offset, data, privileged=privileged)
            if tracker.rewinds(offset, data):
                tracker.rewind(offset)
                self._publish()
        held = not privileged and holding.is_on(self.owner) and tracker.completes(offset, data)
        if held and not holding.wal(self.owner, offset, data):
            return None  # ``write`` is asked again
        done = os.pwrite(self.fd if self.fd >= 0 else self.descriptor(), data, offset)
        seen = tracker.feed(offset, data if done == len(data) else data[:done])
        if seen:
            self.owner.words[Word.WAL_SIZE] = tracker.size
            if seen is Seen.COMMIT:
                self._committed(offset, done, privileged=privileged, held=bool(held))
        return done

    def _committed(self, offset: int, length: int, *, privileged: bool, held: bool) -> None:
        """A commit frame is complete. One that was held back is safe elsewhere, so a fence that passed
        just now does not take it back."""
        if not privileged and not held and self.context.is_fenced:
            self._void(offset, length)
        words = self.owner.words
        words[Word.WAL_END] = self.tracker.end
        if words[Word.INDEX_GONE]:
            words[Word.INDEX_GONE] = 0  # who removed it in a last close writes no more
        if held:
            holding.written(self.owner)  # no ring: nobody is in a hurry to know
            return
        words[Word.EVENT_SEQ] += 1
        self.context.replicator.ring()

    def truncate(self, size: int, *, privileged: bool) -> bool | None:
        """Cut; below the last commit only when that is captured."""
        if self.unlinked:
            os.ftruncate(self.descriptor(), size)
            return True
        if not privileged:
            self.context.require_primary()
            if size < self.owner.words[Word.WAL_END] and not self.owner.is_captured():
                return None
        os.ftruncate(self.descriptor(), size)
        self.tracker.cut(size)
        if size < HEADER_BYTES:
            self.owner.next_generation(has_wal=False)
        self._publish()
        return True

    async def settled(self) -> None:
        """Until the replicator has every commit of this generation, or has judged the one that is held back.

        Raises:
            OSError: EIO at the deadline: the frames stay as they are.
        """
        if holding.waits(self.owner):
            await holding.judged(self.owner)
            return
        self.owner.touch()
        deadline = time.monotonic() + self.context.config.park_s
        if not await Park(self.owner.is_captured, deadline):
            raise OSError(errno.EIO, "the log was not captured in time")

    def reload(self) -> None:
        """Take the state from the file: at start, or when this node's role has changed."""
        self.tracker.load(self.stat().st_size)
        self.owner.words[Word.WAL_OF] = self.context.state.node[NodeWord.PROMOTIONS]
        self.owner.next_generation(has_wal=self.tracker.size >= HEADER_BYTES)
        self._publish()

    def is_stale(self) -> bool:
        """Whether the replicator of a replica may have written since the tracker was last true."""
        return bool(self.context.state.node[NodeWord.PROMOTIONS] != self.owner.words[Word.WAL_OF])

    def resume(self) -> None:
        """A successor goes on from the words."""
        words = self.owner.words
        self.tracker.resume(words[Word.WAL_SIZE], words[Word.WAL_END])

    def _write_header(self, offset: int, data: Data, *, privileged: bool) -> int | None:
        fd = self.descriptor()
        if os.pread(fd, len(data), offset) == data and self.tracker.size >= HEADER_BYTES:
            return len(data)  # a resent request, or the same header again
        if not privileged and self.owner.words[Word.WAL_END] and not self.owner.is_captured():
            return None
        self.owner.next_generation(has_wal=True)
        done = os.pwrite(fd, data, offset)
        self.tracker.restart(os.pread(fd, HEADER_BYTES, 0))
        self.owner.words[Word.WAL_OF] = self.context.state.node[NodeWord.PROMOTIONS]
        if offset + done > HEADER_BYTES:
            self.tracker.feed(HEADER_BYTES, data[HEADER_BYTES - offset : done])
        self._publish()
        return done

    def _publish(self) -> None:
        words = self.owner.words
        words[Word.WAL_END] = self.tracker.end
        words[Word.WAL_SIZE] = self.tracker.size
        self.owner.touch()

    def _void(self, offset: int, length: int) -> None:
        """The fence passed while a commit was completed: nobody was told, so it must not be found later.

        Raises:
            OSError: EIO.
        """
        start = self.tracker.frame_start(offset)
        os.pwrite(self.descriptor(), bytes(offset + length - start), start)
        self.tracker.rewind(start)
        self._publish()
        self.context.check_fence()
