"""Puts good pages back into a damaged database of a replica: as a transaction of its WAL that changes nothing else.

Called by ``mending`` through ``Applier.with_database``, so that nothing is applied meanwhile.

Rules:
    1. Only with the role locks, and when readers see everything that the log has: then page,
       page checksum and position belong together.
    2. A first page that is no SQLite header any more is written in place, because locks and mode
       cannot be had without it. Only while no session is open, so nobody else has the file locked.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from sqlitecluster.errors import LockTimeout, NotADatabase
from sqlitecluster.ltx import page_checksum
from sqlitecluster.replicator import install, locks, through
from sqlitecluster.replicator.judging import Verdict, judge
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.walwriter import write_buffers

_LOCK_S: Final = 0.5


def mend(db: ReplicaDb, suspects: Sequence[int], good: Mapping[int, bytes]) -> Verdict:
    """Look at suspects under the role locks, and write what is damaged and known.

    Raises:
        LockTimeout: a program, or a transaction that may not be shown yet, is in the way.
        StoreError, OSError: it cannot be written.
    """
    store = db.store
    if db.session is None:
        _first_page(db, good)
        db.open()
    session, writer = db.session, db.writer
    if session is None or writer is None or db.is_programs or store.applied != store.position.txid:
        raise LockTimeout(f"{db.name}: not everything that was received can be read yet")
    fd = os.open(store.dir / "database", os.O_RDONLY | os.O_CLOEXEC)
    try:
        reader = install.ContentReader(session, fd)
        found = judge(store.checksums, store.position, lambda pgno: reader.read(pgno, 1), suspects, good)
    finally:
        os.close(fd)
    if found.mend:
        writer.append(sorted(found.mend.items()), reader.pages)
    return found


def _first_page(db: ReplicaDb, good: Mapping[int, bytes]) -> None:
    """Make the file a SQLite database again, if it is not and page 1 is known."""
    page, paths = good.get(1), db.paths
    if page is None or page_checksum(1, page) != db.store.checksums.get(1):
        return
    try:
        install.state_of(paths.database)
    except NotADatabase:
        fd = through.open_fd(paths.database, os.O_RDWR)
        try:
            deadline = time.monotonic() + _LOCK_S
            locks.lock_shared(fd, deadline)
            locks.wait_lock(fd, fcntl.F_WRLCK, locks.RESERVED, deadline, "RESERVED on the database")
            with locks.exclusive(fd, deadline):
                write_buffers(fd, [page], 0)
                os.fsync(fd)
        finally:
            locks.unlock(fd, locks.PENDING, 2 + locks.SHARED_SIZE)
            os.close(fd)
