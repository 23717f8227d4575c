"""A commit that is in the log and waits: what ``hold`` remembers of it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlitecluster.replicator.capture_group import Cursor
from sqlitecluster.replicator.capture_publish import WalSpan


@dataclass(slots=True)
class Flight:
    """A transaction that is in the log and not settled."""

    seq: int
    txid: int
    pgnos: list[int]
    commit_before: int
    """Pages of the database without it."""
    commit: int
    """Pages with it."""
    deadline: float
    span: WalSpan | None = None
    """Where in the log it ends; None: a rollback-mode commit."""
    salts: tuple[int, int] = (0, 0)


def frame_end(cursor: Cursor, reach: int) -> int:
    """The end of the frame that byte ``reach - 1`` belongs to."""
    return cursor.end - (cursor.end - reach) // cursor.frame_size * cursor.frame_size
