"""Replacing a database's content by a SQLite file, on the primary, as one transaction.

SQLite itself does it, through the mount, in a process of its own: locks, journal modes
and open connections are then treated as by any other program, capture sees one commit,
and the replicator's own descriptors cannot release SQLite's POSIX locks.

Rules:
    1. The file is checked before anything is touched; it is only read.
    2. A WAL database cannot change its page size while others have it open: if it cannot
       leave WAL mode, the content is copied into pages of the size it has.

Called by ``capture.Capture.import_image`` in a thread that may block.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from sqlitecluster.errors import LockTimeout, StoreError, WaitTimeout
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import through
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import State, Word
from sqlitecluster.sqlitefmt.dbheader import HEADER_SIZE, DatabaseHeader
from sqlitecluster.units import check_database_name

log = logging.getLogger(__name__)

IMPORT_S: Final = 600.0
CAPTURED_S: Final = 60.0
_LOCKED: Final = 75  # EX_TEMPFAIL
_SCRIPT: Final = """
import os, sqlite3, sys
source_path, target_path, work_path, timeout = sys.argv[1:5]

def open_source(path):
    return sqlite3.connect(f"file:{path.replace('?', '%3f').replace('#', '%23')}?mode=ro&immutable=1", uri=True)

def repaged(source, size):
    work = sqlite3.connect(work_path, isolation_level=None)
    source.backup(work)
    for statement in ("journal_mode=DELETE", "synchronous=OFF", f"page_size={size}"):
        work.execute(f"PRAGMA {statement}").fetchall()
    work.execute("VACUUM")
    work.close()
    return open_source(work_path)

def main():
    source = open_source(source_path)
    target = sqlite3.connect(target_path, timeout=float(timeout), isolation_level=None)
    size, wanted = (db.execute("PRAGMA page_size").fetchone()[0] for db in (target, source))
    mode = target.execute("PRAGMA journal_mode").fetchone()[0]
    if mode == "wal" and size != wanted and target.execute("PRAGMA page_count").fetchone()[0]:
        target.execute("PRAGMA busy_timeout=500")
        try:
            mode = target.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        except sqlite3.OperationalError:
            mode = "wal"
        if mode == "wal":
            source = repaged(source, size)
    target.execute("BEGIN IMMEDIATE")
    target.execute("ROLLBACK")
    source.backup(target)
    target.close()

try:
    main()
except sqlite3.OperationalError as error:
    print(error, file=sys.stderr)
    sys.exit(75 if "locked" in str(error) else 1)
"""


def import_image(node: NodeServices, name: str, path: Path, timeout_s: float = IMPORT_S) -> Position:
    """Replace (or create) database ``name`` by the SQLite file ``path``; returns the captured position.

    Raises:
        BadName: not a database name.
        NotADatabase: the file does not start as a SQLite database does.
        LockTimeout: a program kept its lock for too long.
        StoreError: SQLite could not copy it.
        WaitTimeout: it is committed, but not captured in time.
    """
    check_database_name(name)
    with open(path, "rb") as file:
        DatabaseHeader.parse(file.read(HEADER_SIZE))
    target = node.mount_dir / name
    through.make_folders(target.parent)
    os.close(through.open_fd(target, os.O_RDWR | os.O_CREAT, 0o644))  # made by us it is the programs', not ours
    work = path.with_name(path.name + ".pages")
    command = [sys.executable, "-I", "-c", _SCRIPT, str(path), str(target), str(work), "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as late:
        raise LockTimeout(f"{name}: programs kept it locked; the import was given up") from late
    finally:
        work.unlink(missing_ok=True)
    if done.returncode == _LOCKED:
        raise LockTimeout(f"{name}: {done.stderr.strip()[-200:]}")
    if done.returncode:
        raise StoreError(f"{name}: import failed: {done.stderr.strip()[-200:]}")
    return wait_captured(node, name)


def wait_captured(node: NodeServices, name: str, timeout_s: float = CAPTURED_S) -> Position:
    """Wait until what is committed by now is captured.

    Raises:
        WaitTimeout: it took longer than ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        slot = node.state.find(name)
        store = node.store.open(name)
        if slot is not None and is_captured(node.state, slot) and not any(store.dir.glob("wal.*.gone")):
            return store.position
        time.sleep(0.001)
    raise WaitTimeout(f"{name}: not captured within {timeout_s:.0f} s")


def is_captured(state: State, slot: int) -> bool:
    """Whether everything that the mount announced for a database is in the log."""
    words = state.slot(slot)
    if not state.position(slot)[0] or words[Word.SPOOL_DONE] != words[Word.SPOOL_SEQ]:
        return False
    if words[Word.DIRTY_RAW] or words[Word.RAW_HINT] != words[Word.RAW_HINT_DONE]:
        return False
    if not words[Word.HAS_WAL]:
        return True
    return words[Word.CAPTURED_GEN] == words[Word.WAL_GEN] and words[Word.CAPTURED_END] >= words[Word.WAL_END]
