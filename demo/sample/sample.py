"""A small program with a SQLite database, as many are: it knows nothing of replication.

    POST /rows {"token": "..."}   add a row; answers {"id": 7, "token": "...", "pod": "notes-0"}; the same token
                                  again answers the same row; 503 while the database is locked
    GET  /rows?after=7            rows with a higher id, at most 1000
    GET  /healthz                 200 when the database can be read (or nobody has made its table yet)

With ``--write-rate`` it also adds rows by itself and writes each one that was committed
to ``--journal``: what must be there afterwards. With ``--must-write`` it ends at
once when it cannot write, as many programs do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

POD = os.environ.get("POD_NAME") or socket.gethostname()
SCHEMA = "CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, token TEXT NOT NULL, pod TEXT NOT NULL, at REAL)"
INDEX = "CREATE INDEX IF NOT EXISTS rows_token ON rows (token)"
LOCKED_PAUSE_S = 0.01
ROWS_MAX = 1000


class Database:
    """The database file; a connection for each use, or one that stays (``connection``)."""

    def __init__(self, path: str, journal_mode: str, busy_s: float) -> None:
        self.path, self.journal_mode, self.busy_s = path, journal_mode, busy_s

    def connect(self, busy_s: float | None = None) -> sqlite3.Connection:
        timeout = self.busy_s if busy_s is None else busy_s
        connection = sqlite3.connect(self.path, timeout=timeout, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(self.connect()) as connection:
            yield connection

    def prepare(self) -> bool:
        """Make the table; False when this cannot be written here and now."""
        try:
            with self.opened() as connection:
                connection.execute(f"PRAGMA journal_mode={self.journal_mode}")
                connection.execute(SCHEMA)
                connection.execute(INDEX)
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            print(f"cannot write: {error}", file=sys.stderr)
            return False
        return True


def add_row(connection: sqlite3.Connection, token: str) -> int:
    """Add a row in a transaction of its own, unless its token is there; returns its id."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = connection.execute("SELECT id FROM rows WHERE token = ?", (token,)).fetchone()
        if found is None:
            sql = "INSERT INTO rows (token, pod, at) VALUES (?, ?, ?)"
            found = (connection.execute(sql, (token, POD, time.time())).lastrowid,)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return int(found[0])


class Handler(BaseHTTPRequestHandler):
    """One request."""

    database: Database
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/healthz":
            self._guarded(lambda: (200, {"pod": POD, "rows": self._count()}))
        elif url.path == "/rows":
            after = int(urllib.parse.parse_qs(url.query).get("after", ["0"])[0])
            self._guarded(lambda: (200, {"pod": POD, "rows": self._rows(after)}))
        else:
            self._answer(404, {"error": "no such path"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/rows":
            self._answer(404, {"error": "no such path"})
            return
        token = str(json.loads(body or b"{}").get("token") or uuid.uuid4().hex)
        self._guarded(lambda: (201, {"id": self._add(token), "token": token, "pod": POD}))

    def log_message(self, *_arguments: object) -> None:
        """Say nothing about each request."""

    def _add(self, token: str) -> int:
        with self.database.opened() as connection:
            return add_row(connection, token)

    def _count(self) -> int:
        with self.database.opened() as connection:
            made = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
            return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0]) if made else 0

    def _rows(self, after: int) -> list[dict[str, Any]]:
        with self.database.opened() as connection:
            sql = f"SELECT id, token, pod, at FROM rows WHERE id > ? ORDER BY id LIMIT {ROWS_MAX}"
            names = ("id", "token", "pod", "at")
            return [dict(zip(names, row, strict=True)) for row in connection.execute(sql, (after,))]

    def _guarded(self, work: Any) -> None:
        try:
            status, document = work()
        except sqlite3.Error as error:
            status, document = 503, {"error": str(error), "pod": POD}
        self._answer(status, document)

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Writer(threading.Thread):
    """Adds rows at a rate, on a connection that stays open, and journals what was committed."""

    def __init__(self, database: Database, rate: float, journal: str) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self._database, self._pause_s = database, 1.0 / rate
        self._journal = open(journal, "a", buffering=1, encoding="ascii") if journal else sys.stdout  # noqa: SIM115 (open as long as the program)
        self._run_id = uuid.uuid4().hex[:8]
        self._number = 0
        self._connection: sqlite3.Connection | None = None

    def run(self) -> None:
        due = time.monotonic()
        while not self.ending.is_set():
            self._number += 1
            self._write(f"{POD}-{self._run_id}-{self._number}")
            due = max(due + self._pause_s, time.monotonic() - 1.0)  # no burst for more than one lost second
            self.ending.wait(max(0.0, due - time.monotonic()))

    def _write(self, token: str) -> None:
        """Until this row is committed; the same token, so that a doubt becomes no second row."""
        while not self.ending.is_set():
            began = time.time()
            try:
                row_id = self._try(token)
            except sqlite3.Error as error:
                self._recover(error)
                continue
            entry = {"began": began, "at": time.time(), "id": row_id, "token": token, "pod": POD}
            self._journal.write(json.dumps(entry) + "\n")
            return

    def _try(self, token: str) -> int:
        if self._connection is None:
            self._connection = self._database.connect(busy_s=0.0)
        return add_row(self._connection, token)

    def _recover(self, error: sqlite3.Error) -> None:
        text = str(error)
        if "locked" not in text and "no such table" not in text and self._connection is not None:
            print(f"opening the database again: {text}", file=sys.stderr)
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        if "no such table" in text:
            self._database.prepare()
        self.ending.wait(LOCKED_PAUSE_S)


def arguments() -> argparse.Namespace:
    """The command line; every option has an environment variable, which is handier in a manifest."""

    def option(name: str, default: str, text: str) -> None:
        variable = name.strip("-").replace("-", "_").upper()
        parser.add_argument(name, default=os.environ.get(variable, default), help=f"{text} (or {variable})")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option("--database", "/data/app.db", "the file")
    option("--port", "8080", "of the HTTP server")
    option("--journal-mode", "WAL", "of the database")
    option("--busy-timeout", "2", "seconds to wait for a lock")
    option("--write-rate", "0", "rows a second to add; 0: none")
    option("--journal", "", "file for the rows that were committed; default: standard output")
    option("--must-write", "", "any text: end when the database cannot be written at the start")
    return parser.parse_args()


def main() -> int:
    """Serve until SIGTERM."""
    told = arguments()
    database = Database(told.database, told.journal_mode, float(told.busy_timeout))
    if not database.prepare() and told.must_write:
        return 1
    Handler.database = database
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("", int(told.port)), Handler)
    writer = Writer(database, float(told.write_rate), told.journal) if float(told.write_rate) > 0 else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    if writer is not None:
        writer.start()
    print(f"{POD}: serving {told.database} on port {told.port}", file=sys.stderr)
    server.serve_forever()
    if writer is not None:
        writer.ending.set()
        writer.join(timeout=5.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
