"""Which commits of a write-ahead log SQLite has published. Pure; called by ``capture_wal``.

A commit frame in the file is not yet a commit: its writer may die, or its fsync fail,
before the wal-index shows it, and the next writer then overwrites it without a trace.
So capture follows the published ``mxFrame``; where there is none to follow, it needs
another proof.

    INDEX     the wal-index belongs to this content: up to its mxFrame, nothing else
    RESTART   the wal-index has the next salts (salt 1 grows by one): this content is about
              to be replaced, every published frame was written back into the database first
    SILENT    no wal-index speaks: EXCLUSIVE locking keeps it in the program's memory, or
              no program has the database open (the next one to open it publishes all)
    CLOSING   somebody holds EXCLUSIVE, and has the wal-index of this content in use, or just removed it:
              the last program closes (it removes first the index, then the log, and drops what is not
              published), or one that locks exclusively goes on with it. Up to its mxFrame, as long as
              it takes. Who keeps an index to itself uses no file: an old one may stand beside it.
    WAIT      a program is connected, but its wal-index cannot be read at the moment, or it
              still has older salts: the first commit of a new log is not published yet

Without an index every commit that another write follows at exactly its end is published:
a writer goes on from there only when it took the commit for done. Only the last one is in
doubt: proved by a quiet moment (SILENT) or by the database file (RESTART).
"""

from __future__ import annotations

import enum
from typing import Final

QUIET_S: Final = 0.05


class Source(enum.Enum):
    """Who can say what is published."""

    INDEX = "index"
    RESTART = "restart"
    SILENT = "silent"
    CLOSING = "closing"
    WAIT = "wait"


class Users(enum.Enum):
    """What the locks on the database file say about connected programs."""

    NONE = "none"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


def choose_source(
    index_salts: tuple[int, int] | None,
    wal_salts: tuple[int, int],
    users: Users,
    *,
    index_used: bool = False,
    index_removed: bool = False,
) -> Source:
    """Who speaks for a WAL with these salts.

    An EXCLUSIVE program may keep its index to itself and leave an old file behind; and when
    nobody is connected, the next program to open the database recovers every valid frame.

    Args:
        index_salts: of the wal-index; None when it cannot be read.
        wal_salts: of the log.
        users: who is connected.
        index_used: somebody has the wal-index open, as SQLite does.
        index_removed: this WAL had a wal-index; it was removed, and nobody has committed since.
    """
    if users is Users.NONE or (users is Users.EXCLUSIVE and not index_used and not index_removed):
        return Source.SILENT
    if users is Users.EXCLUSIVE and (index_removed or index_salts == wal_salts):
        return Source.CLOSING
    if index_salts is None:
        return Source.WAIT
    if index_salts == wal_salts:
        return Source.INDEX
    return Source.RESTART if follows(index_salts, wal_salts) else Source.WAIT


def follows(index_salts: tuple[int, int], wal_salts: tuple[int, int]) -> bool:
    """Whether a wal-index is one restart ahead of a WAL."""
    return index_salts[0] == (wal_salts[0] + 1) & 0xFFFF_FFFF


def proved_end(ends: list[int], highest_write: int, quiet_s: float) -> int:
    """Byte offset up to which commits are published when nobody says so (SILENT).

    Args:
        ends: offsets behind each commit frame of the valid chain, ascending.
        highest_write: offset behind the highest byte written in this content.
        quiet_s: seconds since the last event.

    Returns:
        0 when none is proved.
    """
    if not ends:
        return 0
    if highest_write > ends[-1] or quiet_s >= QUIET_S:
        return ends[-1]
    return ends[-2] if len(ends) > 1 else 0
