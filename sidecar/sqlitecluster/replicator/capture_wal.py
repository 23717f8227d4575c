"""Captures the commits of a database's write-ahead log. One ``WalCapture`` per database.

Called by ``capture_database`` in the capture thread. What is captured is decided by
``capture_proof`` (which commits are published) and ``capture_group`` (which of them make
one LTX file); this module reads files, asks the wal-index and publishes.

Rules:
    1. Nothing beyond a proved commit is captured (hazard 1).
    2. A group never spans two contents: each content has its own cursor.
    3. A content that is about to be replaced (restart, truncate) or was unlinked is
       finished first; what stays unproved in it never became visible, and the mount may
       let it go: ``CAPTURED_END`` then jumps to ``WAL_END``. If it was published after all,
       it is captured as long as it is there, and the image is compared when it is not.
    4. A chain that breaks below the published end, or another frame where the last captured one
       was, means that captured frames were overwritten: the image is compared with the checksums.
"""

from __future__ import annotations

import enum
import fcntl
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from sqlitecluster.replicator import locks, through
from sqlitecluster.replicator.capture_content import WalContent, Window
from sqlitecluster.replicator.capture_group import commit_offsets, take_group
from sqlitecluster.replicator.capture_index import IndexHead
from sqlitecluster.replicator.capture_large import find_transaction, is_followed, publish_large
from sqlitecluster.replicator.capture_proof import QUIET_S, Source, Users, choose_source, proved_end
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan, is_whole
from sqlitecluster.shared import NodeWord, Word
from sqlitecluster.units import Bytes

log = logging.getLogger(__name__)


class Turn(enum.Enum):
    """What a turn left behind."""

    DONE = 0
    MORE = 1
    """More is published already."""
    TAIL = 2
    """Frames are written whose publication is not seen yet."""
    IMAGE = 3
    """The whole image must be captured first: the frames alone do not make a first transaction."""


