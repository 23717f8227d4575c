"""A program that writes: each commit it was told of is a line in a record.

Run as ``python -m support.writer DB RECORD [options]``. It knows nothing of
replication: plain ``sqlite3`` on a plain path. Lines of the record:

    a <seq> <ms>     commit <seq> was acknowledged after <ms> milliseconds
    e <text>         the program saw an error
    r                the program reopened its database (only with --reopen)

The record is appended with one write each, so it survives SIGKILL of the program.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

TABLE = "CREATE TABLE IF NOT EXISTS t(seq INTEGER PRIMARY KEY, writer INTEGER, v TEXT, ns INTEGER)"
INSERT = "INSERT INTO t(writer, v, ns) VALUES(?, ?, ?) RETURNING seq"
BUSY_S = 60.0
"""How long SQLite waits for a lock."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a writer's record says."""

    acknowledged: list[int] = field(default_factory=list)
    pauses_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    reopened: int = 0


def read_record(path: Path) -> Record:
    """Parse a record; a torn last line is ignored."""
    acknowledged: list[int] = []
    pauses: list[float] = []
    errors: list[str] = []
    reopened = 0
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        kind, _, rest = line.strip().partition(" ")
        if kind == "a":
            seq, ms = rest.split()
            acknowledged.append(int(seq))
            pauses.append(float(ms))
        elif kind == "e":
            errors.append(rest)
        else:
            reopened += 1
    return Record(acknowledged, pauses, errors, reopened)


def open_database(options: argparse.Namespace) -> sqlite3.Connection:
    """Open as any program would."""
    db = sqlite3.connect(options.database, timeout=BUSY_S, isolation_level=None)
    set_journal_mode(db, options.journal)
    db.execute(f"PRAGMA synchronous={options.synchronous}")
    db.execute(TABLE)
    return db


def set_journal_mode(db: sqlite3.Connection, mode: str) -> None:
    """Set it, waiting for others as long as any statement would.

    To change to WAL, SQLite takes a read lock and then the exclusive one, and does not wait for the second: of two
    programs that do so at once one is told ``database is locked`` at once (on ext4 in every second try).
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute(f"PRAGMA journal_mode={mode}").fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def write_on(options: argparse.Namespace, record: int) -> None:
    """Commit until we are told to end, or the count is reached."""
    rng = random.Random(options.writer)
    db = open_database(options)
    interval = 1 / options.rate if options.rate else 0.0
    due = time.monotonic()
    written = 0
    while not stopping and (not options.count or written < options.count):
        began = time.monotonic()
        row = (options.writer, "x" * rng.randrange(1, options.size), time.time_ns())
        try:
            seq = db.execute(INSERT, row).fetchall()[0][0]
        except sqlite3.Error as error:
            os.write(record, f"e {type(error).__name__}: {error}\n".encode())
            if not options.reopen:
                raise
            db = reopen(db, options, record)
            continue
        written += 1
        os.write(record, f"a {seq} {(time.monotonic() - began) * 1000:.2f}\n".encode())
        due = max(due + interval, time.monotonic() - 1.0)
        if interval:
            time.sleep(max(0.0, due - time.monotonic()))
    db.close()


def reopen(db: sqlite3.Connection, options: argparse.Namespace, record: int) -> sqlite3.Connection:
    """What a program does whose file system went away: close, and open again until it works."""
    with contextlib.suppress(sqlite3.Error):
        db.close()
    while True:
        if stopping:
            sys.exit(0)
        try:
            made = open_database(options)
        except sqlite3.Error:
            time.sleep(0.02)
            continue
        os.write(record, b"r\n")
        return made


stopping = False


def _stop(_signum: int, _frame: FrameType | None) -> None:
    global stopping
    stopping = True


def main() -> int:
    """Entry of ``python -m support.writer``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("record")
    parser.add_argument("--journal", default="WAL")
    parser.add_argument("--synchronous", default="NORMAL")
    parser.add_argument("--writer", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="commits a second; 0: as fast as it goes")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--size", type=int, default=200, help="bytes of a row at most")
    parser.add_argument("--reopen", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    record = os.open(options.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    write_on(options, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
