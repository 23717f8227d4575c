"""Simulated clusters whose commits wait for acknowledgements: ``electionsim`` with volumes that are lost.

A transaction is a link of a chain, so that what a node holds can be compared exactly. Each
primary has a data path as the elector expects it: what it is told by ``SetMembers`` counts, nothing
else. Commits are answered between the look at the data path and what follows from it, too.

Checked besides the rules of ``electionsim``:
    1. A primary that begins holds everything that was acknowledged, unless the Lease said
       before that commits had fewer acknowledgements, or a person accepted the loss.
    2. No commit is acknowledged in an epoch after a later one began without it.
    3. A commit has fewer acknowledgements only while the Lease says so.
    4. A person is needed only when more members than acknowledgements are lost.
    5. In the end the members are the volumes that there are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import NEVER, Instant
from sqlitecluster.election.promise import LOSS, DataLoss
from sqlitecluster.election.record import LeaseRecord
from support.electionnodes import FAULTS_S, Node, Outcome
from support.electionsim import Troubled

GONE_S = 3.0
ACK_TIMEOUT_S = 5.0
VOLUMES = ("wipe", "wipe", "scale", "scale", "scale", "crash")
LOSSES = ("behind", "behind", "behind", "behind")
LONELY = ("lonely",) * 6
TAMPERED = ("set-back",)


class Tx:
    """One transaction on top of another."""

    __slots__ = ("before", "epoch", "number")

    def __init__(self, epoch: int, before: Tx | None) -> None:
        self.epoch, self.before = epoch, before
        self.number: int = before.number + 1 if before else 1


def contains(head: Tx | None, wanted: Tx | None) -> bool:
    """Whether a chain has a transaction."""
    while head is not None and wanted is not None and head.number > wanted.number:
        head = head.before
    return wanted is None or head is wanted


@dataclass
class Path:
    """The data path of one process."""

    generation: int
    term: int = 0
    members: frozenset[int] = frozenset()
    degraded: bool = False
    acks: dict[int, Tx | None] = field(default_factory=dict)
    pending: Tx | None = None
    since: float = 0.0
    said_short: bool = False


class Bound(Troubled):
    """Commits wait for ``acks`` members."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__(seed, trace=trace)
        self.volumes = seed // 2 % 2 == 0
        self.acks = self.rng.choice((1, 1, 2, len(self.nodes) - 1))
        self.preferred = self.rng.random() < 0.3
        self.stores = 0
        self.heads: dict[int, Tx | None] = {}
        self.paths: dict[str, Path] = {}
        self.exempt: set[int] = set()
        self.acked: Tx | None = None
        self.safe: Tx | None = None
        self.leader: Tx | None = None
        self.before = LeaseRecord()
        self.gone_at: dict[int, float] = {}
        self.accepts = 0
        self.made_again = False
        self.bursting = False
        for node in self.nodes:
            self.new_volume(node)
            node.start(0)

    # -- volumes ---------------------------------------------------------------------

    def new_volume(self, node: Node) -> None:
        self.gone_at[node.store] = self.time
        self.stores += 1
        node.store, node.data, node.durable, node.belongs, node.stored = self.stores, (0, 0), 0, False, None
        self.heads[node.store] = None

    def welcome(self, node: Node) -> None:
        super().welcome(node)
        self.new_volume(node)
        node.start(0)

    def head(self, node: Node) -> Tx | None:
        return self.heads[node.store]

    def put(self, node: Node, head: Tx | None, stamp: int) -> None:
        self.heads[node.store] = head
        node.data = (stamp, head.number) if head else (0, 0)

    def fetch(self, node: Node, action: m.FetchMissing) -> None:
        """What goes on from what this node has can be had."""
        for lack in action.lacks:
            other = self.find(lack.pod)
            there = self.linked(node, other) and self.time >= other.paused_until and self.rng.random() >= self.loss
            if there and contains(self.head(other), self.head(node)):
                self.put(node, self.head(other), other.data[0])
                self.say(f"{node.name} fetched {other.data} from {other.name}")
        super().fetch(node, action)

    def kinds(self) -> tuple[str, ...]:
        kinds = tuple(kind for kind in super().kinds() if kind not in TAMPERED)
        kinds = (*kinds, *LOSSES, *(LONELY if self.preferred else ()))
        return (*(k for k in kinds if k != "delete"), *VOLUMES) if self.volumes else kinds

    def strike(self, kind: str, node: Node, length: float) -> None:
        if kind == "delete":
            self.made_again = True
        if kind == "wipe":
            self.crash(node, length, reborn=True)
            self.new_volume(node)
        elif kind == "scale":
            self.scale()
        elif kind == "behind":
            self.fall_behind()
        elif kind == "lonely":
            for other in self.nodes:
                self.cut_links[min(node.name, other.name), max(node.name, other.name)] = self.time + 8
            if self.rng.random() < 0.6:
                end = self.rng.uniform(4, 8)
                self.after(end, lambda: self.crash(node, length + 14, reborn=True) if node.alive else None)
        else:
            super().strike(kind, node, length)

    def fall_behind(self) -> None:
        """Some hear nothing for a while, then the primary is lost, and with it some that did hear."""
        primary = next((node for node in self.nodes if node.is_open), None)
        if primary is None:
            return
        others = [node for node in self.nodes if node is not primary and node.alive]
        self.rng.shuffle(others)
        deaf = others[: max(1, len(others) - self.acks)]
        for node in deaf:
            pair = (min(node.name, primary.name), max(node.name, primary.name))
            self.cut_links[pair] = max(self.time + 4, self.cut_links.get(pair, 0))
        length = self.rng.uniform(14, 28)
        lost = [primary, *(node for node in others if node not in deaf and self.rng.random() < 0.7)]
        for node in lost:
            self.after(3.0, lambda n=node: self.crash(n, length, reborn=True) if n.alive else None)  # type: ignore[misc]

    def scale(self) -> None:
        unlisted = [node for node in self.nodes if node.name not in self.listed]
        if unlisted and self.rng.random() < 0.6:
            node = unlisted[0]
            if self.rng.random() < 0.5:
                self.new_volume(node)
            self.listed.add(node.name)
            self.gone_at.pop(node.store, None)
            node.birth, node.alive, node.fence, node.paused_until = node.birth + 1, True, NEVER, 0.0
            node.start(node.durable)
        elif len(self.listed) > max(2, self.acks + 1):
            node = max((n for n in self.nodes if n.name in self.listed), key=lambda n: n.name)
            self.listed.discard(node.name)
            self.gone_at[node.store] = self.time
            node.alive, node.accepting, node.draining = False, False, False
            node.generation += 1

    # -- the data path ---------------------------------------------------------------

    def path(self, node: Node) -> Path:
        found = self.paths.get(node.name)
        if found is None or found.generation != node.generation:
            found = self.paths[node.name] = Path(node.generation)
        return found

    def act(self, node: Node, action: m.Action) -> None:
        if isinstance(action, m.SetMembers):
            path = self.path(node)
            path.members, path.degraded = action.members, action.degraded
        super().act(node, action)

    def tick(self, node: Node) -> None:
        if node.elector.is_primary and node.alive:
            node.step(lambda now: self.look(node, now) if node.elector.is_primary else m.Tick(now))
            self.after(self.rng.uniform(0.05, 0.2), lambda: self.tick(node))
        else:
            super().tick(node)

    def look(self, node: Node, now: Instant, *, short: bool = False) -> m.DataPath:
        """What the elector is told; programs go on meanwhile."""
        path, record = self.path(node), node.elector.seen.record
        head = self.head(node)
        in_sync = frozenset(store for store, tx in path.acks.items() if tx is head)
        members = record.promise.members if record else frozenset()
        counting = (in_sync & path.members) - {node.store}
        enough = len(counting) >= self.acks
        spare = frozenset(s for s in members if path.degraded or len(counting - {s}) >= self.acks)
        pods = frozenset(n.store for n in self.nodes if n.name in self.listed)
        gone = frozenset(s for s in members - pods if self.time - self.gone_at.get(s, self.time) >= GONE_S)
        if not self.bursting and self.rng.random() < 0.5:
            self.bursting = True
            self.commit(node)
            self.replicate(node)
            self.settle(node)
            self.bursting = False
        return m.DataPath(in_sync, spare, pods, gone, now, enough, short)

    def running(self, node: Node) -> bool:
        return node.alive and self.time >= node.paused_until

    def write_all(self) -> None:
        for node in self.nodes:
            self.commit(node)
        self.replicate()
        for node in self.nodes:
            self.settle(node)
        self.after(0.1, self.write_all)

    def commit(self, node: Node) -> None:
        path = self.path(node)
        if self.running(node) and node.is_open and node.elector.is_primary and path.pending is None and path.term:
            path.pending, path.since, path.said_short = Tx(path.term, self.head(node)), self.time, False
            self.put(node, path.pending, path.term)
            self.outcome.held_s += 0.1 * node.elector.is_holding

    def replicate(self, only: Node | None = None) -> None:
        for node in self.nodes:
            if not node.follows or not self.running(node) or node.elector.is_primary:
                continue
            primary = self.find(node.follows)
            if only is None or primary is only:
                self.receive(node, primary)

    def receive(self, node: Node, primary: Node) -> None:
        path = self.path(primary)
        if not self.linked(node, primary) or not self.running(primary):
            path.acks.pop(node.store, None)
        elif not primary.elector.is_primary or path.term != primary.elector.epoch:
            return
        elif path.term < node.durable:
            self.tell_newer(node)
        elif self.rng.random() < 0.85:
            self.put(node, self.head(primary), path.term)
            node.belongs, node.durable = True, max(node.durable, path.term)
            path.acks[node.store] = self.head(primary)

    def settle(self, node: Node) -> None:
        path = self.path(node)
        tx = path.pending
        if tx is None or not self.running(node) or not node.elector.is_primary:
            return
        count = self.count(node, tx)
        if (count >= self.acks or path.degraded) and node.is_open:
            path.pending = None
            self.acknowledge(path, tx, thin=count < self.acks)
        elif self.time - path.since > ACK_TIMEOUT_S:
            path.pending = None
        elif self.preferred and self.time - path.since > ACK_TIMEOUT_S / 2 and not (path.said_short or self.bursting):
            path.said_short = True
            node.step(lambda now: self.look(node, now, short=True))

    def count(self, node: Node, tx: Tx) -> int:
        path = self.path(node)
        who = path.members - {node.store}
        return sum(1 for store, head in path.acks.items() if store in who and head and head.number >= tx.number)

    # -- the roles -------------------------------------------------------------------

    def began(self, node: Node, epoch: int) -> None:
        path, head = self.path(node), self.head(node)
        path.term, path.acks, path.pending = epoch, {}, None
        if head is not None:
            self.put(node, head, epoch)
        if epoch in self.exempt:
            self.say(f"{node.name} may lose something in epoch {epoch}")
            self.acked = self.safe = None
        elif not contains(head, self.safe):
            last = self.safe.number if self.safe else 0
            self.violation(f"{node.name} begins epoch {epoch} at {head.number if head else 0}, {last} was acknowledged")
        self.leader = head

    def may_open(self, node: Node) -> bool:
        path, head = self.path(node), self.head(node)
        return path.degraded or head is None or self.count(node, head) >= self.acks

    def acknowledge(self, path: Path, tx: Tx, *, thin: bool) -> None:
        lease = LeaseRecord.from_object(self.store.value) if self.store.value is not None else None
        if thin and lease is not None and lease.promise.degraded_ns is None and not self.made_again:
            self.violation("a commit had too few acknowledgements, and the Lease does not say so")
        if not thin and self.newest > path.term and not contains(self.leader, tx):
            self.violation(f"{tx.number} is acknowledged in epoch {path.term}, but {self.newest} began without it")
        self.acked = tx
        self.outcome.acknowledged += not thin
        if not thin:
            self.safe = tx

    def serve(self, value: dict[str, object] | None) -> LeaseRecord | None:
        self.before = LeaseRecord.from_object(self.store.value) if self.store.value else LeaseRecord()
        return super().serve(value)

    def landed(self, node: Node, record: LeaseRecord) -> None:
        before = self.before
        if record.loss_handled != before.loss_handled:
            self.outcome.losses_accepted += 1
        took = record.epoch > before.epoch and record.pod == node.name
        if took and (before.promise.degraded_ns is not None or record.loss_handled != before.loss_handled):
            self.exempt.add(record.epoch)
        if before.promise.degraded_ns is not None and record.promise.degraded_ns is None:
            self.safe = self.acked if record.epoch not in self.exempt else None
        if record.promise != before.promise:
            self.outcome.member_changes += 1
            self.say(f"{node.name} promises {record.promise}")
        super().landed(node, record)

    # -- people ----------------------------------------------------------------------

    def operate(self) -> None:
        super().operate()
        value = self.store.value
        trouble = (FAULTS_S, self.frozen_until, *self.cut_api.values(), *self.cut_links.values())
        late = self.time > max(trouble) + 22 + 8 * self.accepts
        if not late or value is None or any(node.elector.is_primary and node.alive for node in self.nodes):
            return
        promise = LeaseRecord.from_object(value).promise
        there = {node.store for node in self.nodes if node.name in self.listed}
        lost = len(promise.members - there)
        if lost <= promise.acks and not self.made_again:
            self.violation(f"nobody leads though only {lost} of {promise} are lost")
        self.accepts += 1
        value = copy.deepcopy(value)
        notes = value["metadata"].setdefault("annotations", {})
        notes[LOSS] = DataLoss(f"l{self.accepts}", "").to_json()
        self.store.write(value, self.time)
        self.say("a person accepts the loss")

    def waits_for_a_person(self) -> bool:
        """Too many volumes are lost, trouble ended late, and nobody was asked yet."""
        promise = LeaseRecord.from_object(self.store.value or {}).promise
        there = {node.store for node in self.nodes if node.name in self.listed}
        leads = any(node.elector.is_primary and node.alive for node in self.nodes)
        return not leads and not self.accepts and len(promise.members - there) > promise.acks > 0

    def check_end(self) -> None:
        if self.waits_for_a_person():
            return
        super().check_end()
        value = self.store.value
        if value is None or self.outcome.violations:
            return
        promise = LeaseRecord.from_object(value).promise
        there = {node.store for node in self.nodes if node.name in self.listed}
        if promise.acks != self.acks or promise.degraded_ns is not None or promise.members != there:
            self.violation(f"in the end {promise} with volumes {sorted(there)}")


def simulate(seed: int, *, trace: bool = False) -> Outcome:
    """One run."""
    return Bound(seed, trace=trace).run()
