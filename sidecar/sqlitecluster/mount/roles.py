"""What a program may do, by the node's role. Pure: one table, no other decision elsewhere.

The replicator itself (its threads, by pid) is never asked.

    change     create, unlink or rename a database or its side files; write or truncate them
    shm        write or truncate a -shm: allowed everywhere, readers mark their snapshots there
    open       open what belongs to a database: on a node that may not write it waits for the role locks;
               a journal does not, whoever opens one keeps others waiting
    other      files that belong to no database: local to the node, writable everywhere
"""

from __future__ import annotations

import errno
import os
from typing import Final

from sqlitecluster.mount.layout import Kind
from sqlitecluster.shared import ROLE_FENCED, ROLE_NONE, ROLE_PRIMARY

ALLOWED: Final = 0
LOCAL: Final = (Kind.FILE, Kind.DIRECTORY, Kind.SHM, Kind.VIRTUAL)
"""What may change on every node."""
_WRITING: Final = os.O_WRONLY | os.O_RDWR


def is_writing(flags: int) -> bool:
    """Whether open flags ask for write access."""
    return bool(flags & _WRITING)


def change(role: int, kind: Kind, *, creating: bool = False) -> int:
    """0, or the errno for a program that changes a file of this kind.

    Args:
        creating: an empty file is made. A reader makes the WAL, and may do so also behind the fence.
    """
    if role == ROLE_PRIMARY or kind in LOCAL or (role == ROLE_FENCED and creating and kind is Kind.WAL):
        return ALLOWED
    return errno.EIO if role == ROLE_FENCED else errno.EROFS


def opening(role: int, kind: Kind, flags: int, *, read_only: bool) -> int:
    """0, or the errno for a program that opens a file of this kind.

    Args:
        read_only: ``replicaWrites: ReadOnly``, so that SQLite falls back to a read-only connection.
    """
    if kind is Kind.VIRTUAL:
        return errno.EACCES if is_writing(flags) else ALLOWED
    if kind is Kind.DATABASE and read_only and is_writing(flags) and role not in (ROLE_PRIMARY, ROLE_NONE, ROLE_FENCED):
        return errno.EACCES
    return ALLOWED


def may_open_now(role: int, kind: Kind, *, locked: bool, frozen: bool, draining: bool = False) -> bool:
    """Whether an open of a file of this kind need not wait.

    Who opens a journal has a lock on the database, which the replicator may be waiting for: a writer whose
    transaction must end, or a reader that finds the journal hot. What they may not write is refused.
    """
    if frozen:
        return False
    if kind is Kind.JOURNAL:
        return True
    if role == ROLE_NONE:
        return False
    return locked or (role in (ROLE_PRIMARY, ROLE_FENCED) and not draining)


def removal(kind: Kind, *, stopping: bool, in_use: bool) -> int:
    """0, or the errno for removing or moving a file while the node stops.

    Whoever clears a folder away that is still mounted (a kubelet does) must not clear databases
    away. Programs are given some time to finish, and a journal's removal is their commit.
    """
    if stopping and (kind in (Kind.DATABASE, Kind.WAL) or not in_use):
        return errno.EBUSY
    return ALLOWED
