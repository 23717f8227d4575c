"""What the file behind a rollback journal is after the node stopped, however it did.

Asked before anybody takes the file for a journal: by the mount when it begins, and by
recovery before it lets SQLite roll back. The file is the mount's (``mount/journalfile``).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sqlitecluster.sqlitefmt.journal import HEADER_SIZE, KEPT, SEAL_AT, SEAL_END, is_hot, is_sealed, sealed_size

log = logging.getLogger(__name__)


def drop_unfinished(path: Path) -> bool:
    """Remove a file that is no journal; True when nothing is left.

    It is none when it was kept for the next transaction, or when its seal does not fit: it was
    never durable as a whole, so the database was not written yet. What is left is a plain journal.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        start = os.pread(fd, SEAL_END, 0)
        if start[: len(KEPT)] != KEPT and not is_sealed(start):
            return False
        if is_sealed(start):
            size = sealed_size(os.pread(fd, os.fstat(fd).st_size, 0))
            if size is not None:
                os.pwrite(fd, bytes(SEAL_END - SEAL_AT), SEAL_AT)
                os.ftruncate(fd, size)
                return False
            log.info("%s: a journal that was not complete yet is removed", path.parent.name)
    finally:
        os.close(fd)
    path.unlink(missing_ok=True)
    return True


def has_journal(folder: Path) -> bool:
    """Whether there is a journal with anything in it; a file that is only kept is none."""
    try:
        with open(folder / "journal", "rb") as file:
            start = file.read(len(KEPT))
    except FileNotFoundError:
        return False
    return start not in (b"", KEPT)


def has_hot_journal(folder: Path) -> bool:
    """Whether the database file may be within a transaction: SQLite rolls it back if its writer is gone."""
    try:
        with open(folder / "journal", "rb") as file:
            return is_hot(file.read(HEADER_SIZE))
    except FileNotFoundError:
        return False
