"""A program that keeps one connection open and tries to write all the time, on any node.

Run as ``python -m support.rowwriter DB RECORD WRITER [options]``. On a replica it is told
"database is locked" and tries again. Lines of the record (monotonic nanoseconds):

    a <n> <ns>      row <n> was acknowledged
    d <n> <text>    row <n> is in doubt: the program saw an error; it goes on with the next
    r               it opened the database anew after an error
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

_WAITING = ("locked", "busy")
_PAUSE_S = 0.003

stopping = False


@dataclass(slots=True)
class Rows:
    """What one record says."""

    acknowledged: dict[int, int] = field(default_factory=dict)
    """Row → when, in monotonic nanoseconds."""
    doubtful: dict[int, str] = field(default_factory=dict)


def read_rows(path: Path) -> Rows:
    """Parse a record; a torn last line is ignored."""
    rows = Rows()
    text = path.read_text() if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        kind, _, rest = line.partition(" ")
        number, _, more = rest.partition(" ")
        if kind == "a":
            rows.acknowledged[int(number)] = int(more)
        elif kind == "d":
            rows.doubtful[int(number)] = more
    return rows


def write_on(options: argparse.Namespace, record: int) -> None:
    """Rows 1, 2, 3 … until we are told to end."""
    db = connect(options)
    number = 0
    while not stopping:
        number += 1
        if not insert(db, options.writer, number, record):
            with contextlib.suppress(sqlite3.Error):
                db.close()
            db = connect(options)
            os.write(record, b"r\n")
        time.sleep(options.pause_s)
    db.close()


def insert(db: sqlite3.Connection, writer: int, number: int, record: int) -> bool:
    """One row, however long it takes; False when the connection is of no use any more."""
    while not stopping:
        try:
            db.execute("INSERT INTO rows(writer, n) VALUES(?, ?)", (writer, number))
        except sqlite3.Error as error:
            if any(word in str(error) for word in _WAITING):
                time.sleep(_PAUSE_S)
                continue
            os.write(record, f"d {number} {error}\n".encode())
            return False
        os.write(record, f"a {number} {time.monotonic_ns()}\n".encode())
        return True
    return True


def connect(options: argparse.Namespace) -> sqlite3.Connection:
    """Open, as soon as the database is there."""
    while not stopping:
        with contextlib.suppress(sqlite3.Error):
            db = sqlite3.connect(f"file:{options.database}?mode=rw", uri=True, timeout=0, isolation_level=None)
            db.execute("SELECT count(*) FROM rows").fetchall()
            db.execute(f"PRAGMA synchronous={options.synchronous}")
            return db
        time.sleep(0.02)
    sys.exit(0)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    global stopping
    stopping = True


def main() -> int:
    """Entry of ``python -m support.rowwriter``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("record")
    parser.add_argument("writer", type=int)
    parser.add_argument("--synchronous", default="NORMAL")
    parser.add_argument("--pause-s", type=float, default=0.005)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    write_on(options, os.open(options.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    return 0


if __name__ == "__main__":
    sys.exit(main())
