"""A real SQLite database beside the store: each commit becomes a transaction of the chain."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np

from sqlitecluster.ltx import CHECKSUM_FLAG, Header, encode, fold, page_checksum
from sqlitecluster.replication.position import Position
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.node import NodeStore

PAGE = 4096


class LiveDatabase:
    """A program with an open connection on a plain file, whose commits are captured as whole-image differences."""

    def __init__(self, folder: Path, mode: str = "WAL") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "x.db"
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute(f"PRAGMA journal_mode={mode}")
        self.connection.execute("PRAGMA wal_autocheckpoint=0")
        self.connection.execute("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
        self.captured: dict[int, bytes] = {}

    @property
    def wal(self) -> Path:
        return self.path.with_name("x.db-wal")

    def insert(self, rows: int = 20) -> None:
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO t(b) VALUES(?)", [(os.urandom(200),) for _ in range(rows)])
        self.connection.execute("COMMIT")

    def image(self) -> bytes:
        return self.connection.serialize()

    def capture(self, store: NodeStore, db: DatabaseStore) -> Position:
        """Append what changed since the last capture as one transaction."""
        image = self.image()
        pages = {n // PAGE + 1: image[n : n + PAGE] for n in range(0, len(image), PAGE)}
        changed = [(n, page) for n, page in sorted(pages.items()) if self.captured.get(n) != page]
        sums = [page_checksum(n, page) for n, page in changed]
        post = fold(np.array([page_checksum(n, page) for n, page in pages.items()], dtype=np.uint64))
        at = db.position
        header = Header(
            page_size=PAGE,
            commit=len(pages),
            min_txid=at.txid + 1,
            max_txid=at.txid + 1,
            timestamp_ms=1,
            pre_apply=at.checksum,
            node_id=store.node_id ^ 1,
        )
        db.append(encode(header, changed, post), header, post, [n for n, _ in changed], sums)
        self.captured = pages
        return db.position

    def mark(self, db: DatabaseStore) -> None:
        """Say that the WAL is captured to its end."""
        head = self.wal.read_bytes()[:32]
        salts = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        db.set_wal_mark(*salts, self.wal.stat().st_size, 1)

    def copy_to(self, folder: Path) -> None:
        """What a SIGKILL of everything would leave in the database's folder."""
        shutil.copy(self.path, folder / "database")
        for suffix, name in (("-wal", "wal"), ("-journal", "journal")):
            source = self.path.with_name("x.db" + suffix)
            if source.exists():
                shutil.copy(source, folder / name)


def check_image(path: Path, position: Position) -> None:
    """The file is sound and is exactly what the position says."""
    data = path.read_bytes()
    total = 0
    for n in range(0, len(data), PAGE):
        total ^= page_checksum(n // PAGE + 1, data[n : n + PAGE])
    assert total | CHECKSUM_FLAG == position.checksum
    copy = path.with_name("check.db")
    shutil.copy(path, copy)
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    for leftover in path.parent.glob("check.db*"):
        leftover.unlink()
