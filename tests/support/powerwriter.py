"""Programs whose transactions can be told whole from torn: several databases, one thread each.

Run as ``python -m support.powerwriter FOLDER RECORD SEED DB[:journal:synchronous] …``. Transaction n
of a database sets all rows of ``marks`` (each on a page of its own) to n and adds the row n
and its k parts. Lines of the record:

    b <db> <n>       the program is about to commit n
    a <db> <n>       it was told that n is committed
    e <db> <text>    it saw an error, and ended this database

Rule: ``read_state`` judges by what SQLite reads alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

MARKS = 6
PAGE_OF_TEXT = "x" * 2500  # two rows do not fit on one page
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS marks(id INTEGER PRIMARY KEY, n INTEGER, v TEXT)",
    "CREATE TABLE IF NOT EXISTS done(n INTEGER PRIMARY KEY, parts INTEGER)",
    "CREATE TABLE IF NOT EXISTS part(n INTEGER, i INTEGER, v BLOB, PRIMARY KEY(n, i)) WITHOUT ROWID",
)

stopping = threading.Event()


@dataclass(slots=True)
class Told:
    """What one database's program was told."""

    acknowledged: int = 0
    """The newest transaction that was answered."""
    begun: int = 0
    """The newest that was about to be committed."""
    errors: list[str] = field(default_factory=list)


def read_told(record: Path) -> dict[str, Told]:
    """Parse a record; a torn last line is ignored."""
    found: dict[str, Told] = {}
    text = record.read_text() if record.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        kind, name, rest = line.split(" ", 2)
        told = found.setdefault(name, Told())
        if kind == "a":
            told.acknowledged = int(rest)
        elif kind == "b":
            told.begun = int(rest)
        else:
            told.errors.append(rest)
    return found


@dataclass(frozen=True, slots=True)
class State:
    """What a database holds."""

    newest: int = 0
    """Its newest transaction."""
    wrong: str = ""
    """Why it is not the result of whole transactions 1 … newest."""


def read_state(path: Path, *, check: bool = True) -> State:
    """Read a database and judge it; one without tables is the state before the first transaction."""
    if not path.exists():
        return State()
    # Read-only, SQLite could not roll a journal back that the power cut left.
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=60)) as db:
        db.execute("BEGIN")
        names = {str(row[0]) for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not {"marks", "done", "part"} <= names:
            return State(0, "")
        count, low, newest = db.execute("SELECT count(*), min(n), max(n) FROM done").fetchone()
        marks = {row[0] for row in db.execute("SELECT n FROM marks")} or {0}
        newest = newest or 0
        torn = db.execute(
            "SELECT done.n FROM done LEFT JOIN part USING(n) GROUP BY done.n HAVING count(part.i) != done.parts"
        ).fetchone()
        orphans = db.execute("SELECT n FROM part WHERE n NOT IN (SELECT n FROM done) LIMIT 1").fetchone()
        verdict = [str(row[0]) for row in db.execute("PRAGMA integrity_check")] if check else ["ok"]
    wrong = ""
    if verdict != ["ok"]:
        wrong = f"integrity_check: {'; '.join(verdict[:3])}"
    elif marks != {newest}:
        wrong = f"half a transaction: marks {sorted(marks)}, newest {newest}"
    elif count and (low != 1 or count != newest):
        wrong = f"{count} transactions between {low} and {newest}: some in the middle are missing"
    elif torn or orphans:
        wrong = f"transaction {torn or orphans} is not whole"
    return State(newest, wrong)


def open_database(path: Path, journal: str, synchronous: str) -> sqlite3.Connection:
    """A connection with its settings, and the tables."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA journal_mode={journal}").fetchall()
    db.execute(f"PRAGMA synchronous={synchronous}")
    for statement in SCHEMA:
        db.execute(statement)
    return db


def write_on(folder: Path, spec: str, seed: int, record: int) -> None:
    """Transactions until told to end."""
    name, journal, synchronous = spec.split(":")
    rng = random.Random(f"{seed}/{spec}")
    try:
        db = open_database(folder / name, journal, synchronous)
        number = db.execute("SELECT coalesce(max(n), 0) FROM done").fetchone()[0]
        while not stopping.is_set():
            number += 1
            transaction(db, rng, name, number, record)
            db = something_else(db, rng, folder / name, journal, synchronous)
            time.sleep(rng.random() * 0.004)
        db.close()
    except sqlite3.Error as error:
        os.write(record, f"e {name} {error}\n".encode())


def transaction(db: sqlite3.Connection, rng: random.Random, name: str, number: int, record: int) -> None:
    """Transaction ``number``; now and then one that does not fit into the page cache."""
    parts = rng.randrange(1, 5) if rng.random() < 0.95 else 150
    db.execute(f"PRAGMA cache_size={10 if parts > 100 else 2000}")
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT OR REPLACE INTO marks VALUES(?, ?, ?)", [(i, number, PAGE_OF_TEXT) for i in range(MARKS)])
    db.execute("INSERT INTO done VALUES(?, ?)", (number, parts))
    size = rng.randrange(1, 300)
    db.executemany("INSERT INTO part VALUES(?, ?, randomblob(?))", [(number, i, size) for i in range(parts)])
    os.write(record, f"b {name} {number}\n".encode())
    db.execute("COMMIT")
    os.write(record, f"a {name} {number}\n".encode())


def something_else(
    db: sqlite3.Connection, rng: random.Random, path: Path, journal: str, synchronous: str
) -> sqlite3.Connection:
    """What programs do between commits: checkpoints, and closing (which removes a WAL)."""
    choice = rng.random()
    if choice < 0.02 and journal == "WAL":
        db.execute(f"PRAGMA wal_checkpoint({rng.choice(('PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'))})").fetchall()
    elif choice < 0.03:
        db.close()
        db = open_database(path, journal, synchronous)
    return db


def _stop(_signum: int, _frame: FrameType | None) -> None:
    stopping.set()


def main() -> int:
    """Entry of ``python -m support.powerwriter``."""
    folder, record_path, seed, *specs = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    record = os.open(record_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    threads = [
        threading.Thread(target=write_on, args=(Path(folder), spec, int(seed), record), daemon=True) for spec in specs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
