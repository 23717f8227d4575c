"""A program that reads what ``support.writer`` wrote: every look must be whole, and none may go back.

Run as ``python -m support.reader DB RECORD``. Lines of the record: ``l <looks> <rows>``
now and then, ``e <text>`` for each bad look.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import sys
import time
from types import FrameType

LOOK = "SELECT count(*), coalesce(max(seq), 0), coalesce(sum(seq), 0) FROM t"
stopping = False


def read_on(options: argparse.Namespace, record: int) -> None:
    """Look until we are told to end."""
    looks, last = 0, 0
    told = time.monotonic()
    with contextlib.closing(sqlite3.connect(options.database, timeout=options.timeout, isolation_level=None)) as db:
        while not stopping:
            try:
                rows, highest, total = db.execute(LOOK).fetchone()
            except sqlite3.Error as error:
                if not looks and "no such table" in str(error):
                    time.sleep(0.05)  # a new database comes to a replica in several transactions
                    continue
                os.write(record, f"e {type(error).__name__}: {error}\n".encode())
                time.sleep(0.05)
                continue
            looks += 1
            if rows != highest or total != rows * (rows + 1) // 2:
                os.write(record, f"e a torn look: {rows} rows, highest {highest}, sum {total}\n".encode())
            if rows < last:
                os.write(record, f"e time went back from {last} to {rows}\n".encode())
            last = rows
            if time.monotonic() - told > 1:
                told = time.monotonic()
                os.write(record, f"l {looks} {rows}\n".encode())
            time.sleep(options.pause)
    os.write(record, f"l {looks} {last}\n".encode())


def _stop(_signum: int, _frame: FrameType | None) -> None:
    global stopping
    stopping = True


def main() -> int:
    """Entry of ``python -m support.reader``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("record")
    parser.add_argument("--timeout", type=float, default=60.0, help="busy timeout in seconds")
    parser.add_argument("--pause", type=float, default=0.02)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    read_on(options, os.open(options.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    return 0


if __name__ == "__main__":
    sys.exit(main())
