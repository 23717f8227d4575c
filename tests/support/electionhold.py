"""``HoldIfPeersAgree`` in the simulated world: pods are listed, pledges asked for, given, stored and kept.

A pledge is given in memory, then stored, then answered, as in ``replicator.election_hold``;
a node that was restarted reads what was stored, by the clock of its boot or as another boot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlitecluster.election import messages as m
from sqlitecluster.election.holding import Pledge

if TYPE_CHECKING:
    from support.electionnodes import Node
    from support.electionworld import World

LIST_S = 5.0
FAULTS = ("siege",) * 8 + ("api-some", "api-freeze", "split")


@dataclass(frozen=True)
class Stored:
    """A pledge on a node's disk, and the boot in which it was written."""

    pledge: Pledge
    boot: int


def read(node: Node) -> Pledge | None:
    """What a new process makes of it."""
    if node.stored is None or node.stored.boot == node.boot:
        return node.stored.pledge if node.stored is not None else None
    pledge = node.stored.pledge
    return replace(pledge, until_ns=node.now().boot_ns + pledge.length_ns)


def list_pods(world: World, node: Node) -> None:
    """Every few seconds, while the API answers."""
    if world.reaches_api(node):
        others = frozenset(other.id for other in world.nodes if other is not node and other.name in world.listed)
        node.step(lambda now: m.OthersKnown(others, now))
    world.after(LIST_S * world.rng.uniform(0.5, 1.5), lambda: list_pods(world, node))


def ask(world: World, node: Node, question: m.AskPledges) -> None:
    """Each of the named pods by itself."""
    for who in question.who:
        Asked(world, node, question, who).send()


class Asked:
    """One question under way."""

    def __init__(self, world: World, node: Node, question: m.AskPledges, who: str) -> None:
        self.world, self.node, self.question, self.who = world, node, question, who
        self.sent, self.generation, self.holder = node.now(), node.generation, node.id
        self.done = False
        self.other = next((n for n in world.nodes if n.id == who), None)

    def send(self) -> None:
        self.world.after(1.0 / self.node.rate, lambda: self.end("it does not answer"))
        if self.world.rng.random() >= self.world.loss:
            self.world.after(self.world.delay(), self.arrive)

    def end(self, why: str) -> None:
        if not self.done and self.node.generation == self.generation:
            self.done = True
            self.node.step(lambda now: m.PledgeAnswered(self.who, self.question.epoch, self.sent, now, why))

    def arrive(self) -> None:
        """Given in memory, then stored, then answered; what comes late is answered late."""
        world, other = self.world, self.other
        if other is None or not world.linked(self.node, other):
            return
        if world.time < other.paused_until:
            world.at(other.paused_until, self.arrive)
            return
        other.elector.promised(other.durable)
        given = other.elector.asked_to_pledge(self.holder, self.question.epoch, self.question.length_ns, other.now())
        process = other.generation
        world.after(world.rng.uniform(0.001, 0.1), lambda: self.answer(other, given, process))

    def answer(self, other: Node, given: Pledge | str, process: int) -> None:
        if other.generation != process or not other.alive:
            return
        if isinstance(given, Pledge):
            other.stored = Stored(other.elector.pledge or given, other.boot)
        if self.world.linked(self.node, other):
            self.world.after(self.world.delay(), lambda: self.end(given if isinstance(given, str) else ""))


def strike(world: World, kind: str, node: Node, until: float) -> None:
    """Part of the nodes lose the API, or any two lose each other, or both and more after each other."""
    if kind == "siege":
        siege(world, node)
    elif kind == "api-some":
        cut_api(world, node, until)
    else:
        split(world, until)


def siege(world: World, node: Node) -> None:
    """A node without the API for long enough that its Lease runs out, and more goes wrong then."""
    length = world.rng.uniform(20, 45)
    cut_api(world, node, world.time + length)
    if len(world.nodes) < 6 and world.rng.random() < 0.4:
        world.after(world.rng.uniform(1, length / 2), lambda: newcomer(world))
    others = [other for other in world.nodes if other is not node]
    for _ in range(world.rng.choice((1, 1, 2, 3))):
        delay, lasts = world.rng.uniform(5, length), world.rng.uniform(3, 20)
        other = world.rng.choice(others)
        match world.rng.choice(("split", "split", "alone", "crash", "reborn")):
            case "split":
                world.after(delay, lambda s=lasts: split(world, world.time + s))  # type: ignore[misc]
            case "alone":
                world.after(delay, lambda s=lasts: alone(world, node, world.time + s))  # type: ignore[misc]
            case "crash":
                world.after(delay, lambda o=other: crash(world, o, reborn=False))  # type: ignore[misc]
            case _:
                world.after(delay, lambda o=other: crash(world, o, reborn=True))  # type: ignore[misc]


def is_behind(world: World) -> bool:
    """The Lease is gone or was set back. With a pod that knows of nothing docs/election.md does not cover that."""
    return world.store.epoch() < world.newest


def has_newcomer(world: World) -> bool:
    """Whether a pod has heard of no epoch yet."""
    return any(node.durable == 0 for node in world.nodes)


def newcomer(world: World) -> None:
    """A pod that the primary may not have heard of."""
    if is_behind(world):
        world.after(LIST_S, lambda: newcomer(world))
        return
    node = type(world.nodes[0])(world, len(world.nodes))
    world.nodes.append(node)
    world.listed.add(node.name)
    world.welcome(node)
    world.say(f"{node.name} is new")
    world.tick(node)
    list_pods(world, node)


def crash(world: World, node: Node, *, reborn: bool) -> None:
    if node.alive:
        world.crash(node, world.rng.uniform(0.1, 3), reborn=reborn)


def cut_api(world: World, node: Node, until: float) -> None:
    share = world.rng.choice((0.0, 0.4, 0.8))
    for other in world.nodes:
        if other is node or world.rng.random() < share:
            world.cut_api[other.name] = max(until, world.cut_api.get(other.name, 0))
    world.api_trouble = max(world.api_trouble, until + 15)


def alone(world: World, node: Node, until: float) -> None:
    for other in world.nodes:
        world.cut_links[min(node.name, other.name), max(node.name, other.name)] = until


def split(world: World, until: float) -> None:
    """Two sides, or any two."""
    sides = {other.name: world.rng.random() < 0.5 for other in world.nodes}
    clean = world.rng.random() < 0.5
    for i, one in enumerate(world.nodes):
        for two in world.nodes[i + 1 :]:
            if (sides[one.name] != sides[two.name]) if clean else world.rng.random() < 0.5:
                world.cut_links[min(one.name, two.name), max(one.name, two.name)] = until
