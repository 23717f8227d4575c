"""Mode, owner and group of every name, kept in ``names.db``.

Backing files belong to the sidecar; what a program sees are rows, which survive the
process and the container and can be copied with the store. Side files of a database
have no rows: they show the database's.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS names (
    path TEXT PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL
) WITHOUT ROWID
"""


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
        self._rows = {path: Owner(mode, uid, gid) for path, mode, uid, gid in rows}

    def get(self, path: str) -> Owner | None:
        """The row of ``path``."""
        return self._rows.get(path)

    def set(self, path: str, owner: Owner) -> None:
        """Add or replace a row; nothing happens when it is the same."""
        if self._rows.get(path) != owner:
            self._rows[path] = owner
            self._db.execute("REPLACE INTO names VALUES (?, ?, ?, ?)", (path, owner.mode, owner.uid, owner.gid))

    def remove(self, path: str) -> None:
        """Forget a name."""
        if self._rows.pop(path, None) is not None:
            self._db.execute("DELETE FROM names WHERE path = ?", (path,))

    def rename(self, old: str, new: str) -> None:
        """Move a row, and all rows below it when it is a directory."""
        self.remove(new)
        below = old + "/"
        moved = [(path, new + path[len(old) :]) for path in self._rows if path == old or path.startswith(below)]
        self._db.execute("BEGIN")
        for before, after in moved:
            self._rows[after] = self._rows.pop(before)
            self._db.execute("UPDATE OR REPLACE names SET path = ? WHERE path = ?", (after, before))
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Flush and close."""
        self._db.close()
