"""Writes rows that carry the monotonic clock: ``python -m bench.lag_writer DB RATE SECONDS``."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time


def main() -> None:
    """Keep one row current at a steady rate."""
    path, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=NORMAL")
        begin = time.monotonic()
        due = begin
        n = 0
        while time.monotonic() - begin < seconds:
            n += 1
            db.execute("UPDATE clock SET n = ?, ns = ?", (n, time.monotonic_ns()))
            due += 1 / rate if rate else 0
            wait = due - time.monotonic()
            if rate and wait > 0:
                time.sleep(wait)
        print(n)


if __name__ == "__main__":
    main()
