"""How a primary changes what it promises: one step at a time, each safe by itself. Pure.

``promising.Promising`` asks after each ``DataPath`` and writes the answer into the Lease.

Rules:
    1. What counts for the data path is what *every* Lease says that may be there now: while
       a change is under way that is the stricter of both (``in_force``).
    2. A volume is added when it has acknowledged everything. Adding is always safe: what was
       on n + 1 of V members is on n + 1 of V + 1.
    3. A volume is removed when no pod has it any more, and all is still acknowledged by n
       without it; its acknowledgements stop to count before the Lease says so.
    4. Acknowledgements are promised once so many members hold everything. Until then, with
       acknowledgements configured, no commit is answered.
    5. A take-over keeps the promise, lowered to what its node is configured for.
    6. Without a promise members mean nothing, and begin with the primary alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlitecluster.election.instants import Instant
from sqlitecluster.election.messages import DataPath
from sqlitecluster.election.promise import Promise


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this node is configured for."""

    store: int
    acks: int = 0
    """0: asynchronous."""
    preferred: bool = False
    """``durability: Preferred``."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A stricter promise that the data path keeps already, before it is written."""

    promise: Promise
    at: Instant


def inherited(promise: Promise, wanted: Wanted, *, loss: bool = False) -> Promise:
    """What a node promises that takes the Lease; ``loss``: what was promised before may be lost."""
    if wanted.acks <= 0 or not wanted.store:
        return Promise()
    alone = frozenset({wanted.store})
    if loss or promise.spoiled or not promise.is_given:
        return Promise(members=alone, store=wanted.store)
    acks = min(promise.acks, wanted.acks)
    return Promise(members=promise.members | alone, acks=acks, degraded_ns=promise.degraded_ns, store=wanted.store)


def offered(promise: Promise, store: int) -> Promise:
    """What stands in a Lease that is handed to a volume that has acknowledged everything."""
    members = promise.members | {store} if promise.members and store else promise.members
    return replace(promise, members=members, store=store)


def next_promise(promise: Promise, wanted: Wanted, path: DataPath, *, short: bool, real_ns: int) -> Promise | None:
    """The next change, or None."""
    if wanted.acks <= 0 or not wanted.store:
        return None
    enough = len((path.in_sync & promise.members) - {wanted.store}) >= wanted.acks
    if wanted.preferred and short and not path.enough and promise.degraded_ns is None:
        return replace(promise, degraded_ns=real_ns // 1000 * 1000)
    if new := sorted((path.in_sync & path.pods) - promise.members):
        return replace(promise, members=promise.members | {new[0]})
    if enough and promise.acks < wanted.acks:
        return replace(promise, acks=wanted.acks)
    if path.enough and promise.degraded_ns is not None:
        return replace(promise, degraded_ns=None)
    return _without(promise, wanted, path)


def is_stricter(before: Promise, after: Promise) -> bool:
    """Whether less counts after a change."""
    return bool(before.members - after.members) or (before.degraded_ns is not None and after.degraded_ns is None)


def _without(promise: Promise, wanted: Wanted, path: DataPath) -> Promise | None:
    for gone in sorted(promise.members & path.gone - {wanted.store}):
        free = not promise.is_given or (gone in path.spare and len(promise.members) > promise.acks + 1)
        if free:
            return replace(promise, members=promise.members - {gone})
    return None


def in_force(possible: Sequence[Promise], wanted: Wanted) -> tuple[frozenset[int], bool]:
    """Members whose acknowledgements count, and whether commits may go on with fewer."""
    degraded = wanted.preferred and all(promise.degraded_ns is not None for promise in possible)
    if not all(promise.is_given for promise in possible):
        return frozenset({wanted.store}), degraded
    return frozenset.intersection(*(promise.members for promise in possible)), degraded
