"""The demo's writing program: it touches packages at random, as an unattended service would.

Run as ``python -m demo.program DB RATE``. It knows nothing of replication.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import sys
import time
from types import FrameType

running = True


def _stop(_signum: int, _frame: FrameType | None) -> None:
    global running
    running = False


def main() -> int:
    """Count views of packages until told to end."""
    path, rate = sys.argv[1], float(sys.argv[2])
    signal.signal(signal.SIGTERM, _stop)
    rng = random.Random()
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=NORMAL")
        names = [row[0] for row in db.execute("SELECT name FROM packages")]
        while running:
            db.execute("INSERT INTO views(package, at) VALUES(?, julianday('now'))", (rng.choice(names),))
            time.sleep(1 / rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
