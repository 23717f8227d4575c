"""A primary made of plain SQLite, and a replica's parts on a plain folder, for tests of apply.

``Primary`` turns each change of its database into an LTX file by comparing images.
``Replica`` has the services of one node without a mount: "through the mount" is a folder.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from sqlitecluster.config.model import NodeConfig, Replication
from sqlitecluster.ltx import CHECKSUM_FLAG, Header, decode, encode, fold, page_checksum
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.apply import Applier
from sqlitecluster.replicator.checkpoint import try_restart
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.services import Bells, NodeServices, SupervisorLink
from sqlitecluster.replicator.work import Install
from sqlitecluster.shared import Bell, NodeWord, State
from sqlitecluster.store.node import NodeStore
from sqlitecluster.units import lock_page

CREATE: Final = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)"


def insert(count: int = 1, size: int = 200) -> str:
    """SQL that adds rows to ``CREATE``."""
    return (
        f"WITH r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r LIMIT {count}) "
        f"INSERT INTO t(a,b) SELECT abs(random() % 100000), randomblob({size}) FROM r"
    )


def checkpointed(db: ReplicaDb, replica: Replica) -> bytes:
    """The replica's database file once its log is written back."""
    assert db.session is not None
    assert db.writer is not None
    assert try_restart(db.session, db.writer, 1 << 20, db.store.sync)
    return replica.path().read_bytes()


class Primary:
    """A real database whose commits become LTX files."""

    def __init__(self, path: Path, *, mode: str = "wal", page_size: int = 4096) -> None:
        self.path = path
        self.mode = mode
        self.page_size = page_size
        self.txid = 0
        self.checksum = CHECKSUM_FLAG
        self.image = b""
        self.sql = self.connect()

    def connect(self) -> sqlite3.Connection:
        sql = sqlite3.connect(self.path, isolation_level=None)
        sql.execute(f"PRAGMA page_size={self.page_size}")
        sql.execute(f"PRAGMA journal_mode={self.mode}")
        return sql

    def run(self, *statements: str) -> bytes:
        """Execute in one transaction where SQLite allows it; the LTX file of the change."""
        plain = any(text.upper().startswith(("VACUUM", "PRAGMA")) for text in statements)
        if not plain:
            self.sql.execute("BEGIN")
        for text in statements:
            self.sql.execute(text).fetchall()
        if not plain:
            self.sql.execute("COMMIT")
        return self.capture()

    def capture(self) -> bytes:
        """The LTX file that leads from the last captured image to the present one."""
        self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        new = self.path.read_bytes()
        raw_size = int.from_bytes(new[16:18], "big")
        size = 65536 if raw_size == 1 else raw_size
        old = self.image if size == self.page_size else b""
        whole = not old
        pages = [
            (at // size + 1, new[at : at + size])
            for at in range(0, len(new), size)
            if new[at : at + size] != old[at : at + size] and at // size + 1 != lock_page(size)
        ]
        post = image_checksum(new, size)
        header = Header(
            page_size=size,
            commit=len(new) // size,
            min_txid=1 if whole else self.txid + 1,
            max_txid=self.txid + 1,
            timestamp_ms=1_700_000_000_000 + self.txid,
            pre_apply=0 if whole else self.checksum,
        )
        self.txid, self.checksum, self.image, self.page_size = self.txid + 1, post, new, size
        return encode(header, pages, post)

    def drop(self) -> bytes:
        """The LTX file of a deleted database."""
        header = Header(
            page_size=self.page_size,
            commit=0,
            min_txid=self.txid + 1,
            max_txid=self.txid + 1,
            timestamp_ms=1,
            pre_apply=self.checksum,
        )
        self.txid, self.checksum, self.image = self.txid + 1, CHECKSUM_FLAG, b""
        return encode(header, [], CHECKSUM_FLAG)

    def snapshot(self, folder: Path, *, diverged: bool = False) -> Install:
        """The present image as a received snapshot."""
        path = folder / "received.image"
        path.write_bytes(self.image)
        at = Position(self.txid, self.checksum)
        return Install("x.db", path, self.page_size, len(self.image) // self.page_size, at, 5, diverged)

    @property
    def position(self) -> Position:
        return Position(self.txid, self.checksum)


def image_checksum(image: bytes, size: int) -> int:
    """The database checksum of a whole image."""
    sums = [
        page_checksum(at // size + 1, image[at : at + size])
        for at in range(0, len(image), size)
        if at // size + 1 != lock_page(size)
    ]
    return fold(np.array(sums, dtype=np.uint64))


class Replica:
    """One node's services on plain folders."""

    def __init__(
        self,
        folder: Path,
        *,
        pages: int = 4000,
        state_fd: int | None = None,
        supervisor: SupervisorLink | None = None,
    ) -> None:
        self.folder = folder
        self.mount = folder / "mnt"
        self.mount.mkdir(parents=True, exist_ok=True)
        config = NodeConfig(
            name="r",
            data_dir=folder / "data",
            mount_dir=self.mount,
            role="replica",
            replication=Replication(checkpoint_pages=pages),
        )
        self.state_fd = State.create() if state_fd is None else state_fd
        self.state = State(self.state_fd)
        mount_bell = Bell(Bell.create(), self.state, NodeWord.MOUNT_SLEEPING)
        our_bell = Bell(Bell.create(), self.state, NodeWord.REPLICATOR_SLEEPING)
        self.store = NodeStore(folder / "data")
        self.seen: list[tuple[str, Position]] = []
        self.node = NodeServices(
            config=config,
            store=self.store,
            state=self.state,
            bells=Bells(mount_bell, our_bell),
            mount_dir=self.mount,
            supervisor=supervisor or SupervisorLink.none(),
            on_transaction=lambda name, _header, at: self.seen.append((name, at)),
        )

    def applier(self) -> Applier:
        return Applier(self.node, paths=self.paths)

    def paths(self, name: str) -> DbPaths:
        """Without a mount the backing file of ``-wal`` is that file itself."""
        self.state.add_slot(name)
        return DbPaths.plain(self.mount / name)

    def folded(self, name: str = "x.db") -> bytes:
        """The file after a last close by a program has written the log back."""
        sql = sqlite3.connect(self.path(name))
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        sql.close()
        return self.path(name).read_bytes()

    def path(self, name: str = "x.db") -> Path:
        return self.mount / name


@contextmanager
def reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A program's connection."""
    sql = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        yield sql
    finally:
        sql.close()


def position_of(ltx: bytes) -> Position:
    """Where a database is after an LTX file."""
    file = decode(ltx)
    return Position(file.header.max_txid, file.trailer.post_apply)


def wait_for(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it never did.
    """
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)
