"""Everything around simulated electors: time, a lossy API, data that follow the primary, the checks."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import MILLISECOND, NEVER
from sqlitecluster.election.record import LeaseRecord
from sqlitecluster.election.transfer import Transfer
from support import electionhold
from support.electionnodes import FAULTS_S, LOOSE, QUIET_S, SECOND, TICK_S, TIGHT, Node, Outcome, Request, Store


class World:
    """Everything around the electors."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.rng = random.Random(seed)
        self.outcome = Outcome(seed)
        self.tracing = trace
        self.time = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.store = Store()
        self.frozen_until = 0.0
        self.loss = 0.0
        self.cut_api: dict[str, float] = {}
        self.cut_links: dict[tuple[str, str], float] = {}
        self.newest = 0
        self.unaware: set[str] = set()
        self.was_set_back = False
        self.expected: dict[int, int] = {}
        self.begun: dict[str, Transfer] = {}
        self.requests = 0
        self.operator_epoch = 0
        self.lost_at: float | None = None
        self.api_trouble = 0.0
        self.hold = seed // 3 % 2 == 1
        """HoldIfPeersAgree."""
        self.times = TIGHT if seed % 3 == 2 else LOOSE
        self.acks, self.preferred = 0, False
        self.nodes = [Node(self, i) for i in range(self.rng.choice((3, 3, 4, 5)))]
        self.listed = {node.name for node in self.nodes}

    # -- time ------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, call))

    def after(self, delay: float, call: Callable[[], None]) -> None:
        self.at(self.time + delay, call)

    def run(self) -> Outcome:
        self.store.duration_s = int(self.times.duration_s)
        self.store.create(0, 0.0)
        for node in self.nodes:
            self.at(self.rng.uniform(0, 1), lambda n=node: self.tick(n))  # type: ignore[misc]
        for node in self.nodes if self.hold else ():
            self.at(self.rng.uniform(0, 2), lambda n=node: electionhold.list_pods(self, n))  # type: ignore[misc]
        self.at(0.5, self.write_all)
        self.at(1.0, self.operate)
        self.at(self.rng.uniform(10, 20), self.fault)
        end = FAULTS_S + QUIET_S
        while self._heap and self._heap[0][0] <= end:
            self.time, _, call = heapq.heappop(self._heap)
            call()
        self.check_end()
        return self.outcome

    def say(self, text: str) -> None:
        if self.tracing:
            self.outcome.trace.append(f"{self.time:8.3f} {text}")

    def violation(self, text: str) -> None:
        self.outcome.violations.append(f"seed {self.outcome.seed} at {self.time:.3f} s: {text}")
        self.say(f"VIOLATION {text}")

    def tick(self, node: Node) -> None:
        node.step(m.Tick)
        self.after(TICK_S * self.rng.uniform(0.9, 1.1), lambda: self.tick(node))

    # -- the API ---------------------------------------------------------------------

    def reaches_api(self, node: Node) -> bool:
        if self.time < self.frozen_until or self.time < self.cut_api.get(node.name, 0):
            return False
        return self.rng.random() >= self.loss

    def request(self, node: Node, value: dict[str, Any] | None) -> None:
        """GET (None) or PUT, with loss and delay of both ways."""
        request = Request(node, value, node.now(), node.generation)
        self.after(1.0 / node.rate, request.give_up)
        if self.reaches_api(node):
            slow = self.rng.random() < 0.02 + self.loss
            self.after(self.rng.uniform(0.5, 30) if slow else self.delay(), lambda: self.arrive(request))

    def arrive(self, request: Request) -> None:
        """The server carries it out, whether or not somebody still waits for the answer."""
        result = self.serve(request.value)
        if request.value is not None and result is not None:
            self.landed(request.node, result)
        if self.reaches_api(request.node):
            self.after(self.delay(), lambda: request.answer(result))

    def serve(self, value: dict[str, Any] | None) -> LeaseRecord | None:
        found = self.store.value if value is None else self.store.put(value, self.time)
        return LeaseRecord.from_object(found) if found is not None else None

    def landed(self, node: Node, record: LeaseRecord) -> None:
        self.say(f"landed by {node.name}: {record.holder} epoch {record.epoch}")
        if record.holder and record.pod != node.name:
            self.expected[record.epoch] = node.data[1]
        self.operator_epoch = max(self.operator_epoch, record.epoch) if self.rng.random() < 0.9 else self.operator_epoch
        if self.rng.random() < 0.7:
            for other in self.nodes:
                if other is not node and self.reaches_api(other):
                    other.later(self.delay(), lambda now, r=record: m.LeaseRead(r, now, now, watched=True))  # type: ignore[misc]

    def delay(self) -> float:
        return self.rng.uniform(0.001, 0.03) if self.rng.random() < 0.95 else self.rng.uniform(0.03, 0.9)

    # -- actions of electors ---------------------------------------------------------

    def act(self, node: Node, action: m.Action) -> None:
        if not isinstance(action, m.ReadLease | m.PutLease | m.AskPeers | m.SetFence):
            self.say(f"{node.name} {action}"[:160])
        if isinstance(action, m.ReadLease | m.PutLease):
            self.request(node, action.record.to_object() if isinstance(action, m.PutLease) else None)
        elif isinstance(action, m.AskPeers):
            self.ask(node, action.epoch)
        elif isinstance(action, m.FetchMissing):
            self.fetch(node, action)
        elif isinstance(action, m.AskPledges):
            electionhold.ask(self, node, action)
        elif isinstance(action, m.Note):
            node.durable = max(node.durable, action.epoch)
        elif isinstance(action, m.SetFence):
            node.fence = action.deadline
            self.check_alone(node)
        else:
            self.act_role(node, action)

    def act_role(self, node: Node, action: m.Action) -> None:
        match action:
            case m.BecomePrimary(epoch):
                self.become(node, epoch)
            case m.Demote():
                node.accepting = node.draining = False
                node.follows = ""
            case m.Follow(pod, _address, epoch):
                node.follows = pod
                if epoch < node.durable:
                    self.tell_newer(node)
            case m.Drain(pod, limit):
                self.drain(node, pod, limit)
            case m.Resume():
                node.draining = False
                self.check_alone(node)
            case m.TellTarget(pod, record):
                self.tell_target(node, self.find(pod), record)
            case m.Released():
                self.crash(node, self.rng.uniform(0.5, 5), reborn=self.rng.random() < 0.7)

    def tell_target(self, node: Node, target: Node, record: LeaseRecord) -> None:
        if self.linked(node, target) and self.rng.random() < 0.8:
            target.later(self.delay(), lambda now: m.HandOffReady(record, 5, 9, now))

    def find(self, pod: str) -> Node:
        return next(node for node in self.nodes if node.name == pod)

    def linked(self, one: Node, two: Node) -> bool:
        pair = (min(one.name, two.name), max(one.name, two.name))
        return one.alive and two.alive and self.time >= self.cut_links.get(pair, 0)

    def ask(self, node: Node, epoch: int) -> None:
        peers: list[m.NodeState] = []
        for other in self.nodes:
            ok = other is not node and self.linked(node, other) and self.time >= other.paused_until
            if ok and self.rng.random() >= self.loss:
                other.durable = max(other.durable, epoch)
                peers.append(other.state())
        known = len(self.listed) - 1
        wait = self.delay() if len(peers) == known else 1.0
        pods = frozenset(n.id for n in self.nodes if n.name in self.listed) if self.reaches_api(node) else frozenset()
        node.later(wait, lambda now: m.PeersAnswered(node.state(), tuple(peers), known, now, pods=pods))

    def fetch(self, node: Node, action: m.FetchMissing) -> None:
        """Nothing can be had from anybody here."""
        self.ask(node, action.epoch)

    def become(self, node: Node, epoch: int) -> None:
        if epoch <= node.durable:
            node.later(0.01, lambda now: m.NotOpened(epoch, "stale epoch", now))
            self.violation(f"{node.name} was told to begin epoch {epoch}, it knows {node.durable}")
            return
        node.durable = epoch
        if epoch <= self.newest and node.name not in self.unaware:
            self.violation(f"{node.name} begins epoch {epoch}, {self.newest} was begun before")
        self.newest = max(self.newest, epoch)
        generation = node.generation
        self.began(node, epoch)

        def opened() -> None:
            if node.generation != generation or not node.alive:
                return
            if not (node.elector.is_primary and node.elector.epoch == epoch):
                return
            if self.time < node.paused_until:
                self.at(node.paused_until, opened)
                return
            if not self.may_open(node):
                self.after(0.05, opened)
                return
            node.accepting, node.belongs = True, True
            self.opened(node, epoch)
            node.step(lambda now: m.Opened(epoch, now))

        self.after(self.rng.uniform(0.005, 0.4), opened)

    def began(self, node: Node, epoch: int) -> None:
        """A node is the primary in an epoch; it is not open yet."""

    def welcome(self, node: Node) -> None:
        """A pod that was not there before."""
        self.listed.add(node.name)

    def may_open(self, node: Node) -> bool:
        """Whether its data path is ready."""
        return True

    def opened(self, node: Node, epoch: int) -> None:
        self.say(f"{node.name} OPEN in epoch {epoch}")
        self.check_alone(node)
        self.outcome.openings += 1
        if epoch in self.expected:
            self.outcome.hand_offs += 1
            if node.data[1] < self.expected[epoch]:
                self.violation(f"hand-off to {node.name} lost {self.expected[epoch] - node.data[1]} transactions")
        if self.lost_at is not None and node.is_open:
            if self.api_trouble <= self.lost_at:
                self.outcome.takeovers_s.append(self.time - self.lost_at)
            self.lost_at = None

    def drain(self, node: Node, pod: str, limit: float) -> None:
        transfer = node.elector.transfer
        assert transfer is not None, "only a hand-off drains"
        request = transfer.request.id
        first = self.begun.setdefault(request, transfer)  # the same one may try another target
        if first is not transfer and not self.was_set_back and not request.startswith("stop-"):
            self.violation(f"hand-off {request} was begun twice")
        node.draining = True
        until, generation = self.time + limit, node.generation

        def look() -> None:
            if node.generation != generation or not node.draining:
                return
            target = self.find(pod)
            if self.linked(node, target) and target.follows == node.name and target.data == node.data:
                node.step(m.Drained)
            elif self.time > until:
                node.step(lambda now: m.NotDrained("the target did not acknowledge", now))
            else:
                self.after(0.02, look)

        self.after(0.01, look)

    def tell_newer(self, node: Node) -> None:
        primary = self.find(node.follows)
        if self.linked(node, primary) and primary.elector.is_primary and primary.elector.epoch < node.durable:
            epoch = node.durable
            primary.step(lambda now: m.NewerEpoch(epoch, now))

    # -- the data --------------------------------------------------------------------

    def write_all(self) -> None:
        """Open primaries commit; connected replicas follow."""
        for node in self.nodes:
            running = node.alive and self.time >= node.paused_until
            if running and node.is_open:
                node.data = (node.durable, node.data[1] + 1)
                self.outcome.held_s += 0.1 * node.elector.is_holding
        for node in self.nodes:
            if node.follows and node.alive and self.time >= node.paused_until and not node.elector.is_primary:
                primary = self.find(node.follows)
                if not self.linked(node, primary) or not primary.accepting:
                    continue
                if primary.elector.epoch >= node.durable:
                    node.data, node.belongs = primary.data, True
                    node.durable = max(node.durable, primary.elector.epoch)
                else:
                    self.tell_newer(node)
        self.after(0.1, self.write_all)

    # -- the operator ----------------------------------------------------------------

    def operate(self) -> None:
        """Makes a missing Lease again; with the newest epoch that it happened to see."""
        if self.store.value is None and self.time >= self.frozen_until:
            self.store.create(self.operator_epoch, self.time)
            self.say(f"operator: Lease made again, epoch {self.operator_epoch}")
        self.after(self.rng.uniform(1, 4), self.operate)

    # -- checks ----------------------------------------------------------------------

    def fault(self) -> None:
        """Something goes wrong; nothing does here."""

    def crash(self, node: Node, length: float, *, reborn: bool) -> None:
        node.alive, node.accepting, node.draining = False, False, False
        node.generation += 1
        node.paused_until = 0.0

        def again() -> None:
            if not node.alive and node.name in self.listed:
                node.birth += reborn
                if self.rng.random() < 0.3:
                    node.boot, node.boot_at = node.boot + 1, self.rng.randrange(1, 10_000) * SECOND
                node.alive, node.fence = True, NEVER
                node.start(node.durable)

        self.after(length, again)

    def check_alone(self, node: Node) -> None:
        if not node.is_open:
            return
        for other in self.nodes:
            if other is not node and other.is_open:
                left = other.now().until(other.fence) // MILLISECOND
                self.violation(f"{node.name} is open while {other.name} is, for {left} ms more")

    def check_end(self) -> None:
        opened = [node.name for node in self.nodes if node.is_open]
        if len(opened) != 1:
            self.violation(f"open at the end: {opened or 'nobody'}")
            return
        for node in self.nodes:
            if node.alive and node.name != opened[0] and node.follows != opened[0]:
                self.violation(f"{node.name} follows {node.follows or 'nobody'} at the end, not {opened[0]}")
