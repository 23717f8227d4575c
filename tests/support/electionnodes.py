"""What stands in a simulated election: the Lease store, requests under way, nodes with their clocks.

``electionsim`` puts them into a world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import NEVER, Instant
from sqlitecluster.election.machine import Elector, ElectorSettings
from sqlitecluster.election.membership import Wanted
from sqlitecluster.election.record import Holder, LeaseRecord
from support import electionhold

if TYPE_CHECKING:
    from support.electionworld import World

SECOND = 1_000_000_000
FAULTS_S = 90.0
QUIET_S = 50.0
TICK_S = 0.3
DAY = 1_780_000_000 * SECOND
LOOSE = LeaseTimes()
"""The defaults, with clocks that differ by half."""
TIGHT = LeaseTimes(duration_s=8, renew_deadline_s=8, margin_ms=0)
"""No reserve at all, with clocks of equal speed: every moment counted from the wrong end shows."""


@dataclass
class Outcome:
    """One run."""

    seed: int
    violations: list[str] = field(default_factory=list)
    openings: int = 0
    hand_offs: int = 0
    held_s: float = 0.0
    """For how long writing went on by agreement alone."""
    takeovers_s: list[float] = field(default_factory=list)
    """From the loss of the primary to the next opening, faults of the API aside."""
    member_changes: int = 0
    losses_accepted: int = 0
    acknowledged: int = 0
    """Commits that had their acknowledgements (with quorum)."""
    trace: list[str] = field(default_factory=list)


class Store:
    """The API server's one Lease."""

    def __init__(self) -> None:
        self.version = 100
        self.duration_s = 12
        self.serial = 1
        self.value: dict[str, Any] | None = None
        self.history: list[tuple[float, dict[str, Any]]] = []

    def create(self, epoch: int, now: float) -> None:
        meta: dict[str, Any] = {"name": "c", "uid": f"u{self.serial}"}
        if epoch:
            meta["annotations"] = {"sqlitecluster.dev/epoch": str(epoch)}
        self.serial += 1
        self.write({"metadata": meta, "spec": {"leaseDurationSeconds": self.duration_s}}, now)

    def write(self, value: dict[str, Any], now: float) -> dict[str, Any]:
        """Values are never changed once they are here."""
        self.version += 1
        value = {**value, "metadata": {**value["metadata"], "resourceVersion": str(self.version)}}
        self.value = value
        self.history.append((now, value))
        return value

    def put(self, value: dict[str, Any], now: float) -> dict[str, Any] | None:
        """None: conflict, or gone."""
        have = self.value
        if have is None or have["metadata"]["resourceVersion"] != value["metadata"]["resourceVersion"]:
            return None
        if have["metadata"]["uid"] != value["metadata"].get("uid"):
            return None
        return self.write(value, now)

    def epoch(self) -> int:
        return LeaseRecord.from_object(self.value).epoch if self.value else 0


class Node:
    """A pod: its clocks, its data, its elector."""

    def __init__(self, world: World, index: int) -> None:
        rng = world.rng
        self.world = world
        self.name = f"c-{index}"
        self.birth = 0
        self.rate = 1.0 if world.times is TIGHT else rng.uniform(0.8, 1.25)
        self.boot_at = rng.randrange(1, 10_000) * SECOND
        self.real_at = DAY + rng.randrange(-5, 5) * SECOND
        self.alive = True
        self.paused_until = 0.0
        self.generation = 0
        self.durable = 0
        self.data: tuple[int, int] = (0, 0)
        self.belongs = False
        self.accepting = False
        self.draining = False
        self.fence = NEVER
        self.follows = ""
        self.store = 0
        self.boot = 0
        self.stored: electionhold.Stored | None = None
        self.start(0)

    def start(self, known: int) -> None:
        self.generation += 1
        settings = ElectorSettings(
            me=Holder(self.name, f"uid{self.birth}"),
            times=self.world.times,
            address=f"{self.name}:20202",
            switchover_timeout_s=20.0,
            hold=self.world.hold,
            wanted=Wanted(self.store, self.world.acks, self.world.preferred),
        )
        self.elector = Elector(settings, known)
        self.elector.pledge = electionhold.read(self)
        self.follows = ""

    @property
    def id(self) -> str:
        """As Leases name it."""
        return f"{self.name}_uid{self.birth}"

    def now(self) -> Instant:
        elapsed = int(self.world.time * SECOND * self.rate)
        return Instant(self.boot_at + elapsed, self.real_at + elapsed)

    @property
    def is_open(self) -> bool:
        now = self.now()
        return self.accepting and not self.draining and self.fence != NEVER and not now.passed(self.fence)

    def state(self) -> m.NodeState:
        pledge = self.elector.pledge
        return m.NodeState(
            pod=self.name,
            uid=f"uid{self.birth}",
            epoch=self.durable,
            cluster_id="LFSC" if self.belongs else "",
            positions={"db": self.data} if self.data[1] else {},
            fence_ms=self.elector.fence_ms(self.now()),
            pledged_to=pledge.holder if pledge else "",
            pledged_ms=-(-pledge.left_ns(self.now()) // 1_000_000) if pledge else 0,
            address=f"{self.name}:20202",
            store=self.store,
        )

    def step(self, event: Callable[[Instant], m.Event]) -> None:
        """Hand an event over, now or when the pause is over; lost when the process is another one by then."""
        world, generation = self.world, self.generation
        if not self.alive:
            return
        if world.time < self.paused_until:
            world.at(self.paused_until, lambda: self.step(event) if self.generation == generation else None)
            return
        self.elector.promised(self.durable)
        for action in self.elector.step(event(self.now())):
            world.act(self, action)

    def later(self, delay: float, event: Callable[[Instant], m.Event]) -> None:
        generation = self.generation
        self.world.after(delay, lambda: self.step(event) if self.generation == generation else None)


@dataclass
class Request:
    """One request for the Lease under way."""

    node: Node
    value: dict[str, Any] | None
    sent: Instant
    generation: int
    done: bool = False

    def give_up(self) -> None:
        self._end(lambda now: m.LeaseFailed("no answer in time", self.sent, now))

    def answer(self, result: LeaseRecord | None) -> None:
        if self.value is None:
            self._end(lambda now: m.LeaseRead(result, self.sent, now))
        elif result is None:
            self._end(m.LeaseConflict)
        else:
            self._end(lambda now: m.LeasePut(result, self.sent, now))

    def _end(self, event: Callable[[Instant], m.Event]) -> None:
        if not self.done and self.node.generation == self.generation:
            self.done = True
            self.node.step(event)
