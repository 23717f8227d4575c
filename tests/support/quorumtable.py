"""How many losses a cluster survives: counted by trying all of them against the rule for candidates.

``docs/election.md`` has the table that ``table`` makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from sqlitecluster.election import messages as m
from sqlitecluster.election.promise import Promise
from sqlitecluster.election.quorum import obstacle
from sqlitecluster.election.record import LeaseRecord
from support.electionbench import START

BEHIND, AHEAD = {"db": (1, 1)}, {"db": (1, 2)}
EPOCH = 3
REPLICAS = range(1, 6)


@dataclass(frozen=True)
class Survived:
    """Of so many replicas and acknowledgements."""

    replicas: int
    acks: int
    take_over: int
    """Any so many nodes lost at once: another one takes over, and nothing is lost."""
    writing: int
    """Any so many replicas lost: the primary still gets its acknowledgements."""
    by_itself: int
    """Any so many nodes lost: writing goes on by itself."""


def node(store: int, holders: frozenset[int]) -> m.NodeState:
    """A member's promise; ``holders`` have the acknowledged transaction."""
    positions = AHEAD if store in holders else BEHIND
    return m.NodeState(pod=f"c-{store}", uid=f"u{store}", epoch=EPOCH + 1, store=store, positions=positions)


def may_take(record: LeaseRecord, me: int, alive: frozenset[int], holders: frozenset[int]) -> bool:
    """Whether one of the living takes over."""
    peers = tuple(node(store, holders) for store in sorted(alive - {me}))
    answer = m.PeersAnswered(node(me, holders), peers, len(record.promise.members) - 1, START, asked=EPOCH + 1)
    return not obstacle(record, answer, record.promise.acks)


def losses(replicas: int, acks: int) -> Iterator[tuple[frozenset[int], frozenset[int], LeaseRecord]]:
    """Every way to place one acknowledged transaction and to lose the primary (store 1) with others."""
    members = frozenset(range(1, replicas + 2))
    promise = Promise(members=members, acks=acks, store=1)
    record = LeaseRecord(holder="c-1_u1", epoch=EPOCH, renew_real_ns=START.real_ns, promise=promise)
    for holding in combinations(range(2, replicas + 2), acks):
        for count in range(replicas):
            for lost in combinations(range(2, replicas + 2), count):
                yield frozenset({1, *holding}), members - {1, *lost}, record


def survived(replicas: int, acks: int) -> Survived:
    """By trying every case."""
    worst = replicas + 1
    for holders, alive, record in losses(replicas, acks):
        takers = [me for me in sorted(alive) if may_take(record, me, alive, holders)]
        if any(me not in holders for me in takers):
            raise AssertionError(f"{takers} may take over, only {sorted(holders)} have the transaction")
        if not takers:
            worst = min(worst, replicas + 1 - len(alive))
    take_over = min(worst - 1, replicas)
    writing = max(lost for lost in range(replicas + 1) if replicas - lost >= acks)
    return Survived(replicas, acks, take_over, writing, min(take_over, writing))


def table() -> str:
    """For the document."""
    columns = ("replicas M", "acknowledgements n", "members V", "must answer", "take-over without loss: nodes lost")
    columns += ("writes go on: replicas lost", "both by itself: any lost")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for replicas in REPLICAS:
        for acks in range(1, replicas + 1):
            found = survived(replicas, acks)
            members = replicas + 1
            needed = Promise(members=frozenset(range(1, members + 1)), acks=acks).needed
            cells = (replicas, acks, members, needed, found.take_over, found.writing, found.by_itself)
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)
