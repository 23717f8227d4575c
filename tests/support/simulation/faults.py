"""What goes wrong, chosen by the seed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from sqlitecluster.election import messages as m
from sqlitecluster.election.record import HANDOFF, HandOff
from support.simulation.actions import LEASE
from support.simulation.kernel import SECOND

if TYPE_CHECKING:
    from support.simulation.node import Node
    from support.simulation.world import World

KINDS = (
    "kill", "kill", "kill", "power", "power", "pause", "pause", "partition", "partition", "one-way", "slow",
    "cut-streams", "api-cut", "api-freeze", "lossy", "handoff", "handoff", "stop", "jump", "volume",
)  # fmt: skip


def strike(world: World) -> None:
    """One fault."""
    rng = world.rng
    kind = rng.choice(world.kinds)
    node = rng.choice(world.nodes)
    primary = next((n for n in world.nodes if n.elector.is_primary), node)
    if rng.random() < 0.6:
        node = primary
    length = rng.choice((rng.uniform(0.1, 3), rng.uniform(3, 20)))
    world.say(f"FAULT {kind} {node.name} {length:.1f} s")
    world.count(f"fault {kind}")
    if kind in ("partition", "one-way", "slow", "cut-streams", "api-cut", "api-freeze", "lossy"):
        _network(world, kind, node, length)
    elif kind in ("handoff", "jump"):
        _requests(world, kind, node)
    elif node.alive:
        _process(world, kind, node, length)


def _process(world: World, kind: str, node: Node, length: float) -> None:
    if kind == "pause":
        node.paused_until = max(node.paused_until, world.time + length)
        node.later(length, lambda: world.write_at(node))  # its programs wake up with it, perhaps before it looks
    elif kind == "stop":
        node.step(m.Terminate)
    elif kind == "volume":
        others = [n for n in world.nodes if n is not node]
        healthy = all(n.running_now and not n.wants_snapshot and _caught_up(n) for n in others)
        if healthy and world.time >= world.next_loss:  # one loss at a time is what acknowledgements survive
            world.next_loss = world.time + 60
            world.restart(node, length, reborn=True, wipe=True)
    else:
        world.restart(node, length, reborn=world.rng.random() < 0.3, power=kind == "power")


def _caught_up(node: Node) -> bool:
    newest = max(n.database.position.txid for n in node.world.nodes if n.alive)
    return node.database.position.txid == newest


def _network(world: World, kind: str, node: Node, length: float) -> None:
    rng, until = world.rng, world.time + length
    if kind == "partition":
        _isolate(world, node, until)
    elif kind == "one-way":
        other = rng.choice([n for n in world.nodes if n is not node])
        pair = (node, other) if rng.random() < 0.5 else (other, node)
        world.network.cut(*pair, until)
    elif kind in ("slow", "cut-streams"):
        _hamper(world, kind, node, until)
    elif kind == "api-cut":
        world.actions.cut_until[node.index] = until
    elif kind == "api-freeze":
        world.actions.frozen_until = until
    else:
        world.network.loss = rng.uniform(0.05, 0.4)
        world.at(until, lambda: setattr(world.network, "loss", 0.0))


def _isolate(world: World, node: Node, until: float) -> None:
    for other in world.nodes:
        if other is not node:
            world.network.cut(node, other, until)
            world.network.cut(other, node, until)
    if world.rng.random() < 0.5:
        world.actions.cut_until[node.index] = until


def _hamper(world: World, kind: str, node: Node, until: float) -> None:
    if kind == "cut-streams":
        for stream in sorted(node.streams, key=lambda s: s.client_node.index):
            stream.end()
        return
    for other in world.nodes:
        world.network.slow(node, other, until)


def _requests(world: World, kind: str, node: Node) -> None:
    if kind == "jump":
        node.real_at += world.rng.choice((-3600, -5, 5, 3600)) * SECOND
        return
    found = world.actions.objects.items.get(LEASE)
    if found is None:
        return
    world.actions.hand_offs += 1
    value = copy.deepcopy(found)
    to = world.rng.choice(["*", *(n.name for n in world.nodes)])
    notes = value["metadata"].setdefault("annotations", {})
    notes[HANDOFF] = HandOff(f"h{world.actions.hand_offs}", to, world.rng.choice(("handoff", "demote"))).to_json()
    world.actions.objects.put(*LEASE, value)
