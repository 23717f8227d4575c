"""A rollback journal: its end is the commit. In journal mode DELETE its backing file is kept for the next one.

Making and deleting a file in each transaction costs the disk commits of the file system's
own journal; overwriting the same blocks costs none (docs/decisions). So when a program
removes a journal, its backing file gets the header of no journal (``KEPT``) and is
hidden; the next journal of this database is the same file, empty again for programs.

Rules:
    1. What a program sees ends at ``size``: bytes beyond it are of older transactions.
       They are never read, and SQLite itself takes no record of another nonce for its own.
    2. SQLite syncs a journal twice: records, then the header that counts them. In a kept file
       the header is written with a seal, a checksum of everything. One that does not fit is no
       journal (``store.journals``), so one sync of both does, and the first sync, of a journal
       that has no header yet, has nothing to do (``needs_sync``).
    3. So a durable older header may stand over newer records: its seal does not fit any more. Only
       a header without a seal must be gone for good before a record is overwritten (``_UNSETTLED``).
    4. What a seal does not cover makes the file a plain one: a write after it, a cut, a large journal.
    5. A file with the name of a super-journal, or with a second header, is not kept: SQLite looks
       for the one at the very end of the file, for the other behind the last record.
    6. Before SQLite completes a header it reads what stands behind its records, and zeroes what
       looks like an old header there (``syncJournal``). It sees nothing there, so it is done here.
    7. Which part counts is one shared word (``JOURNAL_SIZE``), so a successor goes on.
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING, Final

from sqlitecluster.mount.buffers import Data
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.tracked import TrackedFile
from sqlitecluster.shared import Word
from sqlitecluster.sqlitefmt.journal import KEPT, MAGIC, SEAL_AT, SEAL_END, is_sealed, sealed

if TYPE_CHECKING:
    from sqlitecluster.mount.database import Database

_MAGIC_BYTES: Final = len(MAGIC)
_UNSETTLED: Final = 1 << 62
_MOST_KEPT_BYTES: Final = 1 << 20
_NOTHING: Final = KEPT.ljust(SEAL_END, b"\0")


class Header(enum.Enum):
    """What begins the backing file."""

    NONE = enum.auto()  # SQLite writes zeros first: nobody would roll anything back
    PLAIN = enum.auto()
    SEALED = enum.auto()


class JournalFile(TrackedFile):
    """The journal of one database."""

    __slots__ = ("_header", "_owed", "_reused", "_synced", "_whole")

    direct_io = True  # nobody reads it but a recovery

    def __init__(self, owner: Database, kind: Kind, ino: int, path: str) -> None:
        super().__init__(owner, kind, ino, path)
        self._reused = False  # the backing file is older than the program's: JOURNAL_SIZE counts
        self._header = Header.NONE
        self._owed = False  # a sync was answered before there was anything to protect
        self._synced = False  # a header without a seal may be durable
        self._whole = True  # one header, no name of a super-journal

    def resume(self) -> None:
        """The file was there before: a successor goes on from the word; what a stopped node left may be durable."""
        self._reused = self.owner.words[Word.JOURNAL_SIZE] > 0
        start = os.pread(self.descriptor(), SEAL_END, 0)
        if start[:_MAGIC_BYTES] == MAGIC:
            self._header = Header.SEALED if is_sealed(start) else Header.PLAIN
        self._owed = self._reused and self._header is Header.NONE
        self._synced = not self._reused or self._header is Header.PLAIN

    # bytes

    def size_of(self, seen: os.stat_result) -> int:
        """Bytes that programs see."""
        return self._size() if self._reused else seen.st_size

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``."""
        if self._reused:
            size = min(size, max(0, self._size() - offset))
            if not size:
                self._disarm(offset)
        return os.pread(self.descriptor(), size, offset)

    def write(self, offset: int, data: Data, *, privileged: bool) -> int | None:
        """Zeros over the header commit (PERSIST); anything else there begins a transaction."""
        fd = self.descriptor()
        if self._owed and not self._reused and offset == 0:
            return None
        if not privileged and not self.unlinked:
            self.context.require_primary()
            if offset == 0 and len(data) >= _MAGIC_BYTES:
                if any(data[:_MAGIC_BYTES]):
                    self.owner.journal_active = True
                else:
                    self.owner.commit_journal()
            self.context.space.take(len(data))
        if offset and MAGIC in (data[:_MAGIC_BYTES], data[-_MAGIC_BYTES:]):
            self._whole = False
        if not self._reused:
            return os.pwrite(fd, data, offset)
        return self._write_reused(fd, offset, data)

    def truncate(self, size: int, *, privileged: bool) -> bool | None:
        """To nothing: a commit (TRUNCATE)."""
        if not privileged and not self.unlinked:
            self.context.require_primary()
            if size < _MAGIC_BYTES:
                self.owner.commit_journal()
        if self._reused and size:
            if self._is_unsettled():
                return None
            self.end_reuse()
        os.ftruncate(self.descriptor(), size)
        self._set_plain()
        return True

    async def settled(self) -> None:
        """Until no old header can come back, and what was put off is done."""
        await self.context.syncing.sync(self, data_only=True, always=True)

    def needs_sync(self) -> bool:
        """Without a header it protects nothing yet; the sync of its header makes all of it durable."""
        if not self._reused or self._header is not Header.NONE or self._size() > _MOST_KEPT_BYTES:
            return True
        self._owed = True
        return False

    def sync(self, *, data_only: bool) -> None:
        """Also make its name durable: SQLite's own sync of the directory does not reach us."""
        self._synced = self._synced or not self._reused or self._header is Header.PLAIN
        super().sync(data_only=data_only)
        if not self.owner.journal_named:
            self.owner.journal_named = True
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def synced(self) -> None:
        """What was there when the sync began is durable."""
        self._owed = False
        if self._reused:
            self._set_size(self._size(), unsettled=False)

    def is_hot(self) -> bool:
        """Whether it has a header that is not zero."""
        return any(self.read(0, _MAGIC_BYTES))

    # keeping

    def may_be_kept(self) -> bool:
        """Whether the backing file can serve the next transaction."""
        if self.handles or self.inherited or self.pins or not self._whole:
            return False
        return 0 < os.fstat(self.descriptor()).st_size <= _MOST_KEPT_BYTES

    def keep(self) -> None:
        """The program removed it: no header, no bytes."""
        os.pwrite(self.descriptor(), _NOTHING, 0)
        unsettled = self._synced or self._is_unsettled()
        self._reused, self._synced = True, False
        self._header, self._owed = Header.NONE, False
        self._set_size(0, unsettled=unsettled)

    def is_there(self) -> bool:
        """Whether the kept file still has its name: a recovery may have removed it."""
        try:
            return os.path.samestat(os.stat(self.path, follow_symlinks=False), os.fstat(self.descriptor()))
        except FileNotFoundError:
            return False

    def end_reuse(self) -> None:
        """Become a plain file that ends where programs see its end. An old header without a seal must be gone."""
        if self._reused:
            if self._header is Header.SEALED:
                os.pwrite(self.descriptor(), bytes(SEAL_END - SEAL_AT), SEAL_AT)
                self._header, self._synced = Header.PLAIN, True
            os.ftruncate(self.descriptor(), self._size())
            self._set_plain()

    def _write_reused(self, fd: int, offset: int, data: Data) -> int | None:
        size = self._size()
        if offset and self._is_unsettled():
            return None
        if self._header is Header.SEALED and offset + len(data) <= size and os.pread(fd, len(data), offset) == data:
            return len(data)  # the same request again, after a take-over
        if self._header is Header.SEALED or offset > size or not self._whole:
            self.end_reuse()
            return None if self._owed and offset == 0 else os.pwrite(fd, data, offset)
        if offset == 0 and data[:_MAGIC_BYTES] == MAGIC:
            if len(data) <= SEAL_AT and size >= SEAL_END and (self._owed or size <= _MOST_KEPT_BYTES):
                return self._seal(fd, data, size)
            self._header = Header.PLAIN
        done = os.pwrite(fd, data, offset)
        if offset + done > size:
            self._set_size(offset + done, unsettled=self._is_unsettled())
        return done

    def _seal(self, fd: int, data: Data, size: int) -> int:
        """The header that counts the records, and the seal, in one write to one sector."""
        start = bytes(data) + os.pread(fd, SEAL_AT - len(data), len(data))
        rest = os.pread(fd, size - SEAL_END, SEAL_END)
        os.pwrite(fd, sealed(start, rest), 0)
        self._header = Header.SEALED
        return len(data)

    def _disarm(self, offset: int) -> None:
        """A header of an older transaction behind the end must not be taken for a part of this one."""
        fd = self.descriptor()
        if os.pread(fd, _MAGIC_BYTES, offset) == MAGIC:
            os.pwrite(fd, b"\0", offset)

    def _size(self) -> int:
        return int(self.owner.words[Word.JOURNAL_SIZE] & ~_UNSETTLED) - 1

    def _is_unsettled(self) -> bool:
        return self._reused and bool(self.owner.words[Word.JOURNAL_SIZE] & _UNSETTLED)

    def _set_size(self, size: int, *, unsettled: bool) -> None:
        self.owner.words[Word.JOURNAL_SIZE] = size + 1 | (_UNSETTLED if unsettled else 0)

    def _set_plain(self) -> None:
        if self._reused:
            self._reused = False
            self.owner.words[Word.JOURNAL_SIZE] = 0
