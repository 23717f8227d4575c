"""A node's disk: real files in memory (tmpfs); a power cut takes what was not synced.

``SimDisk`` is the store's ``Disk`` port, so the production store writes through it: log,
LTX files, epoch, images. Mapped words are not written through a port; their ``sync`` is
told by ``watch_words``.

What a power cut does to bytes that were not synced: writes from a random one on are
undone, the last that stays may be torn at 512 bytes; each sector of a mapped file is the synced or
the newest version. Names (renames, removals) count as durable at once: the enumerated
crash states of lane ``crashstates`` are about them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlitecluster.store import words
from sqlitecluster.store.disk import Buffer, Disk

SECTOR = 512


class _Unsynced:
    """Writes of one file that a power cut may take."""

    def __init__(self, fd: int) -> None:
        self.fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)  # whatever ``fd`` may be used for
        self.undo: list[tuple[int, bytes, int]] = []
        """Offset, bytes before, size of the write; in order."""


class SimDisk(Disk):
    """One node's."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._unsynced: dict[int, _Unsynced] = {}
        self._words: dict[Path, bytes] = {}
        self.syncs = 0

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write; the old bytes are remembered until the next sync."""
        total = sum(map(len, buffers))
        inode = os.fstat(fd).st_ino
        file = self._unsynced.get(inode)
        if file is None:
            file = self._unsynced[inode] = _Unsynced(fd)
        file.undo.append((offset, os.pread(file.fd, total, offset), total))
        os.pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        """Everything that was written to this file stays."""
        self.syncs += 1
        file = self._unsynced.pop(os.fstat(fd).st_ino, None)
        if file is not None:
            os.close(file.fd)

    def fsync(self, fd: int) -> None:
        """The same."""
        self.fdatasync(fd)

    def fsync_dir(self, path: Path | str) -> None:
        """Names are durable anyway."""

    def synced_words(self, path: Path) -> None:
        """A mapped file was synced as it is."""
        self._words[path] = path.read_bytes()

    def power_cut(self) -> int:
        """The machine stops; returns how many writes were lost."""
        lost = 0
        for file in self._unsynced.values():
            keep = self._rng.randint(0, len(file.undo))
            for offset, before, size in reversed(file.undo[keep:]):
                lost += 1
                os.pwrite(file.fd, before.ljust(size, b"\0"), offset)
            if keep and keep < len(file.undo) and self._rng.random() < 0.5:
                self._tear(file.fd, *file.undo[keep - 1])
            os.close(file.fd)
        self._unsynced.clear()
        return lost

    def _tear(self, fd: int, offset: int, before: bytes, size: int) -> None:
        """Only the first sectors of a write arrived."""
        first = -offset % SECTOR + self._rng.randint(0, max(0, size // SECTOR)) * SECTOR
        if first < size:
            os.pwrite(fd, before.ljust(size, b"\0")[first:], offset + first)

    def mix_words(self, data_dir: Path) -> None:
        """After a power cut, before anything is mapped again."""
        for path in sorted([*data_dir.glob("dbs/*/state"), *data_dir.glob("dbs/*/checksums")]):
            now = path.read_bytes()
            old = self._words.get(path, b"").ljust(len(now), b"\0")
            parts = []
            for at in range(0, len(now), SECTOR):
                one, two = old[at : at + SECTOR], now[at : at + SECTOR]
                parts.append(one if one != two and self._rng.random() < 0.5 else two)
            path.write_bytes(b"".join(parts))

    def close(self) -> None:
        """Forget everything."""
        for file in self._unsynced.values():
            os.close(file.fd)
        self._unsynced.clear()


def watch_words(disk_of: Callable[[Path], SimDisk]) -> Callable[[], None]:
    """Tell disks when mapped files are synced (real disks are spared); returns what undoes it."""
    before = words.WordFile.sync

    def sync(self: words.WordFile) -> None:
        disk_of(self.path).synced_words(self.path)

    words.WordFile.sync = sync  # type: ignore[method-assign]

    def undo() -> None:
        words.WordFile.sync = before  # type: ignore[method-assign]

    return undo
