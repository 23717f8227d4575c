"""Comparing what two nodes hold: the bytes on disk after a checkpoint, and what programs read.

Neither way uses the product's own code: SQLite itself checkpoints copies of the
backing files, and its backup API reads through the mounts.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import time
from pathlib import Path

from support.cluster import Cluster
from support.node import Node

ATTEMPTS = 6


def backing(node: Node, name: str, kind: str = "database") -> Path:
    """The file below the data directory that holds a database, its journal or WAL."""
    return node.data / "dbs" / name.replace("/", "%2F") / kind


def settled(node: Node, name: str, scratch: Path) -> Path:
    """A copy of a database's backing files with its WAL written back by SQLite; nobody may write now."""
    scratch.mkdir(parents=True, exist_ok=True)
    copy = scratch / f"{node.name}.db"
    for suffix, kind in (("", "database"), ("-wal", "wal"), ("-journal", "journal")):
        target = Path(f"{copy}{suffix}")
        target.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(backing(node, name, kind), target)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as db:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return copy


def first_difference(left: Path, right: Path, step: int = 65536) -> str | None:
    """None when two files are equal, else where they first differ."""
    if left.stat().st_size != right.stat().st_size:
        return f"sizes {left.stat().st_size} and {right.stat().st_size}"
    with left.open("rb") as a, right.open("rb") as b:
        at = 0
        while block := a.read(step):
            other = b.read(step)
            if block != other:
                within = next(i for i, pair in enumerate(zip(block, other, strict=True)) if pair[0] != pair[1])
                return f"byte {at + within}"
            at += len(block)
    return None


def difference(cluster: Cluster, name: str, scratch: Path) -> str | None:
    """None when every replica's database is byte-identical to the primary's after a checkpoint."""
    cluster.wait_synced(name)
    for node in cluster.followers:
        found: str | None = "never compared"
        for _ in range(ATTEMPTS):  # a replica may write its WAL back while it is copied
            found = _compare(cluster.primary, node, name, scratch)
            if found is None:
                break
            time.sleep(0.5)
        if found is not None:
            return f"{name} differs between {cluster.primary.name} and {node.name}: {found}"
    return None


def _compare(primary: Node, replica: Node, name: str, scratch: Path) -> str | None:
    try:
        return first_difference(settled(primary, name, scratch), settled(replica, name, scratch))
    except (sqlite3.DatabaseError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def check_same(cluster: Cluster, *names: str) -> None:
    """Assert that databases are byte-identical everywhere and read the same through the mounts."""
    for name in names:
        found = difference(cluster, name, cluster.folder / "compare")
        assert found is None, found
        wanted = logical(cluster.primary.mount / name, cluster.folder / "compare")
        for node in cluster.followers:
            have = logical(node.mount / name, cluster.folder / "compare")
            assert have == wanted, f"{name}: programs read another image on {node.name} than on {cluster.primary.name}"
            assert integrity(node.mount / name) == "ok", f"{name}: integrity_check fails on {node.name}"


def logical(path: Path, scratch: Path) -> str:
    """Digest of all pages as a program reads them through a connection."""
    scratch.mkdir(parents=True, exist_ok=True)
    copy = scratch / "logical.db"
    copy.unlink(missing_ok=True)
    source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(copy)) as target:
        target.execute("PRAGMA synchronous=OFF")
        source.backup(target)
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def integrity(path: Path) -> str:
    """Answer of PRAGMA integrity_check."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as db:
        return "\n".join(str(row[0]) for row in db.execute("PRAGMA integrity_check"))


def chain_gap(node: Node, name: str, patience_s: float = 0.0) -> str | None:
    """The first gap between the LTX files of the lowest level that is still there after ``patience_s``.

    What did not go through the log has its file at once; what was before it is cut within a second or two.
    """
    until = time.monotonic() + patience_s
    while (gap := _gap(backing(node, name, "ltx") / "0")) is not None and time.monotonic() < until:
        time.sleep(0.2)
    return gap


def _gap(folder: Path) -> str | None:
    last: int | None = None
    for file in sorted(folder.glob("*.ltx")):
        low, high = (int(part, 16) for part in file.stem.split("-"))
        if last is not None and low > last + 1:
            return f"after {last:x} comes {file.name}"
        last = max(high, last or 0)
    return None
