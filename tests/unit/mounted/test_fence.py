"""The fence: what is left of a commit that was refused because the right to write had expired."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.mount.context import Context
from sqlitecluster.mount.descriptors import Descriptors
from sqlitecluster.mount.layout import Layout
from sqlitecluster.mount.space import Space
from sqlitecluster.mount.tracked import WalFile
from sqlitecluster.mount.tree import Tree
from sqlitecluster.replicator import walfile
from sqlitecluster.shared import ROLE_PRIMARY, Bell, NodeWord, State, Word
from sqlitecluster.store.walfile import WalPages
from support.mounting import MountedNode

Make = Callable[..., MountedNode]


def fence(node: MountedNode, *, passed: bool) -> None:
    at = 1 if passed else time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12
    node.state.node[NodeWord.FENCE_BOOT_NS] = at
    node.state.node[NodeWord.FENCE_REAL_NS] = 0


def lift(node: MountedNode) -> None:
    node.state.node[NodeWord.FENCE_BOOT_NS] = 0


def opened(node: MountedNode, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(node.mnt / "a.db", isolation_level=None, timeout=0)
    db.execute(f"PRAGMA journal_mode={mode}").fetchall()
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE t (x)")
    db.execute("INSERT INTO t VALUES (1)")
    return db


def log_of(node: MountedNode) -> WalPages:
    pages = WalPages(node.data / "dbs" / "a.db" / "wal")
    pages.refresh()
    return pages


def rows(node: MountedNode) -> list[int]:
    db = sqlite3.connect(node.mnt / "a.db", isolation_level=None)
    try:
        return [row[0] for row in db.execute("SELECT x FROM t")]
    finally:
        db.close()


def test_a_commit_after_the_fence_leaves_no_valid_frame(mounted: Make) -> None:
    node = mounted()
    db = opened(node, "WAL")
    fence(node, passed=False)
    db.execute("INSERT INTO t VALUES (2)")
    before = log_of(node)
    db.execute("BEGIN")
    db.execute("INSERT INTO t VALUES (3)")
    fence(node, passed=True)

    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        db.execute("COMMIT")

    after = log_of(node)
    assert (after.end, after.pages) == (before.end, before.pages)
    db.close()
    lift(node)
    assert rows(node) == [1, 2]


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST"])
def test_a_rollback_commit_after_the_fence_is_undone(mounted: Make, mode: str) -> None:
    node = mounted()
    db = opened(node, mode)
    fence(node, passed=False)
    db.execute("INSERT INTO t VALUES (2)")
    spools = int(node.words("a.db")[Word.SPOOL_SEQ])
    db.execute("BEGIN")
    db.execute("INSERT INTO t VALUES (3)")
    fence(node, passed=True)

    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        db.execute("COMMIT")

    assert node.words("a.db")[Word.SPOOL_SEQ] == spools
    db.close()
    lift(node)
    assert rows(node) == [1, 2]


def test_files_of_databases_are_not_made_or_removed_after_the_fence(mounted: Make) -> None:
    node = mounted()
    opened(node, "WAL").close()
    fence(node, passed=True)

    with pytest.raises(OSError, match="Input/output"):
        os.open(node.mnt / "new.db", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match="Input/output"):
        (node.mnt / "a.db").unlink()
    (node.mnt / "local.txt").write_bytes(b"fine")
    assert rows(node) == [1]


def test_either_clock_counts(mounted: Make) -> None:
    node = mounted()
    db = opened(node, "WAL")
    words = node.state.node
    words[NodeWord.FENCE_BOOT_NS] = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12
    words[NodeWord.FENCE_REAL_NS] = time.time_ns() + 10**12
    db.execute("INSERT INTO t VALUES (2)")
    words[NodeWord.FENCE_REAL_NS] = time.time_ns() - 1  # a paused machine's first clock stood still

    with pytest.raises(sqlite3.OperationalError, match="I/O"):
        db.execute("INSERT INTO t VALUES (3)")


def test_a_commit_that_the_fence_meets_half_way_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock passes the fence between the look before the last write and the look before its answer."""
    log, context = wal_file(tmp_path)
    header, frames = wal_bytes(2)
    log.write(0, memoryview(header), privileged=False)
    log.write(32, memoryview(frames[0][:24]), privileged=False)
    log.write(56, memoryview(frames[0][24:]), privileged=False)
    good = (tmp_path / "data/dbs/a.db/wal").read_bytes()
    log.write(len(good), memoryview(frames[1][:24]), privileged=False)
    looks = iter((1, 100, 100))
    monkeypatch.setattr("sqlitecluster.mount.context.time.clock_gettime_ns", lambda _clock: next(looks))
    context.state.node[NodeWord.FENCE_BOOT_NS] = 50

    with pytest.raises(OSError, match="expired"):
        log.write(len(good) + 24, memoryview(frames[1][24:]), privileged=False)

    pages = WalPages(tmp_path / "data/dbs/a.db/wal")
    pages.refresh()
    assert pages.end == len(good) == log.owner.words[Word.WAL_END]


def wal_file(folder: Path) -> tuple[WalFile, Context]:
    """A primary's log without a mount."""
    config = NodeConfig(name="n", data_dir=folder / "data", mount_dir=folder / "mnt", runtime_dir=folder / "run")
    for path in (folder / "data", folder / "run"):
        path.mkdir()
    state = State(State.create())
    state.node[NodeWord.ROLE] = ROLE_PRIMARY
    context = Context(
        config=config,
        state=state,
        replicator=Bell(Bell.create(), state, NodeWord.REPLICATOR_SLEEPING),
        layout=Layout(str(folder / "data"), str(folder / "run")),
        space=Space(str(folder / "data"), 1 << 16, state),
        descriptors=Descriptors(),
    )
    context.layout.prepare()
    tree = Tree(context, successor=False)
    tree.create("a.db")
    made = tree.create("a.db-wal")
    assert isinstance(made, WalFile)
    return made, context


def wal_bytes(transactions: int) -> tuple[bytes, list[bytes]]:
    """A log's header and one commit frame for each transaction."""
    head = walfile.WalHeader.make(512, 0, b"saltsalt")
    frames, seed = [], head.checksum
    for number in range(transactions):
        parts, seed = walfile.build_frames([(1, bytes([number]) * 512)], 512, 1, head.salt, seed, head.big_endian)
        frames.append(b"".join(bytes(part) for part in parts))
    return head.pack(), frames
