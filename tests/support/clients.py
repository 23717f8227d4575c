"""Programs that use SQLite, as short calls: what a test needs to write, read and wait.

Every connection is in autocommit mode and closed by its ``with`` block.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import processes
from support.node import Node

FOLLOW_LIMIT_S = 60.0


@contextlib.contextmanager
def connect(path: Path, *, timeout_s: float = 30.0, journal: str | None = None) -> Iterator[sqlite3.Connection]:
    """A connection; with ``journal`` the mode is set first."""
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        if journal is not None:
            db.execute(f"PRAGMA journal_mode={journal}").fetchall()
        yield db
    finally:
        db.close()


def run_sql(path: Path, *statements: str, journal: str | None = None) -> list[Any]:
    """Execute statements on a fresh connection; the rows of the last one."""
    rows: list[Any] = []
    with connect(path, journal=journal) as db:
        for statement in statements:
            rows = db.execute(statement).fetchall()
    return rows


def value(path: Path, statement: str) -> Any:
    """The single value of a query on a fresh connection."""
    return run_sql(path, statement)[0][0]


def error_of(action: Callable[[], object]) -> str:
    """The message of the SQLite or system error that an action raises.

    Raises:
        AssertionError: it raised nothing.
    """
    try:
        action()
    except (sqlite3.Error, OSError) as error:
        return str(error)
    raise AssertionError("no error where one was expected")


def follows(node: Node, name: str, statement: str, wanted: Any, limit_s: float = FOLLOW_LIMIT_S) -> None:
    """Wait until a query on a node's mount gives the wanted value; says what it gave otherwise."""
    last: Any = None
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            last = value(node.mount / name, statement) if (node.mount / name).exists() else "no such file"
        except sqlite3.Error as error:
            last = f"{type(error).__name__}: {error}"
        except IndexError:  # the table's transaction is there, its row's is not yet
            last = "no row"
        if last == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"{node.name}: {statement} gave {last!r} for {limit_s:.0f} s, wanted {wanted!r}")


def fill(path: Path, rows: int, *, size: int = 100, journal: str = "WAL", table: str = "t") -> None:
    """Create a table and insert rows in one transaction."""
    with connect(path, journal=journal) as db:
        db.execute(f"CREATE TABLE IF NOT EXISTS {table}(id INTEGER PRIMARY KEY, v BLOB)")
        db.execute("BEGIN IMMEDIATE")
        db.executemany(f"INSERT INTO {table}(v) VALUES(randomblob(?))", [(size,)] * rows)
        db.execute("COMMIT")


def shell(path: Path, sql: str) -> subprocess.CompletedProcess[str]:
    """SQLite's own shell."""
    return subprocess.run(["sqlite3", str(path), sql], capture_output=True, text=True, timeout=60)


def start_writer(node: Node, name: str, record: Path, *options: str) -> subprocess.Popen[bytes]:
    """``support.writer`` on a node's mount."""
    command = [sys.executable, "-m", "support.writer", str(node.mount / name), str(record), *options]
    return processes.start(command, log=record.with_suffix(".log"))
