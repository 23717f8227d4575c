"""Real SQLite as the program of a simulated primary (one seed in ten).

SQLite runs over ``memfiles`` on the node's own image, in WAL mode with its index in its own
memory (``locking_mode=EXCLUSIVE``; an APSW VFS has no shared memory). The bytes that it writes into
its log, salts and checksums and all, are what the node's log gets, write by write: ``primary``
holds the last one back, or not, as with recorded commits. A program whose commit failed is
opened anew on what readers see. Salts are SQLite's own chance: no part of the trace.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from support.simulation.content import Content, parties
from support.simulation.memfiles import MemoryFiles


class Program:
    """One connection."""

    def __init__(self, pages: Sequence[bytes]) -> None:
        self._files = MemoryFiles()
        self._files.files[""] = bytearray(b"".join(pages))
        self._calls: list[tuple[int, bytes]] = []
        self._files.before_write = self._told
        self._connection = self._files.connect()
        for setting in ("locking_mode=EXCLUSIVE", "cache_size=12", "wal_autocheckpoint=0", "secure_delete=ON"):
            self._connection.execute(f"PRAGMA {setting}").fetchall()

    def _told(self, suffix: str, offset: int, data: bytes) -> bytes:
        if suffix == "-wal":
            self._calls.append((offset, data))
        return data

    def run(self, content: Content, rng: random.Random) -> list[tuple[int, bytes]]:
        """One transaction; what SQLite wrote into its log, in order."""
        self._calls = []
        run = self._connection.execute
        run("BEGIN")
        run("INSERT INTO list VALUES(?, ?)", (content.index, f"{content.op:016x}"))
        for account in parties(content.index):
            run("UPDATE account SET b = ? WHERE a = ?", (f"{content.balances[account]:016d}", account))
        if rng.random() < 0.03:
            for _ in range(25):
                run("INSERT INTO filler(x) VALUES(?)", (rng.randbytes(300),))
            run("UPDATE filler SET x = x'' WHERE f % 7 = 3")
        elif rng.random() < 0.02:
            run("DELETE FROM filler")
            run("PRAGMA incremental_vacuum").fetchall()
        run("COMMIT")
        return self._calls

    def close(self) -> None:
        """The program ends, without a word."""
        self._files.before_write = lambda _suffix, _offset, _data: None
        self._connection.close()
        self._files.unregister()
