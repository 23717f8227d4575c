"""Programs of one pod: three that write and one that reads, through the mount.

Run as ``python -m support.nemesisclient DB RECORD NAME SEED RATE``; RATE is writes a second.
What they did and were told goes to RECORD (``support.history``).

Rules:
    1. A write is recorded before its COMMIT, with what it read; its outcome after it.
    2. "database is locked" before the COMMIT is no write at all. At the COMMIT it is a refusal:
       the transaction is rolled back. Every other error of a COMMIT leaves the outcome unknown.
    3. After an error other than "database is locked" the connection is made anew.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from support import processes
from support.history import Recorder

ACCOUNTS: Final = 10
OPENING: Final = 100
LISTS: Final = 4
REGISTERS: Final = 4
READ_PAUSE_S: Final = 0.08
KINDS: Final = ("bank", "append", "register")
NEVER: Final = ("malformed", "not a database", "constraint", "no such")
"""Errors that no fault excuses; "no such table" only once the table has been seen."""

SCHEMA: Final = """
CREATE TABLE log(v INTEGER PRIMARY KEY, op TEXT NOT NULL UNIQUE);
CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, pad BLOB);
CREATE TABLE lists(id INTEGER, pos INTEGER, item INTEGER NOT NULL, PRIMARY KEY(id, pos)) WITHOUT ROWID;
CREATE TABLE registers(id INTEGER PRIMARY KEY, value INTEGER NOT NULL);
"""

_stopping = threading.Event()


def prepare(database: Path, journal: str) -> None:
    """Make the tables; raises sqlite3.Error while that is not possible."""
    with contextlib.closing(sqlite3.connect(database, timeout=5, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={journal}").fetchall()
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return
        pads = [(n, OPENING, os.urandom(900)) for n in range(ACCOUNTS)]
        db.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.strip().split(";\n"):
            db.execute(statement)
        db.executemany("INSERT INTO accounts VALUES(?, ?, ?)", pads)
        db.execute("COMMIT")


def start(database: Path, record: Path, name: str, seed: str, rate: float) -> subprocess.Popen[bytes]:
    """Start the programs of a pod."""
    command = [sys.executable, "-m", "support.nemesisclient", str(database), str(record), name, seed, str(rate)]
    return processes.start(command, log=record.with_suffix(".log"))


def read_log(database: Path) -> list[str]:
    """The ops of a database by version."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as db:
        rows = db.execute("SELECT v, op FROM log ORDER BY v").fetchall()
    assert [v for v, _ in rows] == list(range(1, len(rows) + 1)), f"{database}: the versions have gaps"
    return [op for _, op in rows]


