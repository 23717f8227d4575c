"""Electors in a simulated world: clocks of different speed, a lossy API, pauses, restarts.

One seed is one deterministic run: ``simulate(seed)`` returns what was violated and some
figures. Real time does not pass, so thousands of seeds take seconds.

Checked in every run:
    1. Never are two nodes open for writes at the same true instant.
    2. Epochs of primaries strictly increase.
    3. A hand-off loses nothing that was acknowledged, and an id is begun once.
    4. When the faults end, one node is open and stays so.
"""

from __future__ import annotations

import copy

from sqlitecluster.election import messages as m
from sqlitecluster.election.record import HANDOFF, HandOff, LeaseRecord
from support import electionhold
from support.electionnodes import FAULTS_S, SECOND, Node, Outcome
from support.electionworld import World

FAULTS = (
    "pause",
    "pause",
    "api-cut",
    "crash",
    "reborn",
    "soft",
    "partition",
    "api-cut",
    "api-freeze",
    "delete",
    "set-back",
    "cleared",
    "handoff",
    "demote",
    "stop",
    "jump",
    "lossy",
)


class Troubled(World):
    """A world in which things go wrong for a while."""

    def kinds(self) -> tuple[str, ...]:
        """What can go wrong here."""
        return (*FAULTS, *electionhold.FAULTS, *electionhold.FAULTS) if self.hold else FAULTS

    def fault(self) -> None:
        if self.time > FAULTS_S - 30:
            return
        kind = self.rng.choice(self.kinds())
        node = next((n for n in self.nodes if n.elector.is_primary), self.rng.choice(self.nodes))
        if self.rng.random() < 0.3:
            node = self.rng.choice(self.nodes)
        length = self.rng.choice((self.rng.uniform(0.1, 3), self.rng.uniform(3, 25)))
        self.say(f"FAULT {kind} {node.name} {length:.1f} s")
        self.strike(kind, node, length)
        self.after(self.rng.choice((self.rng.uniform(0.05, 2), self.rng.uniform(5, 25))), self.fault)

    def strike(self, kind: str, node: Node, length: float) -> None:
        until = self.time + length
        if kind in ("pause", "crash", "reborn") and node.is_open and length > 14:
            self.lost_at = self.time
        if kind in ("delete", "set-back", "cleared", "handoff", "demote"):
            self.strike_lease(kind)
        elif kind in ("partition", "api-cut", "api-freeze", "lossy", "api-some", "split", "siege"):
            self.strike_network(kind, node, until)
        elif kind == "jump":
            node.real_at += self.rng.choice((-3600, -5, 5, 3600)) * SECOND
        elif node.alive:
            self.strike_process(kind, node, length)

    def strike_lease(self, kind: str) -> None:
        if kind in ("handoff", "demote"):
            self.hand_off(kind)
        elif self.store.value is not None:
            self.api_trouble = self.time + 30
            self.tamper(kind)

    def strike_network(self, kind: str, node: Node, until: float) -> None:
        if kind in ("api-some", "split", "siege"):
            electionhold.strike(self, kind, node, until)
        elif kind == "partition":
            for other in self.nodes:
                self.cut_links[min(node.name, other.name), max(node.name, other.name)] = until
            if self.rng.random() < 0.5:
                self.cut_api[node.name] = until
        elif kind == "api-cut":
            self.cut_api[node.name], self.api_trouble = until, until + 15
        elif kind == "api-freeze":
            self.frozen_until = self.api_trouble = until + 15 * (self.rng.random() < 0.3)
        else:
            self.loss, self.api_trouble = self.rng.uniform(0.05, 0.5), until
            self.at(until, lambda: setattr(self, "loss", 0.0))

    def strike_process(self, kind: str, node: Node, length: float) -> None:
        if kind == "pause":
            node.paused_until = max(node.paused_until, self.time + length)
        elif kind == "soft":
            self.soft_restart(node)
        elif kind == "stop":
            node.step(m.Terminate)
        else:
            self.crash(node, length, reborn=kind == "reborn")

    def soft_restart(self, node: Node) -> None:
        """A new replicator beside a living mount: the fence of the old one holds on for a moment."""
        node.start(node.durable)
        generation = node.generation
        node.draining = False

        def no_role() -> None:
            if node.generation == generation and not node.elector.is_primary:
                node.accepting = False

        self.after(self.rng.uniform(0, 0.2), no_role)

    def hand_off(self, kind: str) -> None:
        if self.store.value is None:
            return
        self.requests += 1
        to = self.rng.choice(["*", *(n.name for n in self.nodes)])
        value = copy.deepcopy(self.store.value)
        notes = value["metadata"].setdefault("annotations", {})
        notes[HANDOFF] = HandOff(f"h{self.requests}", to, kind).to_json()
        self.store.write(value, self.time)

    def tamper(self, kind: str) -> None:
        if kind != "cleared" and self.hold and electionhold.has_newcomer(self):
            return
        if kind == "delete":
            self.store.value = None
            return
        value = copy.deepcopy(self.store.value)
        if kind == "cleared":
            value["spec"]["holderIdentity"] = ""
        else:
            old = [v for t, v in self.store.history if t < self.time - 20]
            if not old:
                return
            value = copy.deepcopy(self.rng.choice(old))
            self.was_set_back = True
        self.store.write(value, self.time)
        self.say(f"{kind}: {LeaseRecord.from_object(value).holder} epoch {self.store.epoch()}")
        self.unaware |= {n.name for n in self.nodes if n.durable < self.newest or not n.alive}


def simulate(seed: int, *, trace: bool = False) -> Outcome:
    """One run."""
    return Troubled(seed, trace=trace).run()
