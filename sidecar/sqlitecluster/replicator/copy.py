"""A copy of a living database that belongs to one exact position: export, on any node.

A fuzzy base of pages (no SQLite lock), then the transactions since, until the image adds
up (``stage``). Runs in an executor thread.

Rules: at most ``_TRIES`` attempts; the caller unlinks the file.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlitecluster.errors import Diverged, NoSuchDatabase, Unavailable
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.snapshot_send import Pages
from sqlitecluster.replicator.stage import Stage

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore

_TRIES: Final = 20
_PAUSE_S: Final = 0.05
_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy."""

    path: Path
    position: Position
    page_size: int
    pages: int


def copy_database(db: DatabaseStore, folder: Path, read: Callable[[DatabaseStore], Pages]) -> Copy:
    """Copy the current committed content into a new file below ``folder``.

    Raises:
        NoSuchDatabase: the database has no content.
        Unavailable: it could not be caught at any position.
    """
    if db.position.is_zero or db.commit == 0:
        raise NoSuchDatabase(f"there is no database {db.name!r} here")
    stage = Stage(folder / f"copy-{next(_counter)}", db.page_size, db.commit, db.position)
    try:
        for batch in read(db):
            stage.add([pgno for pgno, _ in batch], b"".join(page for _, page in batch))
        for _ in range(_TRIES):
            if _catch_up(db, stage):
                stage.close(remove=False)
                return Copy(stage.path, stage.position, stage.page_size, stage.pages)
            time.sleep(_PAUSE_S)
    except BaseException:
        stage.close(remove=True)
        raise
    stage.close(remove=True)
    raise Unavailable(f"{db.name}: the copy did not add up after {_TRIES} tries; try again")


def _catch_up(db: DatabaseStore, stage: Stage) -> bool:
    """Apply what came meanwhile; True when the image is exact."""
    stage.pages = db.commit if stage.position == db.position else stage.pages
    for ltx in db.since(stage.position.txid) or ():
        stage.apply(ltx)
        try:
            stage.finish(sync=False)
        except Diverged:
            continue
        return True
    try:
        stage.finish(sync=False)
    except Diverged:
        return False
    return True
