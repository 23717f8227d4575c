"""The LTX files of one database: ``ltx/<level>/<min>-<max>.ltx`` and an index of them.

Level 0 is cut from the log, higher levels are joined from lower ones, level 9 holds
snapshots that were asked for.

Rules:
    1. The index is an immutable tuple, replaced whole: readers in other threads need no lock.
    2. A file is in the index only when it is whole, renamed and its directory synced.
    3. A file that vanishes under a reader is no error here; the reader looks again.

Called by ``database``, ``cutter``, ``compaction``, ``retention``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster.store.disk import Buffer, Disk

LEVELS: Final = (0, 1, 2)
SNAPSHOT_LEVEL: Final = 9


@dataclass(frozen=True, slots=True)
class LTXFileInfo:
    """One stored LTX file."""

    level: int
    min_txid: int
    max_txid: int
    size: int
    """Bytes."""
    stored_ms: int
    """Wall clock when it was written."""

    @property
    def name(self) -> str:
        """``<min>-<max>.ltx``."""
        return f"{self.min_txid:016x}-{self.max_txid:016x}.ltx"

    @property
    def is_snapshot(self) -> bool:
        """Whether it holds the whole database."""
        return self.min_txid == 1


class LTXDirectory:
    """The files of one database."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self._lock = threading.Lock()
        self._unwanted: set[Path] = set()
        self.files: tuple[LTXFileInfo, ...] = self._scan()
        """All files, by last TXID, then level."""

    def file_path(self, info: LTXFileInfo) -> Path:
        """Where a file is."""
        return self.path / str(info.level) / info.name

    def newest(self) -> LTXFileInfo | None:
        """The file that reaches furthest."""
        return self.files[-1] if self.files else None

    def find(self, txid: int) -> LTXFileInfo | None:
        """The file that holds ``txid`` and takes a reader furthest; increments before snapshots."""
        best: LTXFileInfo | None = None
        for info in self.files:
            if info.min_txid <= txid <= info.max_txid and (best is None or _better(info, best, txid)):
                best = info
        return best

    def covers(self, min_txid: int, max_txid: int) -> bool:
        """Whether files hold all of these transactions."""
        at = min_txid
        while at <= max_txid:
            info = self.find(at)
            if info is None:
                return False
            at = info.max_txid + 1
        return True

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(info.size for info in self.files)

    def install(self, level: int, min_txid: int, max_txid: int, chunks: Iterable[Buffer]) -> LTXFileInfo:
        """Write a file, whole and durable, and add it to the index."""
        folder = self._folder(level)
        path = folder / f"{min_txid:016x}-{max_txid:016x}.ltx"
        with self._placing(path):
            self._disk.write_file(path, chunks)
        return self._added(level, min_txid, max_txid, path)

    def writing(self, path: Path) -> AbstractContextManager[Callable[[Buffer], None]]:
        """Begin a file of this file system that ``adopt`` takes in when it is whole."""
        return self._disk.writing(path)

    def adopt(self, level: int, min_txid: int, max_txid: int, source: Path) -> LTXFileInfo:
        """Move a finished file of the same file system in."""
        path = self._folder(level) / f"{min_txid:016x}-{max_txid:016x}.ltx"
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._disk.fsync(fd)
        finally:
            os.close(fd)
        with self._placing(path):
            self._disk.replace(source, path)
            self._disk.fsync_dir(path.parent)
        return self._added(level, min_txid, max_txid, path)

    def drop_unwanted(self) -> None:
        """Remove files that were renamed, but could not be made durable: nobody was told of them.

        Called before the chain goes on, since another transaction takes their number.
        """
        for path in tuple(self._unwanted):
            self._disk.unlink(path)
            self._disk.fsync_dir(path.parent)
            self._unwanted.discard(path)

    @contextmanager
    def _placing(self, path: Path) -> Iterator[None]:
        self.drop_unwanted()
        try:
            yield
        except BaseException:
            self._unwanted.add(path)
            raise

    def sync_names(self) -> None:
        """Make durable what a killed process may have renamed without getting further."""
        for level in {info.level for info in self.files}:
            self._disk.fsync_dir(self.path / str(level))

    def remove(self, infos: Iterable[LTXFileInfo]) -> None:
        """Remove files: first from the index, then from the disk."""
        for info in self.forget(infos):
            self._disk.unlink(self.file_path(info))

    def forget(self, infos: Iterable[LTXFileInfo]) -> list[LTXFileInfo]:
        """Take files out of the index; returns those that were in it: they are the caller's to move."""
        gone = set(infos)
        with self._lock:
            taken = [info for info in self.files if info in gone]
            self.files = tuple(info for info in self.files if info not in gone)
        return taken

    def _folder(self, level: int) -> Path:
        folder = self.path / str(level)
        if not folder.is_dir():
            self._disk.make_folder(folder)
            self._disk.fsync_dir(self.path)
            self._disk.fsync_dir(self.path.parent)
        return folder

    def _added(self, level: int, min_txid: int, max_txid: int, path: Path) -> LTXFileInfo:
        status = os.stat(path)
        info = LTXFileInfo(level, min_txid, max_txid, status.st_size, int(status.st_mtime * 1000))
        with self._lock:
            others = [f for f in self.files if (f.level, f.min_txid, f.max_txid) != (level, min_txid, max_txid)]
            self.files = tuple(sorted([*others, info], key=_order))
        return info

    def _scan(self) -> tuple[LTXFileInfo, ...]:
        found: list[LTXFileInfo] = []
        for unfinished in self.path.glob("*.tmp"):
            self._disk.unlink(unfinished)
        for level in (*LEVELS, SNAPSHOT_LEVEL):
            try:
                entries = list(os.scandir(self.path / str(level)))
            except FileNotFoundError:
                continue
            for entry in entries:
                info = self._entry(level, entry)
                if info is not None:
                    found.append(info)
        return tuple(sorted(found, key=_order))

    def _entry(self, level: int, entry: os.DirEntry[str]) -> LTXFileInfo | None:
        if entry.name.endswith(".tmp"):
            self._disk.unlink(entry.path)  # never finished, so nobody was told that it exists
            return None
        span = parse_name(entry.name)
        if span is None:
            return None
        status = entry.stat()
        return LTXFileInfo(level, *span, status.st_size, int(status.st_mtime * 1000))


def parse_name(name: str) -> tuple[int, int] | None:
    """(min, max) of an LTX file's name; None for other names."""
    if len(name) != 37 or name[16] != "-" or not name.endswith(".ltx"):
        return None
    try:
        low, high = int(name[:16], 16), int(name[17:33], 16)
    except ValueError:
        return None
    return (low, high) if 0 < low <= high else None


def _order(info: LTXFileInfo) -> tuple[int, int, int]:
    return info.max_txid, info.level, -info.min_txid


def _better(one: LTXFileInfo, other: LTXFileInfo, txid: int) -> bool:
    """Prefer increments (a snapshot only where nothing else leads on), then the longer way."""
    one_whole = one.is_snapshot and txid > 1
    other_whole = other.is_snapshot and txid > 1
    return (not one_whole, one.max_txid) > (not other_whole, other.max_txid)
