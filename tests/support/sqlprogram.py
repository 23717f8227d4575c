"""A program of its own process that runs SQL when told to, over a pipe.

``Program(path)`` opens the database in a child; ``run(sql)`` gives rows or raises
``ProgramError`` with SQLite's text. Used where locks of another process matter.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class ProgramError(Exception):
    """The child's SQLite refused."""


class Program:
    """One connection in a child process."""

    def __init__(self, path: Path, library: str = "sqlite3") -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(path), library], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, sql: str) -> list[Any]:
        """Rows of one statement, as lists."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(sql) + "\n")
        self._child.stdin.flush()
        answer = json.loads(self._child.stdout.readline())
        if "error" in answer:
            raise ProgramError(answer["error"])
        rows: list[Any] = answer["rows"]
        return rows

    def error_of(self, sql: str) -> str:
        """The text that a statement fails with; empty when it works."""
        try:
            self.run(sql)
        except ProgramError as error:
            return str(error)
        return ""

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """End the child, which closes its connection."""
        self._child.communicate(timeout=60)


@contextlib.contextmanager
def program(path: Path, library: str = "sqlite3") -> Iterator[Program]:
    """A program that ends with the block."""
    child = Program(path, library)
    try:
        yield child
    finally:
        child.close()


def _serve(path: str, library: str) -> None:
    if library == "apsw":
        import apsw

        connection: Any = apsw.Connection(path)
        errors: tuple[type[Exception], ...] = (apsw.Error,)
    else:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        errors = (sqlite3.Error,)
    for line in sys.stdin:
        try:
            rows = [list(row) for row in connection.execute(json.loads(line))]
            answer: dict[str, Any] = {"rows": rows}
        except errors as error:
            answer = {"error": str(error).removeprefix("BusyError: ")}
        print(json.dumps(answer), flush=True)
    connection.close()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2])
