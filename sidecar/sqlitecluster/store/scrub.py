"""Reading every stored LTX file once in a while, so that damage is found before it is needed.

Page cache is dropped first: what counts is what the disk gives. A few MiB a second, more
only if the configured time between two walks is short; a damaged file goes to lost+found.
Called by the housekeeper each turn.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.ltxdir import LTXFileInfo
from sqlitecluster.store.node import NodeStore

RATE: Final = 2 << 20  # bytes a second
ROUND_S: Final = 3600.0
_MAX_FILE: Final = 64 << 20  # larger ones are verified by who reads them


class Scrub:
    """One slow walk over all files, then a pause."""

    def __init__(self, store: NodeStore, round_s: float = ROUND_S) -> None:
        self._store = store
        self._round_s = round_s
        self._rate = RATE * max(1.0, ROUND_S / 60 / round_s)
        self._queue: list[tuple[DatabaseStore, LTXFileInfo]] = []
        self._next = store.clock.monotonic() + min(5.0, round_s)
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
                self._next = now + self._round_s / 60
                return
        database, info = self._queue.pop()
        if info.size <= _MAX_FILE and info in database.files.files:
            evict(database.files.file_path(info))
            database.read(database.piece(info))
            self.checked += 1
        self._next = now + (info.size / self._rate if self._queue else self._round_s)


def evict(path: Path, offset: int = 0, size: int = 0) -> None:
    """Let the kernel forget what it cached of a file (to its end for ``size`` 0), so that reading asks the disk."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
