"""Reading every stored LTX file once in a while, so that damage is found before it is needed.

A few MiB a second at most; a damaged file goes to lost+found. Called by the housekeeper
each turn.
"""

from __future__ import annotations

from typing import Final

from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.ltxdir import LTXFileInfo
from sqlitecluster.store.node import NodeStore

RATE: Final = 2 << 20  # bytes a second
ROUND_S: Final = 3600.0
_MAX_FILE: Final = 64 << 20  # larger ones are verified by who reads them


class Scrub:
    """One slow walk over all files, then a pause."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._queue: list[tuple[DatabaseStore, LTXFileInfo]] = []
        self._next = store.clock.monotonic() + 5.0
        self.checked = 0
        """Files verified since the start."""

    def step(self) -> None:
        """Verify the next file if its time has come."""
        now = self._store.clock.monotonic()
        if now < self._next:
            return
        if not self._queue:
            self._queue = [(each, info) for each in self._store.opened() for info in each.files.files]
            if not self._queue:
                self._next = now + ROUND_S / 60
                return
        database, info = self._queue.pop()
        if info.size <= _MAX_FILE and info in database.files.files:
            database.read(database.piece(info))
            self.checked += 1
        self._next = now + (info.size / RATE if self._queue else ROUND_S)