class WalCapture:
    """The WAL side of one database."""

    def __init__(self, database: CapturedDatabase) -> None:
        self._db = database
        self.content: WalContent | None = None
        self.index = IndexHead(database.mounted.with_name(database.mounted.name + "-shm"))
        self._lock_fd = -1
        self._lock_inode = 0
        self.alone = False
        """No program can change anything any more: the role's locks are ours."""
        self._doubt = ""
        """Why frames of the present content were let go without capture."""

    def turn(self, quiet_s: float) -> Turn:
        """Capture one group of the live WAL. ``quiet_s``: seconds since the last event."""
        content = self.live()
        if content is None:
            return self._without_log()
        end = self._published(content)
        if end > content.cursor.end:
            return self._capture(content, end)
        if self._db.words[Word.WAL_END] <= content.cursor.end:
            if not content.has_last():
                if self._db.words[Word.WAL_GEN] != content.generation:
                    return Turn.MORE  # a new content has just begun
                self._db.want_compare(f"captured WAL frames before byte {content.cursor.end} were written over")
                return Turn.IMAGE
            self._db.captured(content.generation, content.cursor.end)
            self._settle_doubt()
            return Turn.DONE
        return self._tail(content, quiet_s)

    def gone(self, path: Path, generation: int) -> Turn:
        """Capture what is left of an unlinked WAL, group by group; ``DONE`` when nothing is left."""
        content = self.content
        if content is None or content.generation != generation:
            content = WalContent.open(path, generation, self._db.store.wal_mark)
        if content is None:
            return Turn.DONE
        self._adopt(content)
        end = self._proved_at_end(content, content.size())
        if end > content.cursor.end:
            return self._capture(content, end)
        if find_transaction(content, content.size()) is not None:
            self._db.want_compare("the last commit of an unlinked WAL is not in the database file")
        return Turn.DONE

    def forget(self) -> None:
        """Close the current content; the next turn looks again."""
        if self.content is not None:
            self.content.close()
            self.content = None

    def close(self) -> None:
        """Release all descriptors."""
        self.forget()
        self.index.close()
        self._close_locks()

    def nobody_publishes(self) -> bool:
        """Whether no program keeps the wal-index up to date: who opens the database next finds every valid frame."""
        users = self._users()
        if users is not Users.EXCLUSIVE or self.alone:
            return users is not Users.SHARED
        self.index.refresh()
        return not self.index.is_used() and not self._is_index_removed()  # in this order: as ``_tail``

    def is_locked_for_writing(self) -> bool:
        """Whether a program is in a write transaction of a rollback mode, or keeps the locks of one."""
        if self._users() is Users.EXCLUSIVE:
            return True
        return self._lock_fd >= 0 and locks.holder(self._lock_fd, locks.RESERVED) is not None

    def live(self) -> WalContent | None:
        """The present content; None while there is none."""
        words = self._db.words
        generation = words[Word.WAL_GEN]
        if self.content is not None and self.content.generation == generation:
            return self.content
        if not words[Word.HAS_WAL]:
            return None
        content = WalContent.open(self._db.directory / "wal", generation, self._db.store.wal_mark)
        if content is None or words[Word.WAL_GEN] != generation:
            return None
        if self._doubt:
            self._db.want_compare(self._doubt)
        self._adopt(content)
        self.index.refresh()
        self._db.captured(generation, content.cursor.end)
        return content

    def _adopt(self, content: WalContent) -> None:
        self._doubt = ""
        if content is not self.content:
            self.forget()
            self.content = content

    def _published(self, content: WalContent) -> int:
        """What the wal-index says: a byte offset, 0 when it does not speak of this content."""
        head = self.index.read()
        if head is None or (head.salt1, head.salt2) != content.cursor.salts:
            return 0
        return content.cursor.end_of(head.max_frame)

    def _capture(self, content: WalContent, end: int) -> Turn:
        """Capture the next group of what is published up to ``end``."""
        cursor, db = content.cursor, self._db
        window = content.read(end)
        group = take_group(cursor, window.found, window.data, db.store.commit)
        if group is None:
            return self._capture_odd(content, window, end)
        if db.needs_whole(cursor.page_size):
            pgnos = [pgno for pgno, _page in group.pages]
            if not is_whole(pgnos, group.commit, cursor.page_size):
                return Turn.IMAGE
        pages = db.with_holes(group.pages, group.commit, cursor.page_size)
        span = WalSpan(group.after, cursor.end, content.generation)
        db.publish(pages, cursor.page_size, group.commit, group.commits, span)
        content.cursor = group.after
        if end > group.after.end:
            return Turn.MORE
        if db.words[Word.WAL_END] > group.after.end:
            return Turn.TAIL
        self._settle_doubt()
        return Turn.DONE

    def _capture_odd(self, content: WalContent, window: Window, end: int) -> Turn:
        """No whole transaction in the window: a large one, or a broken chain."""
        db = self._db
        if not window.reaches(end):
            if db.is_new:
                return Turn.IMAGE
            after = publish_large(db, content, end)
            if after is not None:
                content.cursor = after
                return Turn.MORE
        db.want_compare(f"published WAL frames behind byte {content.cursor.end} break the chain")
        return Turn.IMAGE

    def _tail(self, content: WalContent, quiet_s: float) -> Turn:
        """Frames beyond what the index says: find out whether they are published."""
        words = self._db.words
        self.index.refresh()
        head = self.index.read()
        salts, users = (head.salt1, head.salt2) if head else None, self._users()
        used = not self.alone and users is Users.EXCLUSIVE and self.index.is_used()
        removed = not self.alone and self._is_index_removed()  # asked last: it is removed before it is let go of
        source = choose_source(salts, content.cursor.salts, users, index_used=used, index_removed=removed)
        if words[Word.WAL_GEN] != content.generation:
            return Turn.MORE
        end = 0
        if source in (Source.INDEX, Source.CLOSING) and head is not None and salts == content.cursor.salts:
            end = content.cursor.end_of(head.max_frame)
        elif source is Source.SILENT:
            end = self._silent_end(content, quiet_s)
        if source is Source.RESTART or (source is Source.CLOSING and self._somebody_waits(quiet_s)):
            return self._finish(content)
        if source is Source.WAIT and self._somebody_waits(quiet_s):
            # A writer died before it published the first commit of this log, the next one
            # wants to begin anew.
            self._let_go(content, "the first commit of a new WAL was never published")
        return self._capture(content, end) if end > content.cursor.end else Turn.TAIL

    def _is_index_removed(self) -> bool:
        """Whether the wal-index of this very log was removed: a last close does that before it removes the log."""
        words = self._db.words
        return words[Word.INDEX_GONE] == words[Word.WAL_GEN] + 1

    def _somebody_waits(self, quiet_s: float) -> bool:
        """Whether a request is parked, perhaps because of what is not captured here."""
        return quiet_s > QUIET_S and self._db.node.state.node[NodeWord.PARKED] != 0

    def _silent_end(self, content: WalContent, quiet_s: float) -> int:
        """Published end while no wal-index speaks."""
        words = self._db.words
        limit = words[Word.WAL_END]
        window = content.read(limit)
        end = proved_end(commit_offsets(content.cursor, window.found, window.data), words[Word.WAL_SIZE], quiet_s)
        if not window.reaches(limit) and not end:
            return limit  # one transaction larger than a window: its end is judged when it is reached
        if end <= content.cursor.end and self._db.node.state.node[NodeWord.PARKED]:
            return self._proved_at_end(content, limit)  # somebody waits: perhaps for this
        return end

    def _finish(self, content: WalContent) -> Turn:
        """The content is about to be replaced: capture what is proved, let the rest go."""
        limit = self._db.words[Word.WAL_END]
        end = self._proved_at_end(content, limit)
        if end > content.cursor.end:
            return self._capture(content, end)
        if limit <= content.cursor.end:
            return Turn.DONE
        self._let_go(content, "the last commit of a restarted WAL is not in the database file")
        return Turn.TAIL

    def _let_go(self, content: WalContent, why: str) -> None:
        """Allow the mount to replace a content whose last frames were never published.

        Its writer may only be slow, or a recovery may find them: they are looked at as long as they are
        there, and what comes after them is compared.
        """
        limit = self._db.words[Word.WAL_END]
        if self._db.words[Word.CAPTURED_END] < limit:
            self._doubt = why
            self._db.store.set_needs_compare(True)  # a later process of the replicator must know, too
            self._db.captured(content.generation, limit)

    def _settle_doubt(self) -> None:
        """What was let go is captured after all, or written over."""
        if self._doubt and not self._db.compare_wanted:
            self._doubt = ""
            self._db.store.set_needs_compare(False)

    def _without_log(self) -> Turn:
        """There is no log (any more); what was let go with it may have been published in the last moment."""
        if not self._doubt or self._db.words[Word.HAS_WAL]:
            return Turn.DONE
        why, self._doubt = self._doubt, ""
        self._db.want_compare(why)
        return Turn.IMAGE

    def _proved_at_end(self, content: WalContent, limit: int) -> int:
        """Published end of a content that is complete: the last commit counts if the database file shows it."""
        published = self._published(content)
        window = content.read(limit)
        ends = commit_offsets(content.cursor, window.found, window.data)
        if not window.reaches(limit):
            if ends and ends[-1] < window.after.end:
                return ends[-1]
            return ends[-2] if len(ends) > 1 else self._proved_large(content, limit, published)
        if not ends:
            return published
        before = max(published, ends[-2] if len(ends) > 1 else content.cursor.end)
        if before >= ends[-1] or self._is_in_database(window, before):
            return ends[-1]
        return before

    def _proved_large(self, content: WalContent, limit: int, published: int) -> int:
        """The same where the next transaction fills a window: it is proved by what follows it, or as the last one."""
        found = find_transaction(content, limit)
        if found is None:
            return published
        latest, commit, after = found
        if after.end <= published or is_followed(content, limit, after):
            return after.end
        size = after.page_size
        pages = ((pgno, os.pread(content.fd, size, at)) for pgno, at in latest.items() if pgno <= commit)
        return after.end if self._has_pages(pages, size) else published

    def _is_in_database(self, window: Window, start: int) -> bool:
        """Whether the last commit's pages are what the database file holds (a reset needs a full backfill)."""
        first = (start - window.cursor.end) // window.cursor.frame_size
        return self._has_pages(window.found.pages(start=first), window.cursor.page_size)

    def _has_pages(self, pages: Iterable[tuple[int, Bytes]], size: int) -> bool:
        try:
            fd = os.open(self._db.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return all(os.pread(fd, size, (pgno - 1) * size) == page for pgno, page in pages)
        finally:
            os.close(fd)

    def _users(self) -> Users:
        """Who is connected, by the locks on the database file; another file may have taken its name."""
        try:
            if self._lock_fd >= 0 and through.stat(self._db.mounted).st_ino != self._lock_inode:
                self._close_locks()
            if self._lock_fd < 0:
                self._lock_fd = through.open_fd(self._db.mounted, os.O_RDONLY)
                self._lock_inode = os.fstat(self._lock_fd).st_ino
        except OSError:
            return Users.NONE
        found = locks.holder(self._lock_fd, locks.SHARED_FIRST, locks.SHARED_SIZE)
        if found is None:
            return Users.NONE
        return Users.SHARED if found[0] == fcntl.F_RDLCK else Users.EXCLUSIVE

    def _close_locks(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
