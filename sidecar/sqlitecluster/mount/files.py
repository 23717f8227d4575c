"""Files of the mount that are no part of a database, and what all files have in common.

A plain file whose name a database may have becomes one when it begins to look like one: with the
write that completes SQLite's magic, or when an empty one is opened as SQLite opens (``gate``).

A file is known to the kernel by its inode number, which is that of the backing file.
Its methods take and give bytes and raise OSError; ``operations`` turns that into
answers. ``write`` and ``truncate`` give None when the request must wait; the caller
then awaits ``settled`` and asks once more.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

from sqlitecluster.errors import BadName
from sqlitecluster.mount.buffers import Data
from sqlitecluster.mount.context import Context
from sqlitecluster.mount.layout import Kind
from sqlitecluster.shared import NodeWord
from sqlitecluster.units import valid_database_name

if TYPE_CHECKING:
    from sqlitecluster.mount.database import Database

log = logging.getLogger(__name__)

SQLITE_MAGIC: Final = b"SQLite format 3\0"


class File:
    """One file: a plain one, and the base of the others."""

    __slots__ = (
        "context",
        "database",
        "fd",
        "handles",
        "inherited",
        "ino",
        "kind",
        "name",
        "path",
        "pins",
        "unlinked",
        "writers",
    )

    direct_io = False

    def __init__(self, context: Context, kind: Kind, name: str, ino: int, path: str) -> None:
        self.context = context
        self.kind = kind
        self.name = name  # path below the mount
        self.ino = ino
        self.path = path  # of the backing file
        self.fd = -1
        self.pins = 0
        self.handles = 0
        self.writers = 0  # of these, programs' that may write; a predecessor's do not count
        self.inherited = False  # a predecessor may have given out handles that are still open
        self.unlinked = False
        self.database: Database | None = None

    def descriptor(self) -> int:
        """An open descriptor of the backing file."""
        return self.fd if self.fd >= 0 else self.context.descriptors.open(self)

    def stat(self) -> os.stat_result:
        """Size and times of the backing file."""
        return os.fstat(self.fd) if self.fd >= 0 else os.stat(self.path, follow_symlinks=False)

    def size_of(self, seen: os.stat_result) -> int:
        """Bytes that programs see, of what ``stat`` gave."""
        return seen.st_size

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``."""
        return os.pread(self.descriptor(), size, offset)

    def write(self, offset: int, data: Data, *, privileged: bool) -> int | None:
        """Write; None: must wait."""
        if offset < len(SQLITE_MAGIC) and not privileged and self._makes_database(offset, data):
            return self._database().write(offset, data, privileged=privileged)
        self.context.space.take(len(data))
        return os.pwrite(self.descriptor(), data, offset)

    def truncate(self, size: int, *, privileged: bool) -> bool | None:
        """Set the size; None: must wait."""
        fd = self.descriptor()
        if size >= len(SQLITE_MAGIC) and not privileged:
            before = os.fstat(fd).st_size
            if before < len(SQLITE_MAGIC) and self._makes_database(before, bytes(len(SQLITE_MAGIC) - before)):
                return self._database().truncate(size, privileged=privileged)
        os.ftruncate(fd, size)
        return True

    def _makes_database(self, offset: int, data: Data) -> bool:
        """Whether the file would begin as a SQLite database does; not one that nobody can find any more."""
        length = len(SQLITE_MAGIC)
        if self.unlinked:
            return False
        if offset == 0 and len(data) >= length:
            return data[:length] == SQLITE_MAGIC
        head = bytearray(os.pread(self.descriptor(), length, 0).ljust(offset, b"\0"))
        head[offset : offset + len(data)] = data[: length - offset]
        return head[:length] == SQLITE_MAGIC

    def _database(self) -> File:
        """What this file is from now on.

        Raises:
            OSError: EIO, no database can have this name; EROFS, EBUSY: not on this node, not now.
        """
        if not valid_database_name(self.name):
            log.error("%s: cannot hold a SQLite database. %s [%s]", self.name, BadName.meaning, BadName.code)
            raise OSError(errno.EIO, BadName.meaning)
        self.context.require_primary()
        if self.context.state.node[NodeWord.DRAINING]:
            raise OSError(errno.EBUSY, "a hand-off is being prepared")
        return self.context.become_database(self)

    async def settled(self) -> None:
        """Wait until what ``write`` or ``truncate`` waits for has happened."""

    async def acknowledged(self) -> None:
        """After a program's fsync: wait until what it completes may be answered."""

    def needs_sync(self) -> bool:
        """Whether a program's fsync has anything to do."""
        return True

    def sync(self, *, data_only: bool) -> None:
        """[any thread] Make the content durable."""
        if data_only:
            os.fdatasync(self.fd)
        else:
            os.fsync(self.fd)

    def synced(self) -> None:
        """A sync has ended well."""

    def opened(self, *, writing: bool, privileged: bool) -> None:
        """A handle was given out."""
        self.handles += 1
        if writing and not privileged:
            self.writers += 1

    def released(self, *, writing: bool, privileged: bool) -> None:
        """A handle was closed."""
        self.handles = max(0, self.handles - 1)
        if writing and not privileged:
            self.writers = max(0, self.writers - 1)

    def close(self) -> None:
        """Give the descriptor back."""
        self.context.descriptors.close(self)


class ShmFile(File):
    """A wal-index on tmpfs: mapped by programs, so its pages must exist before they are used."""

    __slots__ = ("_allocated",)

    def __init__(self, context: Context, kind: Kind, name: str, ino: int, path: str) -> None:
        super().__init__(context, kind, name, ino, path)
        self._allocated = 0

    def write(self, offset: int, data: Data, *, privileged: bool) -> int | None:
        """Allocate, then write: a full tmpfs must answer now, not at write-back (hazard 18)."""
        fd = self.descriptor()
        self._allocate(fd, offset + len(data))
        return os.pwrite(fd, data, offset)

    def truncate(self, size: int, *, privileged: bool) -> bool | None:
        """Set the size, allocated."""
        fd = self.descriptor()
        os.ftruncate(fd, size)
        self._allocated = min(self._allocated, size)
        self._allocate(fd, size)
        return True

    def sync(self, *, data_only: bool) -> None:
        """Nothing: a wal-index never survives a reboot."""

    def _allocate(self, fd: int, end: int) -> None:
        if end > self._allocated:
            os.posix_fallocate(fd, 0, end)
            self._allocated = end