class Program:
    """One connection that is made anew after errors."""

    def __init__(self, path: str, recorder: Recorder, name: str, rng: random.Random) -> None:
        self._path, self._recorder, self._name, self._rng = path, recorder, name, rng
        self._db: sqlite3.Connection | None = None
        self._known = False
        self._n = 0

    def open(self, timeout_s: float) -> sqlite3.Connection:
        """The connection."""
        if self._db is None:
            if not os.path.ismount(os.path.dirname(self._path)):
                raise sqlite3.OperationalError("not mounted")
            db = sqlite3.connect(f"file:{self._path}?mode=rw", uri=True, timeout=timeout_s, isolation_level=None)
            db.execute("PRAGMA synchronous=NORMAL")
            self._db = db
        return self._db

    def close(self) -> None:
        """Let it go."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def failed(self, error: sqlite3.Error) -> None:
        """After an error outside of a COMMIT."""
        text = str(error)
        if any(part in text for part in NEVER) and (self._known or "no such" not in text):
            self._recorder.say("bad", node=self._name, why=f"{type(error).__name__}: {text}")
        if "locked" not in text:
            self.close()
        _stopping.wait(0.03)

    # Writing.

    def write_forever(self, kind: str, pause_s: float) -> None:
        """Until the end."""
        while not _stopping.is_set():
            began = time.monotonic()
            try:
                self._write(kind)
            except sqlite3.Error as error:
                self._roll_back()
                self.failed(error)
            _stopping.wait(max(0.0, pause_s * self._rng.uniform(0.5, 1.5) - (time.monotonic() - began)))

    def _write(self, kind: str) -> None:
        begin = time.monotonic()
        db = self.open(0.05)
        db.execute("BEGIN IMMEDIATE")
        self._known = True
        version = (db.execute("SELECT max(v) FROM log").fetchone()[0] or 0) + 1
        self._n += 1
        op = f"{self._name}.{os.getpid()}.{kind[0]}{self._n}"
        read, write = getattr(self, f"_{kind}")(db)
        db.execute("INSERT INTO log VALUES(?, ?)", (version, op))
        values = {"op": op, "node": self._name, "kind": kind, "begin": begin, "version": version}
        self._recorder.say("i", **values, read=read, write=write)
        self._commit(db, op)

    def _commit(self, db: sqlite3.Connection, op: str) -> None:
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if "locked" in str(error) and db.in_transaction:
                self._roll_back()
                self._recorder.say("fail", op=op)
                return
            self._recorder.say("unknown", op=op, why=str(error), at=time.monotonic())
            self.close()
            return
        self._recorder.say("ok", op=op, at=time.monotonic())

    def _roll_back(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _bank(self, db: sqlite3.Connection) -> tuple[dict[str, Any], dict[str, Any]]:
        a, b = self._rng.sample(range(ACCOUNTS), 2)
        rows = dict(db.execute("SELECT id, balance FROM accounts WHERE id IN (?, ?)", (a, b)).fetchall())
        amount = self._rng.randint(1, 5)
        new = {a: rows[a] - amount, b: rows[b] + amount}
        for key, balance in new.items():
            db.execute("UPDATE accounts SET balance = ?, pad = randomblob(900) WHERE id = ?", (balance, key))
        return {str(k): v for k, v in rows.items()}, {str(k): v for k, v in new.items()}

    def _append(self, db: sqlite3.Connection) -> tuple[dict[str, Any], dict[str, Any]]:
        key = self._rng.randrange(LISTS)
        length = db.execute("SELECT count(*) FROM lists WHERE id = ?", (key,)).fetchone()[0]
        item = self._rng.getrandbits(48)
        db.execute("INSERT INTO lists VALUES(?, ?, ?)", (key, length, item))
        return {str(key): length}, {str(key): item}

    def _register(self, db: sqlite3.Connection) -> tuple[dict[str, Any], dict[str, Any]]:
        key = self._rng.randrange(REGISTERS)
        row = db.execute("SELECT value FROM registers WHERE id = ?", (key,)).fetchone()
        read = {str(key): row[0] if row else 0}
        if self._rng.random() < 0.3:
            return read, {}
        value = self._rng.getrandbits(48)
        db.execute("INSERT OR REPLACE INTO registers VALUES(?, ?)", (key, value))
        return read, {str(key): value}

    # Reading.

    def read_forever(self) -> None:
        """Until the end."""
        while not _stopping.is_set():
            try:
                self._read(self._rng.randrange(LISTS))
            except sqlite3.Error as error:
                self._roll_back()
                self.failed(error)
            _stopping.wait(READ_PAUSE_S)

    def _read(self, key: int) -> None:
        begin = time.monotonic()
        db = self.open(2.0)
        db.execute("BEGIN")
        row = db.execute("SELECT v, op FROM log ORDER BY v DESC LIMIT 1").fetchone() or (0, "")
        total = db.execute("SELECT sum(balance) FROM accounts").fetchone()[0]
        registers = {str(k): v for k, v in db.execute("SELECT id, value FROM registers")}
        items = [item for (item,) in db.execute("SELECT item FROM lists WHERE id = ? ORDER BY pos", (key,))]
        db.execute("COMMIT")
        self._known = True
        values = {"version": row[0], "op": row[1], "total": total, "registers": registers, "items": items}
        self._recorder.say("r", node=self._name, begin=begin, end=time.monotonic(), list=str(key), **values)


def _stop(_number: int, _frame: object) -> None:
    _stopping.set()


def main() -> int:
    """Entry of ``python -m support.nemesisclient``."""
    signal.signal(signal.SIGTERM, _stop)
    path, record, name, seed, rate = sys.argv[1:6]
    recorder = Recorder(Path(record))
    pause_s = len(KINDS) / float(rate)
    threads = []
    for kind in KINDS:
        program = Program(path, recorder, name, random.Random(f"{seed}/{name}/{kind}"))
        threads.append(threading.Thread(target=program.write_forever, args=(kind, pause_s)))
    reader = Program(path, recorder, name, random.Random(f"{seed}/{name}/read"))
    threads.append(threading.Thread(target=reader.read_forever))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
