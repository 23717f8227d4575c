"""Files in memory that real SQLite works on, through an APSW VFS; every write is told.

Used to record page streams (``pagestream``) and by the seeds that run SQLite itself
(``programs``). The VFS has no shared memory, so a WAL needs ``locking_mode=EXCLUSIVE``,
which keeps the wal-index in SQLite's own memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import apsw

Told = Callable[[str, int, bytes], bytes | None]
"""File's suffix, offset, bytes of a write that is about to happen; what is to be written, None: nothing."""

_numbers = itertools.count()


class MemoryFiles(apsw.VFS):
    """A VFS of its own for each database: name → content."""

    def __init__(self) -> None:
        self.label = f"memory-{next(_numbers)}"
        self.files: dict[str, bytearray] = {}
        self.before_write: Told = lambda _suffix, _at, data: data
        self.synced: Callable[[str], None] = lambda _suffix: None
        self.removed: Callable[[str], None] = lambda _suffix: None
        self.truncated: Callable[[str, int], None] = lambda _suffix, _size: None
        super().__init__(self.label, base="")

    def connect(self) -> apsw.Connection:
        """A program's connection."""
        return apsw.Connection("db", vfs=self.label)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> MemoryFile:  # noqa: N802
        """SQLite opens a file."""
        text = name.filename() if isinstance(name, apsw.URIFilename) else str(name or f"temp{next(_numbers)}")
        flags[1] = flags[0]
        return MemoryFile(self, _suffix(text), memoryless=name is None)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """SQLite removes a file."""
        if self.files.pop(_suffix(filename), None) is None:
            raise apsw.IOErrorDeleteNoentError("no such file")
        self.removed(_suffix(filename))

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        """Whether a file is there."""
        return _suffix(pathname) in self.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        """Names are as they are."""
        return name


class MemoryFile:
    """One open file."""

    def __init__(self, owner: MemoryFiles, suffix: str, *, memoryless: bool = False) -> None:
        self._owner, self._suffix = owner, suffix
        self._told = not memoryless
        self._data = owner.files.setdefault(suffix, bytearray()) if self._told else bytearray()

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        """Bytes; SQLite fills what is missing with zeros."""
        return bytes(self._data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write, unless the owner says no."""
        wanted = self._owner.before_write(self._suffix, offset, bytes(data)) if self._told else bytes(data)
        if wanted is None:
            return
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(wanted)] = wanted

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Cut."""
        del self._data[newsize:]
        if self._told:
            self._owner.truncated(self._suffix, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Make durable."""
        if self._told:
            self._owner.synced(self._suffix)

    def xFileSize(self) -> int:  # noqa: N802
        """Bytes."""
        return len(self._data)

    def xLock(self, level: int) -> None:  # noqa: N802
        """Nobody else is there."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Nobody else is there."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        """Nobody else is there."""
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        """Nothing special."""
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        """As ordinary disks."""
        return 512

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        """As the mount: SQLite need not pad."""
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)

    def xClose(self) -> None:  # noqa: N802
        """Nothing is held."""

    def excepthook(self, *_: Any) -> None:
        """Errors reach SQLite as such; nobody needs to print them."""


def _suffix(name: str) -> str:
    for suffix in ("-wal", "-journal"):
        if name.endswith(suffix):
            return suffix
    return "" if name.rpartition("/")[2] == "db" else name


def rows(connection: apsw.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """All rows of a query."""
    yield from connection.execute(sql)
