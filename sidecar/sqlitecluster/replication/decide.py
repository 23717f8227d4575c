"""What a primary sends to a replica for one database, decided from positions alone.

The stream server asks with the replica's claim, its own position and what its store
can still continue from; it carries the answer out. Pure, so every case is a table row
in the tests.

Rules:
    1. Nothing is ever sent that a replica could apply to another history: a different
       checksum under the same TXID, or a replica that is ahead, is a divergence.
    2. A snapshot is sent only when nothing else works.
    3. A database that the primary does not know is never dropped by a stream; only one
       that it dropped itself (a deletion in its chain: pages 0) is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from sqlitecluster.replication.position import Position


class Reason(IntEnum):
    """Why a snapshot is sent; travels in its first frame."""

    NEW = 0
    """The replica has nothing of this database."""
    MISSING = 1
    """The transactions it would need are not stored any more."""
    AHEAD = 2
    """The replica has transactions that the primary never saw."""
    OTHER_HISTORY = 3
    """Same transaction id, other content."""
    ASKED = 4
    """The replica found its own image damaged and asked for one."""
    CHEAPER = 5
    """The next file is about as large as the database; a snapshot needs less memory at both ends."""

    @property
    def diverged(self) -> bool:
        """Whether the replica holds a tail that must be kept aside first."""
        return self in (Reason.AHEAD, Reason.OTHER_HISTORY)


class Send(Enum):
    """What to do next for one database."""

    NOTHING = "nothing"
    """Equal positions; wait for the next transaction."""
    TRANSACTIONS = "transactions"
    """Stored or live LTX files continue from the replica's position."""
    SNAPSHOT = "snapshot"
    DROP = "drop"
    """The primary dropped the database and its chain cannot tell the replica so."""
    UNKNOWN = "unknown"
    """The primary has never had it: the replica keeps it and reports it."""


@dataclass(frozen=True, slots=True)
class Ours:
    """The primary's side of one database."""

    position: Position
    pages: int
    """0 with a TXID: dropped."""


@dataclass(frozen=True, slots=True)
class Next:
    """The head of the first stored LTX file that reaches beyond the replica."""

    min_txid: int
    pre_apply: int
    unwieldy: bool = False
    """Too large to be taken into memory, and not much smaller than the whole database."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to send; ``reason`` only with a snapshot."""

    send: Send
    reason: Reason = Reason.MISSING


def decide(theirs: Position, ours: Ours | None, following: Next | None, *, resync: bool = False) -> Decision:
    """What to send to a replica at ``theirs``.

    Args:
        theirs: the replica's position, ``ZERO`` if it has none.
        ours: the primary's side, None if it never had the database.
        following: the first file ``min_txid <= theirs.txid + 1 <= max_txid``, None if
            none is stored.
        resync: the replica asks for a snapshot whatever its position is.
    """
    if ours is None or ours.position.is_zero:
        return Decision(Send.NOTHING if theirs.is_zero else Send.UNKNOWN)
    if resync and not theirs.is_zero:
        return _whole(ours, Reason.ASKED)
    if theirs == ours.position:
        return Decision(Send.NOTHING)
    if theirs.txid > ours.position.txid:
        return _whole(ours, Reason.AHEAD)
    if theirs.txid == ours.position.txid:
        return _whole(ours, Reason.OTHER_HISTORY)
    if theirs.is_zero and ours.pages == 0:
        return Decision(Send.NOTHING)
    return _behind(theirs, ours, following)


def _behind(theirs: Position, ours: Ours, following: Next | None) -> Decision:
    if following is None or following.min_txid > theirs.txid + 1:
        return _whole(ours, Reason.NEW if theirs.is_zero else Reason.MISSING)
    continues = following.min_txid == theirs.txid + 1
    if continues and not theirs.is_zero and following.pre_apply != theirs.checksum:
        return _whole(ours, Reason.OTHER_HISTORY)
    if following.unwieldy and ours.pages:
        return _whole(ours, Reason.CHEAPER)
    return Decision(Send.TRANSACTIONS)


def _whole(ours: Ours, reason: Reason) -> Decision:
    if ours.pages == 0:
        return Decision(Send.DROP, reason)
    return Decision(Send.SNAPSHOT, reason)
