"""One elector under a test's hand: a clock, a Lease, and short words for events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import SECOND, Instant
from sqlitecluster.election.machine import Elector, ElectorSettings
from sqlitecluster.election.record import HandOff, Holder, LeaseRecord

A = TypeVar("A", bound=m.Action)
ME, OTHER = Holder("c-0", "u0"), Holder("c-1", "u1")
START = Instant(1000 * SECOND, 1_780_000_000 * SECOND)


def lease(holder: Holder | str = "", epoch: int = 0, **more: Any) -> LeaseRecord:
    """A Lease as the server would give it."""
    values: dict[str, Any] = {"resource_version": "10", "uid": "lease-1", "duration_s": 12}
    if holder:
        values |= {"renew_real_ns": START.real_ns - SECOND, "cluster_id": "LFSC", "advertise": "10.0.0.1:20202"}
    return LeaseRecord(holder=str(holder), epoch=epoch, **(values | more))


def peer(pod: str = "c-1", txid: int = 0, epoch: int = 0, **more: Any) -> m.NodeState:
    """A peer's answer."""
    positions = {"db": (epoch or 1, txid)} if txid else {}
    values: dict[str, Any] = {"uid": f"u{pod[-1]}", "cluster_id": "LFSC", "address": f"{pod}:20202"}
    return m.NodeState(pod=pod, epoch=epoch, positions=positions, **(values | more))


class Bench:
    """Drives one elector."""

    def __init__(self, known_epoch: int = 0, **settings: Any) -> None:
        values: dict[str, Any] = {"me": ME, "times": LeaseTimes(), "address": "10.0.0.0:20202"}
        self.elector = Elector(ElectorSettings(**(values | settings)), known_epoch)
        self.now = START
        self.version = 100
        self.actions: list[m.Action] = []
        self.local = peer(ME.pod, uid=ME.uid)

    def step(self, event: m.Event) -> list[m.Action]:
        """Hand an event over."""
        self.actions = self.elector.step(event)
        return self.actions

    def wait(self, seconds: float) -> Bench:
        """Time passes, unseen."""
        self.now = self.now.plus(int(seconds * SECOND))
        return self

    def tick(self, seconds: float = 0.0) -> list[m.Action]:
        """Time passes, and the elector is told."""
        self.wait(seconds)
        return self.step(m.Tick(self.now))

    def read(self, record: LeaseRecord | None) -> list[m.Action]:
        """The answer to a GET."""
        return self.step(m.LeaseRead(record, self.now, self.now))

    def sent(self) -> LeaseRecord:
        """The record of the newest PUT."""
        return self.one(m.PutLease).record

    def stored(self, record: LeaseRecord) -> LeaseRecord:
        """What the server makes of a PUT."""
        self.version += 1
        return replace(record, resource_version=str(self.version))

    def accept(self, record: LeaseRecord, took_s: float = 0.0, **changed: Any) -> list[m.Action]:
        """A PUT is answered after a while."""
        sent = self.now
        self.wait(took_s)
        return self.step(m.LeasePut(replace(self.stored(record), **changed), sent, self.now))

    def peers(self, *peers: m.NodeState, known: int | None = None) -> list[m.Action]:
        """Peers answer."""
        return self.step(m.PeersAnswered(self.local, peers, len(peers) if known is None else known, self.now))

    def one(self, kind: type[A]) -> A:
        """The only action of a kind among the newest."""
        found = [action for action in self.actions if isinstance(action, kind)]
        assert len(found) == 1, self.actions
        return found[0]

    def has(self, kind: type[m.Action]) -> bool:
        """Whether the newest actions have one of a kind."""
        return any(isinstance(action, kind) for action in self.actions)

    def lead(self, epoch: int = 1) -> LeaseRecord:
        """Become the primary; returns the Lease."""
        self.tick()
        self.read(lease("", epoch - 1, released=epoch > 1))
        self.peers()
        record = self.sent()
        self.accept(record)
        self.step(m.Opened(record.epoch, self.now))
        return self.current

    def renew(self, seconds: float = 1.0, **changed: Any) -> list[m.Action]:
        """The next renewal goes through; ``changed`` is what others wrote into the Lease."""
        self.tick(seconds)
        return self.accept(self.sent(), **changed)

    @property
    def current(self) -> LeaseRecord:
        """The Lease as the elector knows it."""
        record = self.elector.seen.record
        assert record is not None
        return record

    def draining(self, request: HandOff, *peers: m.NodeState) -> None:
        """Up to the moment at which programs wait."""
        self.renew(handoff=request)
        self.peers(*peers)
        self.accept(self.sent())

    def left_s(self) -> float:
        """Seconds for which the fence is open."""
        return self.elector.fence_ms(self.now) / 1000


def kinds(actions: Sequence[m.Action]) -> list[str]:
    """Names of actions."""
    return [type(action).__name__ for action in actions]
