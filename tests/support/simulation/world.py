"""Three to five simulated nodes, what goes wrong with them, and what their programs do.

    run(seed) -> Outcome

Time is virtual, chance comes from the seed: the same seed gives the same trace, hashed in
``Outcome.digest``. ``simulation/__init__`` says what is production code and what is replaced.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import messages as m
from sqlitecluster.ltx import decode
from sqlitecluster.replication.position import Position
from sqlitecluster.shared import ROLE_PRIMARY, NodeWord
from support.simulation import faults
from support.simulation.actions import Actions
from support.simulation.content import Content
from support.simulation.disk import SimDisk, watch_words
from support.simulation.kernel import Kernel, in_virtual_time
from support.simulation.network import Network
from support.simulation.node import Node
from support.simulation.oracle import Oracle

TICK_S = 0.3
QUIET_S = 40.0
MAX_S = 400.0
LAG_S = 10.0
FOLDER_VARIABLE = "SQLITECLUSTER_SIMULATION_DIR"


@dataclass
class Outcome:
    """One run."""

    seed: int
    violations: list[str] = field(default_factory=list)
    digest: str = ""
    mode: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)


class World(Kernel):
    """One run."""

    def __init__(self, seed: int, base: Path, *, operations: int = 2000, trace: bool = False) -> None:
        super().__init__(seed, trace=trace)
        self.base = base
        self.operations = operations
        self.times = LeaseTimes()
        size = self.rng.choice((3, 3, 3, 4, 5))
        self.acks = self.rng.choice((0, 1, 1, 2)) if size > 3 else self.rng.choice((0, 1, 1))
        self.quorum = self.acks > 0
        self.full_sync = self.rng.random() < 0.5
        """Programs choose ``synchronous=FULL``."""
        self.real = seed % 10 == 0
        """Programs are real SQLite."""
        self.counts: Counter[str] = Counter()
        self.promises: dict[tuple[int, int], int] = {}
        self.empty = Content.empty()
        self._generations = itertools.count(1)
        self._by_op: dict[int, Content] = {}
        self._ops_of: dict[int, set[int]] = {}
        self._done = 0
        self.next_loss = 0.0
        self.kinds: Sequence[str] = faults.KINDS
        """What may go wrong; a kind that stands there twice does so more often."""
        self.rest_s = 18.0
        """Seconds between two faults, at most."""
        self.is_quiet = False
        self.network = Network(self)
        self.oracle = Oracle(self)
        self.actions = Actions(self)
        self.nodes: list[Node] = []
        for index in range(size):
            self.nodes.append(Node(self, index))

    # -- what others look up -------------------------------------------------------------------

    def find(self, pod: str) -> Node:
        """A node by its pod's name."""
        return self.nodes[int(pod.rpartition("-")[2])]

    def next_generation(self) -> int:
        """A number for a log."""
        return next(self._generations)

    def count(self, what: str) -> None:
        """For the outcome."""
        self.counts[what] += 1

    def sync_delay(self) -> float:
        """How long a disk takes."""
        return self.rng.uniform(0.0002, 0.004) if self.rng.random() < 0.97 else self.rng.uniform(0.01, 0.4)

    def know(self, content: Content) -> Content:
        """A state that a program made."""
        self._by_op[content.op] = content
        return content

    def content_of(self, pages: Sequence[bytes]) -> Content:
        """The state that an image shows, by its newest row."""
        op = self.oracle.newest_operation(pages)
        return self._by_op.get(op, self.empty)

    def content_at(self, position: Position, pages: Sequence[bytes]) -> Content:
        """The state at a position."""
        found = self.oracle.states.get((position.txid, position.checksum))
        if found is not None or not pages:
            return found or self.empty
        return self.content_of(pages)

    def note_operations(self, ltx: bytes, content: Content) -> None:
        """Which operations a transaction brought."""
        self._ops_of.setdefault(int.from_bytes(ltx[-8:], "big"), set()).add(content.op)

    def operations_of(self, ltx: bytes) -> set[int]:
        """Operations that are in an LTX file that was kept, and those before them in its history."""
        found: set[int] = set()
        header = decode(ltx).header
        for (txid, _), content in self.oracle.states.items():
            if header.min_txid <= txid <= header.max_txid:
                found.add(content.op)
        return found

    # -- the run -------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Faults and operations, quiet, the last checks."""
        self.actions.create(0)
        for node in self.nodes:
            node.start()
            self.after(self.rng.uniform(0, 1), lambda n=node: self._tick(n))  # type: ignore[misc]
        self.after(1.0, self._operator)
        self.after(0.5, self._operate)
        self.after(self.rng.uniform(4, 10), self._fault)
        while not self.violations and self._done < self.operations and self.time < MAX_S:
            self.step()
        if not self.violations:
            self._calm()
        for node in self.nodes:
            node.close()
        self.oracle.close()
        mode = f"Quorum({self.acks}) of {len(self.nodes)}" if self.quorum else f"Async, {len(self.nodes)} nodes"
        mode += ", real SQLite" * self.real
        return Outcome(self.seed, self.violations, self.digest, mode, self.counts, self.lines)

    def _tick(self, node: Node) -> None:
        if node.running_now:
            node.enter(node.housekeeping)
            node.step(m.Tick)
            if node.alive:
                self.actions.data_path(node)
        self.after(TICK_S * self.rng.uniform(0.9, 1.1), lambda: self._tick(node))

    def _operator(self) -> None:
        if self.actions.lease() is None and self.time >= self.actions.frozen_until:
            self.actions.create(self.oracle.newest_epoch)
        self.after(self.rng.uniform(1, 4), self._operator)

    # -- programs ------------------------------------------------------------------------------

    def _operate(self) -> None:
        """One operation, and the next one a little later."""
        if self.is_quiet or self._done >= self.operations:
            return
        self._done += 1
        if self.rng.random() < 0.45:
            self._write()
        else:
            self._read()
        self.after(self.rng.expovariate(1 / 0.05), self._operate)

    def _write(self) -> None:
        open_nodes = [n for n in self.nodes if n.running_now and n.words[NodeWord.ROLE] == ROLE_PRIMARY]
        if not open_nodes:
            self.count("write: nobody")
            return
        self.write_at(self.rng.choice(open_nodes))

    def write_at(self, node: Node) -> None:
        """A program writes on this node."""
        op = self.rng.getrandbits(60) | 1

        def answer(how: str) -> None:
            self.count(f"write: {how}")
            self.say(f"{node.name} {op:x} {how}")

        node.enter(lambda: node.primary.write(op, answer))

    def _read(self) -> None:
        node = self.rng.choice(self.nodes)
        if not node.running_now:
            self.count("read: nobody")
            return
        node.enter(lambda: self._read_at(node))

    def _read_at(self, node: Node) -> None:
        if node.words[NodeWord.ROLE] == ROLE_PRIMARY:
            self.oracle.read(node, node.primary.content, node.primary.pages)
        elif node.replica.pages:
            position = node.replica.shown
            self.oracle.read_at(node, position, node.replica.pages)
        else:
            self.count("read: nothing yet")
            return
        self.count("read")

    # -- faults --------------------------------------------------------------------------------

    def _fault(self) -> None:
        if self.is_quiet:
            return
        faults.strike(self)
        pause = self.rng.choice((self.rng.uniform(0.05, 2), self.rng.uniform(3, self.rest_s)))
        self.after(pause, self._fault)

    def restart(
        self, node: Node, delay: float, *, reborn: bool = False, power: bool = False, wipe: bool = False
    ) -> None:
        """A node goes down and comes back."""
        if not node.alive:
            return
        self.say(f"{node.name} goes down{' (power)' * power}{' (volume lost)' * wipe}")
        node.enter(lambda: node.kill(power=power, wipe=wipe))
        node.birth += reborn or wipe
        self.after(delay, lambda: None if node.alive else node.start())

    # -- checks --------------------------------------------------------------------------------

    def check_alone(self, node: Node) -> None:
        """Never two fences are open."""
        if node.is_open:
            for other in self.nodes:
                if other is not node and other.is_open:
                    self.violation(f"{node.name} can write while {other.name} can")

    def opened(self, node: Node, epoch: int, content: Content) -> None:
        """A primary lets programs in."""
        self.count("openings")
        self.say(f"{node.name} OPEN in epoch {epoch} at {node.database.position} {content}")
        self.check_alone(node)
        self.oracle.opened(node, epoch, content)

    def _calm(self) -> None:
        """The faults end; within a time somebody is writable and everybody has everything (I9)."""
        self.is_quiet = True
        self.network.heal()
        self.actions.frozen_until = 0.0
        self.actions.cut_until.clear()
        for node in self.nodes:
            node.paused_until = min(node.paused_until, self.time)
            if not node.alive:
                node.start()
        self.run_until(self.time + QUIET_S)
        if self.violations:
            return
        primary = next((n for n in self.nodes if n.is_open), None)
        if primary is None:
            self.violation("I9: nobody can write after the faults ended")
            return
        answers: list[str] = []
        op = self.rng.getrandbits(60) | 1
        primary.enter(lambda: primary.primary.write(op, answers.append))
        self.run_until(self.time + LAG_S)
        if answers != ["acked"]:
            self.violation(f"I9: a write after the faults ended: {answers}")
        self._check_all(next((n for n in self.nodes if n.is_open), primary))

    def _check_all(self, primary: Node) -> None:
        position, content = primary.database.position, primary.primary.content
        kept = set().union(*(n.kept_operations() for n in self.nodes))
        self.oracle.check_kept(content, kept)
        for node in self.nodes:
            pages = primary.primary.pages if node is primary else node.replica.pages
            shown = node.database.position if node is primary else node.replica.shown
            if node.database.position != position or shown != position:
                self.violation(f"I9: {node.name} is at {node.database.position}, shows {shown}, not {position}")
                continue
            self.oracle.check_image(node, pages, position)
            self.oracle.check_chain(node)


def in_memory() -> Path | None:
    """A folder that is memory: the one that a lane made, or the system's."""
    path = Path(os.environ.get(FOLDER_VARIABLE, "/dev/shm"))
    return path if path.is_dir() else None


def run(
    seed: int, *, operations: int = 2000, trace: bool = False, change: Callable[[World], None] | None = None
) -> Outcome:
    """One seed; ``change`` looks at the world before it begins."""
    with tempfile.TemporaryDirectory(prefix="sqlitecluster-sim-", dir=in_memory()) as folder:
        disks: dict[str, SimDisk] = {}
        world = World(seed, Path(folder), operations=operations, trace=trace)

        def disk_of(path: Path) -> SimDisk:
            return world.running.disk if world.running is not None else disks[path.name]

        undo = watch_words(disk_of)
        try:
            with in_virtual_time(world):
                if change is not None:
                    change(world)
                return world.run()
        finally:
            undo()
            shutil.rmtree(folder, ignore_errors=True)
