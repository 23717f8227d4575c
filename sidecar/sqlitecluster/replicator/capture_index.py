"""What SQLite has published of a write-ahead log: the head of the wal-index (``-shm``).

``capture_wal`` asks it how many frames every connection can see.

Rules:
    1. The file is read by ``pread`` on a descriptor opened through the mount, whose
       cached pages are the ones programs have mapped. It is never mapped here: its first
       opener truncates it, and a mapping would then kill this process.
    2. The head exists twice; it counts only while both copies are equal and its
       checksum is right.
    3. The frames belong to a WAL only if the salts are equal.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlitecluster.replicator import locks, through
from sqlitecluster.sqlitefmt.walindex import CHECKPOINT_AT, IndexHeader, read_header

_TRIES: Final = 5


class IndexHead:
    """The wal-index of one database; opened when first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._inode = 0

    def read(self) -> IndexHeader | None:
        """The published head; None without a file, or while the head is being written or is not valid."""
        if self._fd < 0 and not self._open():
            return None
        for _ in range(_TRIES):
            head = read_header(os.pread(self._fd, CHECKPOINT_AT, 0))
            if head is not None:
                return head
        return None

    def is_used(self) -> bool:
        """Whether a program has it open: SQLite holds DMS from the first use to the last, but not with a heap index."""
        return (self._fd >= 0 or self._open()) and locks.holder(self._fd, locks.DMS) is not None

    def refresh(self) -> None:
        """Follow the path again when another file stands there."""
        try:
            inode = through.stat(self._path).st_ino
        except OSError:
            inode = 0
        if self._fd >= 0 and inode != self._inode:
            self.close()

    def close(self) -> None:
        """Forget the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> bool:
        try:
            self._fd = through.open_fd(self._path, os.O_RDONLY)
        except OSError:
            return False
        self._inode = os.fstat(self._fd).st_ino
        return True
