"""Recorded page streams: what real SQLite wrote into a write-ahead log, commit by commit.

Recorded once in each process, from SQLite over ``memfiles``: several thousand commits of one program,
with large transactions that spill (frame headers rewritten, hazard 10), pages that are
split, and a database that shrinks. A recorded page is a template: where it shows a value
of the workload, the value of the history at hand is put in, so that two histories never
have the same bytes. Salts and the checksum chain are made anew, by the node's own log.

    recording() -> Recording     .base: pages before the first commit; .shapes[n]: the n-th commit
    Shape.fill(content) -> [(Write, page)]
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass

import apsw

from support.simulation.content import ACCOUNTS, EACH, ROW, Content, Key, parties
from support.simulation.memfiles import MemoryFiles

PAGE_SIZE = 512
COMMITS = 1300
_FRAME = 24 + PAGE_SIZE
_TOKEN = re.compile(rb"~([a-j~])([0-9a-f]{14})", re.DOTALL)

SCHEMA = """
CREATE TABLE list(i INTEGER PRIMARY KEY, v TEXT NOT NULL);
CREATE TABLE account(a INTEGER PRIMARY KEY, b TEXT NOT NULL);
CREATE TABLE filler(f INTEGER PRIMARY KEY, x BLOB);
"""


@dataclass(frozen=True, slots=True)
class Template:
    """A page, and where it shows which values."""

    raw: bytes
    spots: tuple[tuple[int, Key], ...]

    def fill(self, content: Content) -> bytes:
        """The page in one history."""
        if not self.spots:
            return self.raw
        page = bytearray(self.raw)
        for at, key in self.spots:
            page[at : at + 16] = content.value(key)
        return bytes(page)


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a commit into the log: a frame's header (``page`` None) or its page."""

    frame: int
    """Counted from the first frame of this commit."""
    pgno: int
    commit: int
    salted: bool
    """The header has salts and a checksum (one that is rewritten later has not)."""
    page: Template | None


@dataclass(frozen=True, slots=True)
class Shape:
    """One commit."""

    writes: tuple[Write, ...]
    commit: int
    """Pages of the database afterwards."""
    frames: int


@dataclass(frozen=True, slots=True)
class Recording:
    """All of it."""

    base: tuple[bytes, ...]
    shapes: tuple[Shape, ...]
    """``shapes[n]`` makes state ``n`` of a history; ``shapes[0]`` is empty."""


def token(key: Key) -> str:
    """What the recorded program writes in place of a value."""
    what, index = key
    return f"~{'~' if what == ROW else chr(ord('a') + what)}{index:014x}"


def template(raw: bytes) -> Template:
    """Find the values of a recorded page."""
    spots = []
    for found in _TOKEN.finditer(raw):
        letter = found.group(1)
        spots.append((found.start(), (ROW if letter == b"~" else letter[0] - ord("a"), int(found.group(2), 16))))
    return Template(raw, tuple(spots))


def prepare(connection: apsw.Connection) -> None:
    """The database as every program finds it; WAL."""
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}; PRAGMA auto_vacuum=INCREMENTAL").fetchall()
    connection.execute("PRAGMA secure_delete=ON").fetchall()  # no bytes of this process in unused parts of pages
    connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
    connection.execute("BEGIN;" + SCHEMA)
    start = [(a, f"{EACH:016d}") for a in range(ACCOUNTS)]
    connection.executemany("INSERT INTO account VALUES(?, ?)", start)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()


@functools.cache
def recording() -> Recording:
    """Run the program that is recorded."""
    files = MemoryFiles()
    connection = files.connect()
    prepare(connection)
    connection.execute("PRAGMA cache_size=12").fetchall()
    connection.execute("PRAGMA synchronous=NORMAL")
    data = bytes(files.files[""])
    base = tuple(data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE))
    shapes = [Shape((), len(base), 0)]
    calls: list[tuple[int, bytes]] = []

    def told(suffix: str, offset: int, written: bytes) -> bytes:
        if suffix == "-wal" and offset >= 32:
            calls.append((offset - 32, written))
        return written

    files.before_write = told
    rng = random.Random("page stream")
    at = 0
    for index in range(1, COMMITS + 1):
        calls.clear()
        _commit(connection, index, rng)
        shape = _shape(calls, at)
        shapes.append(shape)
        at += shape.frames
    connection.close()
    files.unregister()
    return Recording(base, tuple(shapes))


def _commit(connection: apsw.Connection, index: int, rng: random.Random) -> None:
    connection.execute("BEGIN")
    connection.execute("INSERT INTO list VALUES(?, ?)", (index, token((ROW, index))))
    for account in parties(index):
        connection.execute("UPDATE account SET b = ? WHERE a = ?", (token((account, index)), account))
    if index % 47 == 13:
        for _ in range(25):
            connection.execute("INSERT INTO filler(x) VALUES(?)", (rng.randbytes(300),))
        # Pages that were spilled are written again: frame headers are rewritten at the commit.
        connection.execute("UPDATE filler SET x = x'' WHERE f % 7 = 3")
        connection.execute("UPDATE account SET b = b WHERE a < 3")
    if index % 94 == 61:
        connection.execute("DELETE FROM filler")
        connection.execute("PRAGMA incremental_vacuum").fetchall()
    connection.execute("COMMIT")


def _shape(calls: list[tuple[int, bytes]], first: int) -> Shape:
    writes: list[Write] = []
    heads: dict[int, tuple[int, int, bool]] = {}
    for offset, data in calls:
        frame, within = divmod(offset, _FRAME)
        frame -= first
        if within == 0:
            pgno, commit = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
            heads[frame] = pgno, commit, any(data[8:16])
            writes.append(Write(frame, *heads[frame], None))
        else:
            writes.append(Write(frame, *heads[frame], template(data)))
    last = max(heads)
    return Shape(tuple(writes), heads[last][1], last + 1)
