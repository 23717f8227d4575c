"""A program that is killed in the middle of its last commit, at a place that is asked for.

Run as ``python -m support.dyingwriter DB RECORD POINT COMMITS SYNCHRONOUS MICROSECONDS [BYTES]``. It commits some
rows and notes each (``a <n>``), then one more (``b <n>``) of so many bytes, in which it ends by a signal that no
handler sees:

    written    after the last write of the commit, before anything is published in the wal-index
    synced     after the sync that follows it (synchronous=FULL)
    half       between the header and the page of the last frame: no commit
    around     some microseconds after the last write was begun
    restart    before the new header of a log that begins anew; the wal-index says so already

A VFS of APSW sees the writes; the shared memory is SQLite's own. The index is published after
the last of these calls, so nobody knows of the commit but the log itself.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import apsw

POINTS = ("written", "synced", "half", "around")
FRAME_HEADER = 24
TABLE = "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, v BLOB)"

armed: tuple[str, int] | None = None


def die() -> None:
    """End as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingFiles(apsw.VFS):
    """The default file system, whose logs can kill."""

    def __init__(self) -> None:
        super().__init__("dying", "")

    def xOpen(self, name: Any, flags: list[int]) -> DyingFile:  # noqa: N802
        return DyingFile("", name, flags)


class DyingFile(apsw.VFSFile):
    """One file; counts only when it is a log and the last commit is under way."""

    def __init__(self, base: str, name: Any, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        self._completes = False

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        watched = self._is_log and armed is not None
        is_header = len(data) == FRAME_HEADER and offset >= 32
        if watched and not offset and armed is not None and armed[0] == "restart":
            die()
        if watched and self._completes and armed is not None and armed[0] == "around":
            signal.setitimer(signal.ITIMER_REAL, max(1, armed[1]) / 1e6)  # nobody handles it: it ends the process
        super().xWrite(data, offset)
        if not watched or armed is None:
            return
        if is_header:
            self._completes = bytes(data[4:8]) != bytes(4)
            if self._completes and armed[0] == "half":
                die()
        elif self._completes and armed[0] == "written":
            die()

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        if self._is_log and self._completes and armed is not None and armed[0] == "synced":
            die()


def main() -> int:
    """Entry of ``python -m support.dyingwriter``."""
    global armed
    path, record_path, point, commits, synchronous, microseconds, *size = sys.argv[1:]
    files = DyingFiles()
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    db = apsw.Connection(path, flags, vfs="dying")
    db.set_busy_timeout(30000)
    db.execute(f"PRAGMA synchronous={synchronous}")
    record = os.open(record_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for left in range(int(commits), -1, -1):
        if left == 0:
            armed = (point, int(microseconds))
        number = db.execute("SELECT coalesce(max(n), 0) + 1 FROM t").fetchall()[0][0]
        os.write(record, f"b {number}\n".encode())
        length = int(size[0]) if size and not left else 3000
        db.execute("INSERT INTO t VALUES(?, randomblob(?))", (number, length))
        os.write(record, f"a {number}\n".encode())
    del files
    return 0 if Path(path.removeprefix("file:").partition("?")[0]).exists() else 1


if __name__ == "__main__":
    sys.exit(main())
