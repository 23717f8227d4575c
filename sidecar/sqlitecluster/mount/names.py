"""Mode, owner and group of every name, kept in ``names.db``.

Backing files belong to the sidecar; what a program sees are rows, which survive the
process and the container and can be copied with the store. Side files of a database
have no rows: they show the database's.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS names (
    path TEXT PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL
) WITHOUT ROWID
"""
_REPLACE: Final = "REPLACE INTO names VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM names WHERE path = ?"
_MOVE: Final = "UPDATE OR REPLACE names SET path = ? WHERE path = ?"


@dataclass(frozen=True, slots=True)
class Owner:
    """Permission bits (without the file type), owner and group."""

    mode: int
    uid: int
    gid: int


class Names:
    """All rows in memory, every change written through."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(_SCHEMA)
        rows = self._db.execute("SELECT path, mode, uid, gid FROM names")
        self._rows = {_path(key): Owner(mode, uid, gid) for key, mode, uid, gid in rows}

    def get(self, path: str) -> Owner | None:
        """The row of ``path``."""
        return self._rows.get(path)

    def set(self, path: str, owner: Owner) -> None:
        """Add or replace a row; nothing happens when it is the same.

        Raises:
            OSError: it could not be stored, like the other two.
        """
        if self._rows.get(path) != owner:
            self._write([(_REPLACE, (_key(path), owner.mode, owner.uid, owner.gid))])
            self._rows[path] = owner

    def remove(self, path: str) -> None:
        """Forget a name."""
        if self._rows.pop(path, None) is not None:
            self._write([(_DELETE, (_key(path),))])

    def rename(self, old: str, new: str) -> None:
        """Move a row, and all rows below it when it is a directory."""
        self.remove(new)
        below = old + "/"
        moved = [(path, new + path[len(old) :]) for path in self._rows if path == old or path.startswith(below)]
        for before, after in moved:  # the files have been renamed, whatever comes
            self._rows[after] = self._rows.pop(before)
        self._write((_MOVE, (_key(after), _key(before))) for before, after in moved)

    def close(self) -> None:
        """Flush and close."""
        self._db.close()

    def _write(self, statements: Iterable[tuple[str, tuple[str | bytes | int, ...]]]) -> None:
        """All of them or none."""
        try:
            with self._db:
                self._db.execute("BEGIN")
                for sql, values in statements:
                    self._db.execute(sql, values)
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, f"names.db: {error}") from error


def _key(path: str) -> str | bytes:
    """As it is stored: a name that is not UTF-8, which other files may have, as its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _path(key: str | bytes) -> str:
    return os.fsdecode(key) if isinstance(key, bytes) else key
