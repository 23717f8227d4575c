"""The programs that are measured: plain ``sqlite3`` on a path, one after the other or as processes.

Each function runs for some seconds and returns operations a second.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from pathlib import Path

ROWS_READ = 50_000
BATCH = 50


def _connect(path: Path, journal: str, synchronous: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={journal}").fetchall()
    db.execute(f"PRAGMA synchronous={synchronous}")
    return db


def one_row_commits(path: Path, seconds: float, *, journal: str, synchronous: str) -> float:
    """Commits a second of one row each."""
    with contextlib.closing(_connect(path, journal, synchronous)) as db:
        db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT)")
        done, began = 0, time.perf_counter()
        until = began + seconds
        while time.perf_counter() < until:
            db.execute("INSERT INTO t(v) VALUES('a row of ordinary length, as programs write them')")
            done += 1
        return done / (time.perf_counter() - began)


def random_index_commits(path: Path, seconds: float) -> float:
    """Commits a second of 50 rows with a random index: many pages each."""
    rng = random.Random(7)
    with contextlib.closing(_connect(path, "WAL", "NORMAL")) as db:
        db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, k INTEGER, v TEXT)")
        db.execute("CREATE INDEX IF NOT EXISTS t_k ON t(k)")
        done, began = 0, time.perf_counter()
        until = began + seconds
        while time.perf_counter() < until:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO t(k, v) VALUES(?, 'value')", [(rng.getrandbits(40),) for _ in range(BATCH)])
            db.execute("COMMIT")
            done += 1
        return done / (time.perf_counter() - began)


def make_read_table(path: Path) -> None:
    """The table that ``point_reads`` reads."""
    with contextlib.closing(_connect(path, "WAL", "NORMAL")) as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t(v) VALUES(?)", ((f"row {i} " * 8,) for i in range(ROWS_READ)))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def point_reads(path: Path, seconds: float) -> float:
    """Look-ups a second by primary key."""
    rng = random.Random(11)
    keys = [rng.randrange(1, ROWS_READ) for _ in range(10_000)]
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        done, began = 0, time.perf_counter()
        until = began + seconds
        while time.perf_counter() < until:
            for key in keys:
                db.execute("SELECT v FROM t WHERE id = ?", (key,)).fetchone()
            done += len(keys)
        return done / (time.perf_counter() - began)
