"""Facts of one database that only its files and locks tell. Runs in an executor thread.

Rules: everything is read; nothing is created, locked or written. What cannot be read is
reported as unknown, never raised.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlitecluster.replicator import through
from sqlitecluster.sqlitefmt.journal import KEPT
from sqlitecluster.sqlitefmt.walindex import CHECKPOINT_AT, CHECKPOINT_SIZE, CheckpointInfo, read_header
from sqlitecluster.units import encode_name

_OFD_GETLK: Final = 36
_FLOCK: Final = struct.Struct("@hhqqi4x")
_WRITE_LOCK: Final = 120
_RESERVED_LOCK: Final = 0x4000_0001
MAX_LISTED: Final = 100
MAX_COUNTED: Final = 10_000


def lock_owner(path: Path, offset: int) -> int | None:
    """The process that holds a byte's lock; None when nobody, or a sidecar, does."""
    try:
        fd = through.open_fd(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        kind, _whence, _start, _length, pid = _FLOCK.unpack(fcntl.fcntl(fd, _OFD_GETLK, query))
    except OSError:
        return None
    finally:
        os.close(fd)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def write_transaction(mount_dir: Path, name: str, wal: bool) -> int | None:
    """The process that has a write transaction open on a database of the mount."""
    if wal:
        return lock_owner(mount_dir / f"{name}-shm", _WRITE_LOCK)
    return lock_owner(mount_dir / name, _RESERVED_LOCK)


def read_index(mount_dir: Path, name: str) -> tuple[int, int] | None:
    """(published frames, of these in the database file) of a write-ahead log; None when its index says nothing."""
    try:
        fd = through.open_fd(mount_dir / f"{name}-shm", os.O_RDONLY)
    except OSError:
        return None
    try:
        raw = os.pread(fd, CHECKPOINT_AT + CHECKPOINT_SIZE, 0)
    except OSError:
        return None
    finally:
        os.close(fd)
    header = read_header(raw)
    if header is None or len(raw) < CHECKPOINT_AT + CHECKPOINT_SIZE:
        return None
    done = CheckpointInfo.parse(raw[CHECKPOINT_AT:]).backfilled
    return header.max_frame, min(done, header.max_frame)


def wal_bytes(data_dir: Path, name: str) -> int:
    """Length of a write-ahead log's file; it does not shrink when the log starts over. 0: there is none."""
    try:
        return (data_dir / "dbs" / encode_name(name) / "wal").stat().st_size
    except OSError:
        return 0


def journal_mode(data_dir: Path, name: str) -> str:
    """``wal``, or what the journal left behind tells: ``delete``, ``truncate``, ``persist``."""
    folder = data_dir / "dbs" / encode_name(name)
    try:
        with open(folder / "database", "rb") as file:
            head = file.read(20)
        if len(head) < 20:
            return "unknown"
        if head[18:20] == b"\x02\x02":
            return "wal"
        with open(folder / "journal", "rb") as file:
            start = file.read(len(KEPT))
    except FileNotFoundError:
        return "delete" if (folder / "database").exists() else "unknown"
    except OSError:
        return "unknown"
    if not start:
        return "truncate"
    return "persist" if not any(start[:8]) and start != KEPT else "delete"


class LocalFiles:
    """How many files are kept on this node only, and the first hundred of their paths.

    Looking takes as long as there are many: at most a hundredth of the time goes into it, and
    beyond ``MAX_COUNTED`` nobody needs to know better.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "files"
        self._known: tuple[int, list[str]] = (0, [])
        self._next = 0.0

    def look(self) -> tuple[int, list[str]]:
        """(count, names), as of now or of the last look."""
        began = time.monotonic()
        if began >= self._next:
            self._known = self._look()
            self._next = began + 100 * (time.monotonic() - began)
        return self._known

    def _look(self) -> tuple[int, list[str]]:
        names: list[str] = []
        count = 0
        for path in islice(_files(self._root), MAX_COUNTED):
            count += 1
            if len(names) < MAX_LISTED:
                names.append(str(path.relative_to(self._root)))
        return count, names


def pids(data_dir: Path) -> dict[str, Any]:
    """Process ids of this node, as the supervisor wrote them."""
    try:
        value = json.loads((data_dir / "pids.json").read_text())
    except (OSError, ValueError):
        return {"replicator": os.getpid()}
    return value if isinstance(value, dict) else {}


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return None
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _files(root: Path) -> Iterator[Path]:
    for folder, _dirs, files in os.walk(root):
        for file in sorted(files):
            yield Path(folder) / file
