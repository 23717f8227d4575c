"""A program in each "pod" of an election: it writes whenever it may, and says what it was told.

Run as ``python -m support.electedwriter DB RECORD NAME RATE``. Lines of the record:

    a <n> <begin> <end>   row (NAME, n) was acknowledged; CLOCK_MONOTONIC in ns
    u <n> <text>          the outcome of row n is unknown: an error other than "database is locked"

"database is locked" is tried again after 2 ms with the same row on the same connection, as
a program with a busy timeout does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from support import processes

TABLE = "CREATE TABLE IF NOT EXISTS t(writer TEXT, n INTEGER, PRIMARY KEY(writer, n))"
_stopping = False


@dataclass(frozen=True, slots=True)
class Told:
    """What one writer was told."""

    acknowledged: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Row → (begin, end) in seconds of CLOCK_MONOTONIC."""
    unknown: list[str] = field(default_factory=list)


def read_told(path: Path) -> Told:
    """Parse a record; a torn last line is ignored."""
    told = Told()
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        kind, _, rest = line.strip().partition(" ")
        if not line.endswith("\n"):
            break
        if kind == "a":
            n, begin, end = rest.split()
            told.acknowledged[int(n)] = (int(begin) / 1e9, int(end) / 1e9)
        else:
            told.unknown.append(rest)
    return told


def start(database: Path, record: Path, name: str, rate: float) -> subprocess.Popen[bytes]:
    """Start one."""
    command = [sys.executable, "-m", "support.electedwriter", str(database), str(record), name, str(rate)]
    return processes.start(command, log=record.with_suffix(".log"))


class Writer:
    """Writes rows with growing numbers."""

    def __init__(self, path: str, record: int, name: str, rate: float) -> None:
        self._path, self._record, self._name, self._pause = path, record, name, 1 / rate
        self._db: sqlite3.Connection | None = None
        self._n = 0

    def run(self) -> None:
        while not _stopping:
            try:
                self._write()
            except sqlite3.Error as error:
                self._failed(error)
            else:
                time.sleep(self._pause)

    def _write(self) -> None:
        if self._db is None:
            if not os.path.exists(self._path) and not os.path.ismount(os.path.dirname(self._path)):
                raise sqlite3.OperationalError("not mounted")
            self._db = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(TABLE)
        begin = time.monotonic_ns()
        self._db.execute("INSERT INTO t VALUES(?, ?)", (self._name, self._n))
        os.write(self._record, f"a {self._n} {begin} {time.monotonic_ns()}\n".encode())
        self._n += 1

    def _failed(self, error: sqlite3.Error) -> None:
        text = str(error)
        if "locked" in text:
            time.sleep(0.002)
            return
        if text != "not mounted":
            os.write(self._record, f"u {self._n} {text}\n".encode())
            self._n += 1
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        time.sleep(0.02)


def _stop(_number: int, _frame: object) -> None:
    global _stopping
    _stopping = True


def main() -> int:
    """Entry of ``python -m support.electedwriter``."""
    signal.signal(signal.SIGTERM, _stop)
    path, record, name, rate = sys.argv[1:5]
    fd = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    Writer(path, fd, name, float(rate)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
