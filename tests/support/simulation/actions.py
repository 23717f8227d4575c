"""The hands of simulated electors: requests to the API server's double, questions to peers, roles.

The API server is ``support.leaseserver.Objects``: compare-and-swap and watch, compared with
the real one by ``tests/unit/election/test_contract.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from sqlitecluster.election import messages as m
from sqlitecluster.election.record import LeaseRecord
from support.leaseserver import Objects, Refused
from support.simulation.node import Node

if TYPE_CHECKING:
    from support.simulation.world import World

LEASE = ("leases", "ns", "c")


class _Watch:
    """What the server puts events into."""

    def __init__(self, told: Callable[[str, dict[str, Any]], None]) -> None:
        self._told = told

    def put_nowait(self, event: tuple[str, dict[str, Any]]) -> None:
        """An event of the watch."""
        self._told(*event)


class Actions:
    """Carries out what electors want."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects = Objects()
        self.frozen_until = 0.0
        self.cut_until: dict[int, float] = {}
        self.hand_offs = 0
        self._serial = 0
        watch = cast("asyncio.Queue[tuple[str, dict[str, Any]]]", _Watch(self._watched))
        self.objects.watchers[watch] = LEASE[:2]

    # -- the server --------------------------------------------------------------------------

    def create(self, epoch: int) -> None:
        """The operator makes the Lease (again)."""
        self._serial += 1
        notes = {"annotations": {"sqlitecluster.dev/epoch": str(epoch)}} if epoch else {}
        meta = {"name": "c", "uid": f"lease-{self._serial}", **notes}
        self.objects.create("leases", "ns", {"metadata": meta, "spec": {"leaseDurationSeconds": 12}})

    def lease(self) -> LeaseRecord | None:
        """As it is now."""
        found = self.objects.items.get(LEASE)
        return LeaseRecord.from_object(found) if found is not None else None

    def reaches(self, node: Node) -> bool:
        """Whether a request of a node arrives, or its answer does."""
        time = self.world.time
        if time < self.frozen_until or time < self.cut_until.get(node.index, 0.0):
            return False
        return self.world.rng.random() >= self.world.network.loss

    def _watched(self, kind: str, value: dict[str, Any]) -> None:
        record = LeaseRecord.from_object(value) if kind != "DELETED" else None
        for node in self.world.nodes:
            if node.alive and self.reaches(node) and self.world.rng.random() < 0.8:
                node.later(
                    self._delay(), lambda n=node: n.step(lambda now: m.LeaseRead(record, now, now, watched=True))
                )  # type: ignore[misc]

    def _delay(self) -> float:
        rng = self.world.rng
        return rng.uniform(0.001, 0.03) if rng.random() < 0.95 else rng.uniform(0.03, 0.9)

    def request(self, node: Node, record: LeaseRecord | None) -> None:
        """GET (None) or PUT; lost and late in both directions."""
        world, sent, answered = self.world, node.now(), [False]
        value = record.to_object() if record is not None else None

        def answer(event: Callable[[Any], m.Event]) -> None:
            if not answered[0]:
                answered[0] = True
                node.step(event)

        def arrive() -> None:
            found: LeaseRecord | None
            try:
                if value is None:
                    found = LeaseRecord.from_object(self.objects.get(*LEASE))
                else:
                    found = LeaseRecord.from_object(self.objects.put(*LEASE, value))
                    members, acks = len(found.promise.members), found.promise.acks
                    world.say(f"{node.name} writes the Lease: {found.holder} {found.epoch} {members} {acks}")
            except Refused:
                found = None
            if not self.reaches(node):
                return
            if value is None:
                node.later(self._delay(), lambda: answer(lambda now: m.LeaseRead(found, sent, now)))
            elif found is None:
                node.later(self._delay(), lambda: answer(m.LeaseConflict))
            else:
                node.later(self._delay(), lambda: answer(lambda now: m.LeasePut(found, sent, now)))

        node.later(1.0 / node.rate, lambda: answer(lambda now: m.LeaseFailed("no answer in time", sent, now)))
        if self.reaches(node):
            slow = world.rng.random() < 0.01
            world.after(world.rng.uniform(0.5, 20) if slow else self._delay(), arrive)

    # -- actions -----------------------------------------------------------------------------

    def act(self, node: Node, action: m.Action) -> None:
        """Carry one out."""
        match action:
            case m.ReadLease():
                self.request(node, None)
            case m.PutLease(record):
                self.request(node, record)
            case m.AskPeers(epoch) | m.FetchMissing(_, epoch):  # nothing can be fetched here
                self._ask(node, epoch)
            case m.Note(epoch):
                node.promise(epoch)
            case m.SetFence(deadline):
                node.set_fence(deadline)
                self.world.check_alone(node)
            case m.BecomePrimary(epoch):
                self.world.say(f"{node.name} becomes the primary of {epoch}")
                node.later(self.world.rng.uniform(0.001, 0.2), lambda: self._become(node, epoch))
            case m.Demote(reason):
                self.world.say(f"{node.name} is no primary any more: {reason}")
                node.primary.demote()
                node.unfollow()
            case m.Follow(pod):
                if not node.elector.is_primary:
                    node.follow(pod)
                    self._tell_newer(node, pod)
            case _:
                self._act_transfer(node, action)

    def _act_transfer(self, node: Node, action: m.Action) -> None:
        match action:
            case m.SetMembers(members, _degraded):
                node.primary.members(members)
            case m.Drain(pod, limit):
                self._drain(node, pod, limit)
            case m.Resume():
                node.primary.draining = False
            case m.TellTarget(pod, record):
                target = self.world.find(pod)
                if self.world.network.connects(node, target):
                    target.later(self._delay(), lambda: target.step(lambda now: m.HandOffReady(record, 5, 9, now)))
            case m.Released():
                self.world.restart(node, self.world.rng.uniform(0.5, 4), reborn=True)

    def _become(self, node: Node, epoch: int) -> None:
        if node.elector.is_primary and node.elector.epoch == epoch:
            node.primary.begin(epoch)

    def _ask(self, node: Node, epoch: int) -> None:
        """Peers answer after they have promised."""
        world, peers = self.world, []
        others = [other for other in world.nodes if other is not node]
        for other in others:
            if other.running_now and world.network.connects(node, other) and world.rng.random() >= world.network.loss:
                if epoch:
                    other.enter(lambda o=other: o.promise(epoch))  # type: ignore[misc]
                peers.append(other.state())
        pods = frozenset(f"{n.name}_uid{n.birth}" for n in world.nodes) if self.reaches(node) else frozenset()
        wait = self._delay() if len(peers) == len(others) else 1.0
        answer = tuple(peers)
        node.later(
            wait,
            lambda: node.step(lambda now: m.PeersAnswered(node.state(), answer, len(others), now, pods=pods)),
        )

    def _tell_newer(self, node: Node, pod: str) -> None:
        primary, epoch = self.world.find(pod), node.epochs.value
        if not self.world.network.connects(node, primary) or not primary.running_now:
            return
        if primary.primary.epoch < epoch and primary.elector.is_primary:
            primary.step(lambda now: m.NewerEpoch(epoch, now))

    def _drain(self, node: Node, pod: str, limit: float) -> None:
        node.primary.draining = True
        until, generation = self.world.time + limit, node.generation

        def look() -> None:
            if node.generation != generation or not node.primary.draining or not node.elector.is_primary:
                return
            if node.primary.is_idle and (not pod or node.primary.has_acknowledged(pod)):
                node.step(m.Drained)
            elif self.world.time > until:
                node.step(lambda now: m.NotDrained("the target did not acknowledge", now))
            else:
                node.later(0.02, look)

        node.later(0.01, look)

    def data_path(self, node: Node) -> None:
        """What the primary's data path says about volumes."""
        if not self.world.acks or not node.elector.is_primary or not node.primary.active:
            return
        table = node.primary.table
        everybody = frozenset(n.store.node_id for n in self.world.nodes if n.alive)
        record = node.elector.seen.record
        members = record.promise.members if record is not None else frozenset()
        volumes = frozenset(n.store.node_id for n in self.world.nodes)
        spare = frozenset(store for store in members if table.enough_without(store))
        event = (table.in_sync(), spare, everybody, members - volumes)
        node.step(lambda now: m.DataPath(*event, now))
