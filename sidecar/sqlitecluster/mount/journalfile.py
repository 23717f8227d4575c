"""A rollback journal: its end is the commit. In journal mode DELETE its backing file is kept for the next one.

Making and deleting a file in each transaction costs the disk three commits of the file
system's own journal; overwriting the same blocks costs none (docs/decisions). So when a
program removes a journal, its backing file gets the header of no journal (``KEPT``) and
is hidden; the next journal of this database is the same file, empty again for programs.

Rules:
    1. What a program sees ends at ``size``: bytes beyond it are of older transactions.
       They are never read, and SQLite itself takes no record of another nonce for its own.
    2. No record is overwritten before it is durable that the old header is gone
       (``_UNSETTLED``): a power cut would leave a journal that is hot and half new.
       That is one sync at the first record, as SQLite's own mode PERSIST does it.
    3. A file with the name of a super-journal, or with a second header, is not kept: SQLite looks
       for the one at the very end of the file, for the other behind the last record.
    4. Before SQLite completes a header it reads what stands behind its records, and zeroes what
       looks like an old header there (``syncJournal``). It sees nothing there, so it is done here.
    5. Which part counts is one shared word (``JOURNAL_SIZE``), so a successor goes on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sqlitecluster.mount.buffers import Data
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.tracked import TrackedFile
from sqlitecluster.shared import Word
from sqlitecluster.sqlitefmt.journal import KEPT, MAGIC

if TYPE_CHECKING:
    from sqlitecluster.mount.database import Database

_MAGIC_BYTES: Final = len(MAGIC)
_UNSETTLED: Final = 1 << 62
_MOST_KEPT_BYTES: Final = 1 << 20


class JournalFile(TrackedFile):
    """The journal of one database."""

    __slots__ = ("_reused", "_synced", "_whole")

    direct_io = True  # nobody reads it but a recovery

    def __init__(self, owner: Database, kind: Kind, ino: int, path: str) -> None:
        super().__init__(owner, kind, ino, path)
        self._reused = False  # the backing file is older than the program's: JOURNAL_SIZE counts
        self._synced = False  # the present header may be durable
        self._whole = True  # one header, no name of a super-journal

    def resume(self) -> None:
        """A successor goes on from the word."""
        self._reused = self.owner.words[Word.JOURNAL_SIZE] > 0
        self._synced = True

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
        """Until no old header can come back."""
        await self.context.syncing.sync(self, data_only=True)

    def sync(self, *, data_only: bool) -> None:
        """Also make its name durable: SQLite's own sync of the directory does not reach us."""
        self._synced = True
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
        os.pwrite(self.descriptor(), KEPT, 0)
        unsettled = self._synced or self._is_unsettled()
        self._reused, self._synced = True, False
        self._set_size(0, unsettled=unsettled)

    def is_there(self) -> bool:
        """Whether the kept file still has its name: a recovery may have removed it."""
        try:
            return os.path.samestat(os.stat(self.path, follow_symlinks=False), os.fstat(self.descriptor()))
        except FileNotFoundError:
            return False

    def end_reuse(self) -> None:
        """Become a plain file that ends where programs see its end. The old header must be gone for good."""
        if self._reused:
            os.ftruncate(self.descriptor(), self._size())
            self._set_plain()

    def _write_reused(self, fd: int, offset: int, data: Data) -> int | None:
        size = self._size()
        if offset and self._is_unsettled():
            return None
        if offset > size or not self._whole:
            self.end_reuse()
            return os.pwrite(fd, data, offset)
        done = os.pwrite(fd, data, offset)
        if offset + done > size:
            self._set_size(offset + done, unsettled=self._is_unsettled())
        return done

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
