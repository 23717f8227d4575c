"""One database as the mount sees it: its files, its slot of shared memory, its dirty ranges.

Owned by ``tree``; told about writes by ``tracked``.

Rules:
    1. Order of a rollback-mode commit: spool, announce it, forget the ranges, then the
       journal's end. A crash anywhere leads to a repeated spool at worst, never to none.
    2. A WAL with frames means that writes to the database are checkpoints: not dirty.
    3. ``mark`` is the only place that decides between the two.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Final

from sqlitecluster import failpoints
from sqlitecluster.errors import NoSpace
from sqlitecluster.mount import holding
from sqlitecluster.mount.buffers import Data
from sqlitecluster.mount.context import Context
from sqlitecluster.mount.dirty import DirtyRanges
from sqlitecluster.mount.files import SQLITE_MAGIC, File, ShmFile
from sqlitecluster.mount.journalfile import JournalFile
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.tracked import DatabaseFile, WalFile
from sqlitecluster.mount.waltrack import HEADER_BYTES
from sqlitecluster.shared import KIND_DATABASE, KIND_EMPTY, KIND_OTHER, Word
from sqlitecluster.store.spool import FLAG_HELD, FLAG_RAW, FLAG_TRUNCATED, copy_spool, spool_path

_PAGE_SIZES: Final = frozenset(1 << n for n in range(9, 17))
_SMALL_SPOOL_BYTES: Final = 1 << 20
SHM_INODE_BIT: Final = 1 << 62  # tmpfs numbers its inodes from 1 again


class Database:
    """A database that exists, or existed while this node lives."""

    __slots__ = (
        "context",
        "dirty",
        "held_fd",
        "journal",
        "journal_active",
        "journal_named",
        "journal_refused",
        "kept_journal",
        "main",
        "name",
        "shm",
        "slot",
        "wal",
        "words",
    )

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name
        self.slot = context.state.add_slot(name)
        self.words = context.state.slot(self.slot)
        self.open_generation()
        self.main: DatabaseFile | None = None
        self.journal: JournalFile | None = None
        self.kept_journal: JournalFile | None = None  # removed by the program, its file serves the next one
        self.wal: WalFile | None = None
        self.shm: ShmFile | None = None
        self.held_fd = -1
        """The bytes that are held back; opened when first needed, for the process's life."""
        self.journal_active = False
        self.journal_refused = False  # its commit was not acknowledged: what comes now is its rollback
        self.journal_named = False  # the journal's directory entry is durable
        path = context.layout.dirty(name)
        self.dirty: DirtyRanges | None = DirtyRanges(path) if os.path.exists(path) else None

    def make_file(self, kind: Kind, path: str, ino: int) -> File:
        """Attach the backing file of one kind."""
        if kind is Kind.DATABASE:
            self.main = DatabaseFile(self, kind, ino, path)
            return self.main
        if kind is Kind.JOURNAL:
            self.journal = JournalFile(self, kind, ino, path)
            self.words[Word.HAS_JOURNAL] = 1
            self.journal_named = False
            return self.journal
        if kind is Kind.WAL:
            self.wal = WalFile(self, kind, ino, path)
            return self.wal
        self.shm = ShmFile(self.context, kind, f"{self.name}-shm", ino, path)
        self.shm.database = self
        return self.shm

    def file(self, kind: Kind) -> File | None:
        """The attached file of one kind."""
        if kind is Kind.DATABASE:
            return self.main
        if kind is Kind.JOURNAL:
            return self.journal
        return self.wal if kind is Kind.WAL else self.shm

    def detach(self, kind: Kind) -> None:
        """The name of one kind is gone; open handles keep the file object."""
        if kind is Kind.DATABASE:
            self.main = None
            self.words[Word.KIND] = KIND_EMPTY
            self.discard_kept()
        elif kind is Kind.JOURNAL:
            self.journal, self.journal_active, self.journal_refused = None, False, False
            self.words[Word.HAS_JOURNAL] = self.words[Word.JOURNAL_SIZE] = 0
        elif kind is Kind.WAL:
            self.wal = None
        else:
            self.shm = None

    def keep_journal(self) -> None:
        """The journal was removed; its file is hidden and serves the next one."""
        assert self.journal is not None
        failpoints.hit("mount.before-keep")
        self.journal.keep()
        self.context.settling.removed(self.journal.path)
        failpoints.hit("mount.after-keep")
        self.words[Word.HAS_JOURNAL] = 0
        self.kept_journal, self.journal, self.journal_active, self.journal_refused = self.journal, None, False, False

    def load_kept(self, path: str, ino: int) -> bool:
        """A successor finds a hidden file; False when the journal is the program's."""
        if self.words[Word.HAS_JOURNAL] or not self.words[Word.JOURNAL_SIZE]:
            return False
        self.kept_journal = JournalFile(self, Kind.JOURNAL, ino, path)
        self.kept_journal.resume()
        self.context.settling.found(path)
        return True

    def reuse_journal(self) -> JournalFile | None:
        """A program makes a journal: the kept one, empty; None when there is none."""
        kept, self.kept_journal = self.kept_journal, None
        if kept is None:
            return None
        self.context.settling.forget(kept.path)
        if not kept.is_there():
            kept.close()
            self.words[Word.JOURNAL_SIZE] = 0
            return None
        self.words[Word.HAS_JOURNAL] = 1
        self.journal = kept
        return kept

    def discard_kept(self) -> None:
        """No journal will follow, or another file takes its name."""
        kept, self.kept_journal = self.kept_journal, None
        if kept is not None:
            self.context.settling.forget(kept.path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(kept.path)
            kept.close()
            self.words[Word.JOURNAL_SIZE] = 0

    def touch(self) -> None:
        """Let the replicator look at this database."""
        self.words[Word.EVENT_SEQ] += 1
        self.context.replicator.ring()

    def is_captured(self) -> bool:
        """Whether every commit of the present WAL generation is safe in the log."""
        words = self.words
        end = words[Word.WAL_END]
        return not end or (words[Word.CAPTURED_GEN] == words[Word.WAL_GEN] and words[Word.CAPTURED_END] >= end)

    def next_generation(self, *, has_wal: bool) -> None:
        """The WAL's content begins anew."""
        words = self.words
        words[Word.WAL_END] = 0
        words[Word.WAL_SIZE] = HEADER_BYTES if has_wal else 0
        words[Word.HAS_WAL] = int(has_wal)
        words[Word.WAL_GEN] += 1

    def has_frames(self) -> bool:
        """Whether the WAL holds frames, so that database writes are checkpoints."""
        if self.wal is not None and self.wal.is_stale():
            self.wal.reload()
        return self.words[Word.WAL_SIZE] > HEADER_BYTES

    def mark(self, offset: int, length: int) -> None:
        """A program is about to write the database file."""
        if self.has_frames() or (self.words[Word.KIND] == KIND_OTHER and offset):
            return
        self._ranges().mark(offset, length)
        self._note_raw()

    def mark_size(self, before: int, size: int) -> None:
        """A program is about to change the database file's size."""
        if self.has_frames():
            if size == 0:  # no checkpoint does that: something is copied over a WAL database
                self.words[Word.RAW_HINT] += 1
                self.touch()
            return
        self._ranges().mark(min(before, size), max(0, size - before))
        self._note_raw()

    def check_content(self, data: Data) -> None:
        """Policy ``otherFiles: Refuse``: the first bytes must be SQLite's.

        Raises:
            OSError: EPERM.
        """
        if self.context.config.other_files == "Refuse" and data[:16] != SQLITE_MAGIC[: len(data)]:
            raise OSError(errno.EPERM, "only SQLite databases may be written here")

    def open_generation(self) -> int:
        """The generation of a handle that is opened now: above the poisoned ones."""
        words = self.words
        if words[Word.OPEN_GEN] <= words[Word.POISONED]:
            words[Word.OPEN_GEN] = words[Word.POISONED] + 1
        return int(words[Word.OPEN_GEN])

    def note_header(self) -> None:
        """Look at the database's first bytes: what is it now?"""
        assert self.main is not None
        header = os.pread(self.main.descriptor(), 18, 0)
        words = self.words
        if not header:
            words[Word.KIND] = KIND_EMPTY
        elif header[:16] == SQLITE_MAGIC:
            size = int.from_bytes(header[16:18], "big")
            words[Word.PAGE_SIZE] = 65536 if size == 1 else size if size in _PAGE_SIZES else 0
            if words[Word.KIND] == KIND_OTHER:  # what lies behind the header was not marked
                words[Word.RAW_HINT] += 1
            words[Word.KIND] = KIND_DATABASE
        else:
            words[Word.KIND] = KIND_OTHER

    def commit_journal(self) -> None:
        """The journal is about to end: hand its transaction over.

        Raises:
            OSError: ENOSPC or EIO (fence); then the journal stays, and SQLite rolls back.
        """
        if self.dirty:
            self._spool(0)
        else:
            holding.journal_ended(self)
        self.journal_active = self.journal_refused = False
        self.touch()

    def hold(self) -> bool:
        """Hand over a transaction whose journal is still there, as a commit that waits; False when there is none.

        Raises:
            OSError: ENOSPC.
        """
        if not self.journal_active or self.journal_refused:
            return False
        if not holding.waits_for_spool(self):
            if not self.dirty:
                return False
            self._spool(FLAG_HELD)
            self.touch()
        return True

    def held_is_durable(self) -> None:
        """Enough replicas hold what was handed over; what is written from now on is something else."""
        if self.dirty:
            self.dirty.clear()
        holding.answered(self)

    def spool_raw(self) -> None:
        """What was written without a journal is finished: hand it over."""
        if self.journal_active or not self.dirty:
            return
        if self.words[Word.KIND] == KIND_OTHER:  # stays on this node
            self.dirty.clear()
            self.words[Word.DIRTY_RAW] = 0
        else:
            self._spool(FLAG_RAW)
        self.touch()

    def replaced(self) -> None:
        """Another file took the database's name: the whole image is new."""
        if self.dirty:
            self.dirty.clear()
        self.words[Word.DIRTY_RAW] = 0
        self.words[Word.RAW_HINT] += 1
        self.note_header()
        self.touch()

    def dropped(self) -> None:
        """The database was deleted."""
        if self.dirty:
            self.dirty.clear()
        self.words[Word.DIRTY_RAW] = 0
        self.words[Word.PAGE_SIZE] = 0
        self.words[Word.GONE_SEQ] += 1
        self.touch()

    def _spool(self, flags: int) -> None:
        assert self.dirty is not None
        assert self.main is not None
        fd = self.main.descriptor()
        size = os.fstat(fd).st_size
        if any(not length or offset >= size for offset, length in self.dirty.ranges()):
            flags |= FLAG_TRUNCATED
        seq = self.words[Word.SPOOL_SEQ] + 1
        ranges = self.dirty.merged(size)
        small = sum(length for _offset, length in ranges) <= _SMALL_SPOOL_BYTES
        # A small one spares the program the disk: each of its syncs waits for everybody's new names.
        root = self.context.layout.runtime if small else self.context.layout.data
        path = spool_path(Path(root), self.slot, seq)
        failpoints.hit("mount.before-spool")
        try:
            copy_spool(
                path,
                ranges,
                lambda offset, length: os.pread(fd, length, offset),
                size,
                flags,
                wal_gen=int(self.words[Word.WAL_GEN]),
                gone_seq=int(self.words[Word.GONE_SEQ]),
            )
        except NoSpace as error:
            raise OSError(errno.ENOSPC, str(error)) from error
        failpoints.hit("mount.after-spool")
        if self.context.is_fenced and not flags & FLAG_RAW:  # copying takes time; nothing is announced yet
            path.unlink(missing_ok=True)
            self.context.check_fence()
        if flags & FLAG_HELD:  # the ranges stay: if it fails, what takes it back needs them
            holding.spool(self, seq)
            self.words[Word.SPOOL_SEQ] = seq
            return
        self.words[Word.SPOOL_SEQ] = seq
        self.dirty.clear()
        self.words[Word.DIRTY_RAW] = 0
        failpoints.hit("mount.after-announce")

    def _note_raw(self) -> None:
        if self.journal_active:
            return
        words = self.words
        words[Word.LAST_WRITE_NS] = time.monotonic_ns()
        words[Word.EVENT_SEQ] += 1
        if not words[Word.DIRTY_RAW]:
            words[Word.DIRTY_RAW] = 1
            self.context.replicator.ring()

    def _ranges(self) -> DirtyRanges:
        if self.dirty is None:
            self.dirty = DirtyRanges(self.context.layout.dirty(self.name))
        return self.dirty
