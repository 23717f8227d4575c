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
import time
from pathlib import Path
from typing import Final

from sqlitecluster.errors import LockTimeout, StoreError, WaitTimeout
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import import_child, through
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import State, Word
from sqlitecluster.sqlitefmt.dbheader import HEADER_SIZE, DatabaseHeader
from sqlitecluster.units import check_database_name

log = logging.getLogger(__name__)

IMPORT_S: Final = 600.0
CAPTURED_S: Final = 60.0
_BUSY_S: Final = 10.0


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
    try:
        status, text = through.run_import(path, target, work, _BUSY_S, timeout_s)
    except TimeoutError as late:
        raise LockTimeout(f"{name}: programs kept it locked; the import was given up") from late
    finally:
        work.unlink(missing_ok=True)
    if status == import_child.LOCKED:
        raise LockTimeout(f"{name}: {text[-200:]}")
    if status != import_child.DONE:
        raise StoreError(f"{name}: import failed: {text[-200:]}")
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
