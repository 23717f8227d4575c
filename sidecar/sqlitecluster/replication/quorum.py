"""Which replicas hold a transaction, and whether that are enough. Pure.

``replicator.quorum`` feeds it with connections and acknowledgements and asks after each.

Rules:
    1. An acknowledgement counts only on this history: a replica counts for a database once
       it acknowledged a position that this primary itself had (TXID and checksum), and from
       then on for everything up to its newest acknowledgement of the same stream.
    2. Only members count; without a set of members everybody who is connected does.
    3. Of one zone at most one acknowledgement counts, none of the primary's own zone. A
       node without a zone is a zone of its own.
    4. A stream that ended takes its acknowledgements with it: what waits now must be
       acknowledged again. What was committed stays so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlitecluster.replication.position import ZERO, Position


@dataclass(slots=True)
class _Replica:
    zone: str
    acked: dict[str, Position] = field(default_factory=dict)
    trusted: set[str] = field(default_factory=set)
    """Databases of which it has our history."""


class AckTable:
    """The acknowledgements of one primary in one epoch."""

    def __init__(self, acks: int, zone: str = "") -> None:
        self.acks = acks
        """How many replicas must hold a transaction."""
        self.zone = zone
        """The primary's own."""
        self._members: frozenset[int] | None = None
        self._replicas: dict[int, _Replica] = {}
        self._expected: dict[str, Position] = {}

    @property
    def expected(self) -> Mapping[str, Position]:
        """Name → the newest position of each database."""
        return self._expected

    @property
    def connected(self) -> frozenset[int]:
        """Replicas with a stream."""
        return frozenset(self._replicas)

    def set_members(self, members: frozenset[int] | None) -> None:
        """Who counts; None: everybody who is connected."""
        self._members = members

    def join(self, replica: int, zone: str = "") -> None:
        """A stream began: nothing is acknowledged in it yet."""
        self._replicas[replica] = _Replica(zone)

    def set_zone(self, replica: int, zone: str) -> None:
        """A replica stands somewhere else than it was thought to."""
        if replica in self._replicas:
            self._replicas[replica].zone = zone

    def leave(self, replica: int) -> None:
        """A stream ended."""
        self._replicas.pop(replica, None)

    def expect(self, name: str, position: Position) -> None:
        """The newest position of a database: who acknowledges it holds everything."""
        self._expected[name] = position
        for replica in self._replicas.values():
            if replica.acked.get(name) == position:
                replica.trusted.add(name)

    def note(self, replica: int, name: str, position: Position) -> None:
        """A replica says that it holds everything up to a position on disk."""
        found = self._replicas.get(replica)
        if found is None:
            return
        found.acked[name] = position
        if position == self._expected.get(name, ZERO):
            found.trusted.add(name)

    def holds(self, replica: int, name: str) -> bool:
        """Whether a replica has acknowledged the newest position of a database."""
        found, expected = self._replicas.get(replica), self._expected.get(name)
        if found is None or expected is None:
            return False
        have = found.acked.get(name, ZERO)
        return have == expected or (name in found.trusted and have.txid > expected.txid)

    def is_committed(self, name: str) -> bool:
        """Whether enough replicas hold the newest position of a database."""
        if self.acks <= 0:
            return True
        return self._enough({replica for replica in self._replicas if self.holds(replica, name)})

    @property
    def can_commit(self) -> bool:
        """Whether enough replicas are connected."""
        return self.acks <= 0 or self._enough(set(self._replicas))

    def in_sync(self) -> frozenset[int]:
        """Replicas, members or not, that hold the newest position of every database."""
        return frozenset(r for r in self._replicas if all(self.holds(r, name) for name in self._expected))

    def counted(self, replicas: frozenset[int]) -> frozenset[int]:
        """Those of them that count."""
        return replicas if self._members is None else replicas & self._members

    def enough_without(self, replica: int) -> bool:
        """Whether everything stays held by enough members when this one is none any more."""
        others = self.in_sync() - {replica}
        return self.acks <= 0 or self._enough(set(others))

    def _enough(self, replicas: set[int]) -> bool:
        zones: set[str | int] = set()
        for number in replicas:
            if self._members is not None and number not in self._members:
                continue
            zone = self._replicas[number].zone
            if not zone:
                zones.add(number)
            elif zone != self.zone:
                zones.add(zone)
        return len(zones) >= self.acks
