"""A program with one SQLite connection, in a process of its own.

POSIX locks belong to a process: only another process meets the locks that capture and
apply look at, and only another process can be killed in the middle.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_CHILD = """
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]))
for line in sys.stdin:
    sql, many = json.loads(line)
    try:
        if many is None:
            rows = db.execute(sql).fetchall()
        else:
            db.executemany(sql, many)
            rows = []
        print(json.dumps({"rows": [[v.hex() if isinstance(v, bytes) else v for v in row] for row in rows]}), flush=True)
    except sqlite3.Error as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


class Program:
    """Runs SQL on one file until it is closed or killed."""

    def __init__(self, path: Path, *, timeout_s: float = 0.0) -> None:
        command = [sys.executable, "-c", _CHILD, str(path), str(timeout_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def execute(self, sql: str, many: list[list[Any]] | None = None) -> list[list[Any]]:
        """Run one statement; its rows. ``many``: parameters, one list for each run.

        Raises:
            RuntimeError: SQLite's message.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([sql, many]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        rows: list[list[Any]] = answer["rows"]
        return rows

    def close(self) -> None:
        """End as programs do: the connection is closed."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(60)
        self._release()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
        self._release()

    def _release(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
