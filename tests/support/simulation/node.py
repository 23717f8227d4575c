"""One simulated node: clocks, disk, the production store, an elector, and its part in the data path."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import NEVER, Instant
from sqlitecluster.election.machine import Elector, ElectorSettings
from sqlitecluster.election.membership import Wanted
from sqlitecluster.election.record import Holder
from sqlitecluster.mount.context import Context
from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_PRIMARY, NodeWord
from sqlitecluster.store import compaction, cutter, retention
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.retention import RetentionPolicy
from sqlitecluster.units import format_node_id
from support.simulation.disk import SimDisk
from support.simulation.kernel import SECOND, namespace, words
from support.simulation.primary import Primary
from support.simulation.replica import Replica
from support.simulation.streams import NAME, Stream

if TYPE_CHECKING:
    from support.simulation.world import World

DAY = 1_780_000_000 * SECOND
CLUSTER_ID = "LFSC0123456789ABCDEF"
SEGMENT = 256 << 10


class SimClock:
    """The store's clock."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def now_ms(self) -> int:
        """Wall clock in ms."""
        return self._node.now().real_ns // 1_000_000

    def monotonic(self) -> float:
        """Seconds."""
        return self._node.now().boot_ns / SECOND


class Node:
    """A pod and its volume."""

    def __init__(self, world: World, index: int) -> None:
        rng = world.rng
        self.world, self.index, self.name = world, index, f"c-{index}"
        self.rate = rng.uniform(0.9, 1.1)
        self.boot_at = rng.randrange(1, 10_000) * SECOND
        self.real_at = DAY + rng.randrange(-5, 5) * SECOND
        self.rng = random.Random(rng.getrandbits(64))
        self.boots = 1
        self.birth = 0
        self.volume = 0
        self.generation = 0
        self.alive = False
        self.paused_until = 0.0
        self.follows = ""
        self.streams: dict[Stream, None] = {}
        self.up: Stream | None = None
        self.words = words(64)
        self.context = Context(namespace(), namespace(node=self.words), *(namespace() for _ in range(4)))  # type: ignore[arg-type]
        self.wants_snapshot = False
        """The image is damaged: nothing can be read here."""
        self.resync = False
        """Only a snapshot leads on."""
        self._wipe()

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on what the disk has."""
        self.generation += 1
        self.alive, self.paused_until, self.follows = True, 0.0, ""
        self.wants_snapshot = self.resync = False
        self.words[NodeWord.ROLE] = ROLE_DISCONNECTED
        self.words[NodeWord.FENCE_BOOT_NS] = self.words[NodeWord.FENCE_REAL_NS] = 0
        self.enter(self._start)

    def _start(self) -> None:
        self.store = NodeStore(
            self.root, clock=SimClock(self), disk=self.disk, segment_size=SEGMENT, ring_bytes=1 << 18
        )
        if self.store.cluster_id() is None and (self.root / "joined").exists():
            self.store.set_cluster_id(CLUSTER_ID)
        self.database = self.store.open(NAME)
        self.epochs = EpochFile(self.store)
        settings = ElectorSettings(
            me=Holder(self.name, f"uid{self.birth}"),
            times=self.world.times,
            address=f"{self.name}:20202",
            switchover_timeout_s=20.0,
            wanted=Wanted(self.store.node_id, self.world.acks),
        )
        self.elector = Elector(settings, self.epochs.value)
        self.primary = Primary(self)
        self.replica = Replica(self)
        self.replica.recover()
        self.world.say(f"{self.name} starts at {self.database.position}, shows {self.replica.shown}")

    def kill(self, *, power: bool = False, wipe: bool = False) -> None:
        """The process ends; ``power``: the machine too; ``wipe``: the volume is lost."""
        self.alive = False
        self.generation += 1
        for stream in [*self.streams, *([self.up] if self.up else [])]:
            stream.end()
        self.streams.clear()
        self.primary.killed()
        for segment in list(self.store.log.segments.values()):
            segment.close()
        if power or wipe:
            lost = self.disk.power_cut()
            self.boots += 1
            self.disk.mix_words(self.root)
            if lost:
                self.world.oracle.excused.add(self.index)
        if wipe:
            self.world.oracle.excused.add(self.index)
            shutil.rmtree(self.root)
            self._wipe()

    def _wipe(self) -> None:
        """An empty volume: another store."""
        self.volume += 1
        self.disk = SimDisk(self.rng)
        self.root = self.world.base / f"{self.name}.{self.volume}"
        self.folder = self.root / "dbs" / NAME
        self.root.mkdir(parents=True)
        (self.root / "node-id").write_text(format_node_id(self.rng.getrandbits(63) | 1) + "\n")

    def close(self) -> None:
        """The run is over."""
        if self.alive:
            self.kill()
        self.disk.close()

    def enter(self, call: Callable[[], None]) -> None:
        """Run this node's code: its clocks, its boot."""
        before, self.world.running = self.world.running, self
        try:
            call()
        finally:
            self.world.running = before

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Call in this process, if it still is one then; a paused one does it late."""
        generation = self.generation

        def run() -> None:
            if self.generation != generation:
                return
            if self.world.time < self.paused_until:
                self.world.at(self.paused_until, run)
            else:
                self.enter(call)

        self.world.after(delay, run)

    # -- clocks, epochs --------------------------------------------------------------------

    def now(self) -> Instant:
        """Both clocks."""
        elapsed = int(self.world.time * SECOND * self.rate)
        return Instant(self.boot_at + elapsed, self.real_at + elapsed)

    @property
    def running_now(self) -> bool:
        """Alive and not paused."""
        return self.alive and self.world.time >= self.paused_until

    @property
    def promised(self) -> int:
        """The newest epoch of whose existence this node has told anybody."""
        return max(self.epochs.value, self.world.promises.get((self.index, self.volume), 0))

    def set_fence(self, deadline: Instant) -> None:
        """The words that the mount compares with."""
        shut = deadline == NEVER
        self.words[NodeWord.FENCE_BOOT_NS] = 1 if shut else deadline.boot_ns
        self.words[NodeWord.FENCE_REAL_NS] = 1 if shut else deadline.real_ns

    @property
    def is_open(self) -> bool:
        """Whether a program's commit would be taken, as the mount decides it."""
        if not self.alive or self.words[NodeWord.ROLE] != ROLE_PRIMARY or self.primary.draining:
            return False
        found: list[bool] = []
        self.enter(lambda: found.append(not self.context.is_fenced))
        return found[0]

    def promise(self, epoch: int) -> None:
        """As ``rolechange.promise``: durable, and the stream of an older primary is cut."""
        if epoch > self.epochs.value:
            self.epochs.promise(epoch)
            key = self.index, self.volume
            self.world.promises[key] = max(epoch, self.world.promises.get(key, 0))
            if self.words[NodeWord.ROLE] == ROLE_PRIMARY:
                self.told_newer_epoch(epoch)
            self._cut_older()

    def follow_epoch(self, epoch: int) -> None:
        """The primary of this epoch is followed now."""
        self.epochs.note(epoch)
        if self.store.cluster_id() is None:
            self.store.set_cluster_id(CLUSTER_ID)
            (self.root / "joined").touch()

    def _cut_older(self) -> None:
        if self.up is not None and self.up.client.epoch < self.epochs.value:
            self.up.end()

    def told_newer_epoch(self, epoch: int) -> None:
        """Somebody knows a newer epoch."""
        for stream in list(self.streams):
            stream.end()
        self.later(0.001, lambda: self.step(lambda now: m.NewerEpoch(epoch, now)))

    def hello(self) -> Hello:
        """How it presents itself."""
        epoch = self.primary.epoch if self.primary.active else self.epochs.value
        return Hello(self.store.cluster_id() or "", self.store.node_id, self.name, epoch)

    def state(self) -> m.NodeState:
        """What it tells candidates."""
        position = self.database.position
        return m.NodeState(
            pod=self.name,
            uid=f"uid{self.birth}",
            epoch=self.epochs.value,
            cluster_id=self.store.cluster_id() or "",
            positions={NAME: (self.database.epoch, position.txid)} if position.txid else {},
            fence_ms=self.elector.fence_ms(self.now()),
            address=f"{self.name}:20202",
            store=self.store.node_id,
        )

    # -- elector ---------------------------------------------------------------------------

    def step(self, event: Callable[[Instant], m.Event]) -> None:
        """Hand an event over; lost when nobody lives, late when paused."""
        if not self.alive:
            return
        if self.world.time < self.paused_until:
            self.later(self.paused_until - self.world.time, lambda: self.step(event))
            return

        def run() -> None:
            self.elector.promised(self.epochs.value)
            for action in self.elector.step(event(self.now())):
                self.world.actions.act(self, action)

        self.enter(run)

    # -- streams ---------------------------------------------------------------------------

    def follow(self, pod: str) -> None:
        """Replicate from this primary."""
        if self.follows == pod and self.up is not None and self.up.alive:
            return
        self.unfollow()
        self.follows = pod
        self.later(0.01, self.connect)

    def unfollow(self) -> None:
        """Replicate from nobody."""
        self.follows = ""
        if self.up is not None:
            self.up.end()

    def connect(self) -> None:
        """Open a stream to the primary that is followed; tried again until it works."""
        if not self.follows or self.up is not None or self.primary.active:
            return
        world = self.world
        server = world.find(self.follows)
        if world.network.connects(self, server) and server.running_now and server.primary.active:
            self.up = Stream(server, self)
            server.streams[self.up] = None
            self.up.client.start()
        else:
            self.later(world.rng.uniform(0.2, 0.6), self.connect)

    def stream_ended(self, stream: Stream) -> None:
        """The stream to the primary is gone."""
        if self.up is stream:
            self.up = None
            if self.alive and self.follows:
                self.later(self.world.rng.uniform(0.05, 0.5), self.connect)

    # -- upkeep ----------------------------------------------------------------------------

    def housekeeping(self) -> None:
        """What the store's thread does: syncs, cuts, joins, removes."""
        rng = self.world.rng
        self.store.log.sync()
        if rng.random() < 0.05:
            cutter.cut(self.database, self.store.log)
            self.store.log.prepare_spare()
        if rng.random() < 0.01:
            compaction.compact_level(self.database, 1)
        if rng.random() < 0.01:
            retention.apply(self.database, RetentionPolicy(age_s=0, size_bytes=1 << 20), self.now().real_ns // 10**6)
        if rng.random() < 0.02:
            self.database.flush()
            self.store.ring.expire(self.store.log.sequence)
            self.database.tail.trim()

    def kept_operations(self) -> set[int]:
        """Operations whose transactions are in lost+found, or in files of a former volume."""
        found: set[int] = set()
        for path in sorted((self.root / "lost+found").glob("*/*.ltx")):
            with contextlib.suppress(OSError):
                found |= self.world.operations_of(path.read_bytes())
        return found
