"""A program whose last close takes its time between the removal of the wal-index and that of the log.

Run as ``python -m support.slowcloser DB SECONDS``. It opens the database, says ``open``, waits for a line and closes.
In a process of its own: APSW brings its own SQLite, and two of those in one process drop each other's locks.
"""

from __future__ import annotations

import sys
import time

import apsw


class SlowFiles(apsw.VFS):
    """The default file system, whose logs are removed late."""

    def __init__(self, seconds: float) -> None:
        super().__init__("slow", "")
        self._seconds = seconds

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if filename.endswith("-wal"):
            time.sleep(self._seconds)
        super().xDelete(filename, syncdir)


def main() -> int:
    """Entry of ``python -m support.slowcloser``."""
    files = SlowFiles(float(sys.argv[2]))
    db = apsw.Connection(sys.argv[1], vfs="slow")
    db.execute("SELECT count(*) FROM t").fetchall()
    print("open", flush=True)
    sys.stdin.readline()
    db.close()
    del files
    return 0


if __name__ == "__main__":
    sys.exit(main())
