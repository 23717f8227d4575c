"""What a node does with its databases: capture them (primary) or apply to them (replica).

``rolechange`` makes one ``Role`` after the other and drives it: ``start``, ``stop``, and
what a change needs in between.

Rules:
    1. The shared ROLE word is set before a program can be let in, and says what is true.
    2. The stream client, not the apply thread, owns the connection; they meet in the
       work queue only.
    3. A role is started once and ended once; the next one is a new object.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import mend_primary
from sqlitecluster.replicator.apply import Applier
from sqlitecluster.replicator.capture import Capture
from sqlitecluster.replicator.checkpointing import Checkpoints
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.judging import Verdict
from sqlitecluster.replicator.lag import NEVER, LagMeter
from sqlitecluster.replicator.receive import Receiver
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.services import NodeServices, PrimaryAddress
from sqlitecluster.replicator.stream_client import StreamClient
from sqlitecluster.replicator.stream_server import StreamHub
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_PRIMARY, ROLE_REPLICA, NodeWord

log = logging.getLogger(__name__)

Import = Callable[[str, Path], Position]


def _nothing() -> None:
    """Default of the callbacks."""


def _no_failure(_error: BaseException) -> None:
    """Default of the callbacks."""


@dataclass(slots=True)
class Parts:
    """What roles work with; the callbacks are called in the event loop."""

    node: NodeServices
    hub: StreamHub
    counters: Counters
    lag: LagMeter
    hello: Callable[[], Hello]
    executor: Executor
    epochs: EpochFile
    on_change: Callable[[], None] = _nothing
    """The role, or the primary's name, changed."""
    on_sync: Callable[[], None] = _nothing
    """The node is in sync."""
    on_failure: Callable[[BaseException], None] = _no_failure
    """The role cannot go on."""


class Role(Protocol):
    """What others need of either role."""

    import_image: Import | None

    @property
    def connected(self) -> bool: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def address(self) -> PrimaryAddress | None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def cluster_changed(self) -> None: ...
    def damaged(self, name: str) -> None: ...
    def mend(self, name: str, suspects: Sequence[int], good: Mapping[int, bytes]) -> Verdict: ...


class PrimaryRole:
    """Captures; streams to replicas."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._node = parts.node
        self.capture = Capture(parts.node)
        self._checkpoints = Checkpoints(parts.node, self._announce)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.import_image: Import | None = self._import

    @property
    def connected(self) -> bool:
        """A primary has nobody to be connected to."""
        return True

    @property
    def waiting_bytes(self) -> int:
        """Nothing is applied here."""
        return 0

    @property
    def address(self) -> PrimaryAddress | None:
        """Nobody is followed."""
        return None

    async def start(self) -> None:
        """Capture what is there and what comes, let programs in."""
        state = self._node.state
        state.set_primary_name("")
        state.node[NodeWord.LAG_MS] = 0
        quorum, stores = self._node.quorum, [self._node.store.open(name) for name in self._node.store.names()]
        # A transaction in doubt is not: capture judges it, and commits it or what takes it back.
        committed = {db.name: db.in_flight - 1 if db.in_flight else db.position.txid for db in stores}
        quorum.begin({db.name: db.position for db in stores}, committed)
        await asyncio.to_thread(self.capture.start)
        quorum.hold(on=True)
        self.capture.attend()
        state.node[NodeWord.ROLE] = ROLE_PRIMARY
        self._node.bells.mount.ring()
        self._parts.hub.primary = True
        self._loop = asyncio.get_running_loop()
        self._checkpoints.start()
        self._parts.on_change()
        self._parts.on_sync()

    def _announce(self, name: str, txid: int) -> None:
        """[checkpoint thread] Tell the replicas."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._parts.hub.checkpointed, name, txid)

    async def stop(self) -> None:
        """Capture what is there, then end the thread."""
        await asyncio.to_thread(self._checkpoints.stop)
        self.capture.leave()
        await asyncio.to_thread(self.capture.stop)
        self._node.quorum.hold(on=False)

    def _import(self, name: str, path: Path) -> Position:
        self.capture.import_image(name, path)
        return self._node.store.open(name).position

    def cluster_changed(self) -> None:
        """Replicas must introduce themselves again."""
        for stream in list(self._parts.hub.streams):
            stream.stop()

    def damaged(self, name: str) -> None:
        """Nobody has better content than the primary: a person must decide."""
        log.error("%s: the image is damaged; restore it, or import a good copy", name, extra={"code": "ImageDamaged"})

    def mend(self, name: str, suspects: Sequence[int], good: Mapping[int, bytes]) -> Verdict:
        """[worker thread] Put good pages in the place of damaged ones."""
        return mend_primary.mend(self._node, self.capture, name, suspects, good)


class ReplicaRole:
    """Follows a primary, or waits until there is one."""

    def __init__(
        self, parts: Parts, address: PrimaryAddress | None, databases: dict[str, ReplicaDb] | None = None
    ) -> None:
        self.import_image: Import | None = None
        self._parts = parts
        self._node = node = parts.node
        self.applier = Applier(node, self._room, databases=databases)
        receiver = Receiver(node, self.applier.queue, parts.counters, parts.executor)
        receiver.apply_now = self.applier.apply_now
        self.client = StreamClient(
            node, self.applier.queue, receiver, parts.lag, parts.hello, parts.counters, parts.epochs
        )
        self.client.follow(address)
        self.applier.resync = self.client.resync
        self.applier.on_logged = self.client.logged
        self.applier.reclaim = self.client.reclaim
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the stream to the primary is open."""
        return self.client.connected

    @property
    def waiting_bytes(self) -> int:
        """Bytes of transactions that were received and not applied."""
        return self.applier.queue.waiting_bytes

    @property
    def address(self) -> PrimaryAddress | None:
        """Whom this node follows."""
        return self.client.address

    async def start(self) -> None:
        """Take the role's locks, then follow the primary."""
        node = self._node
        self._show()
        await asyncio.to_thread(self.applier.start)
        node.bells.mount.ring()
        self.client.on_primary = self._parts.on_change
        self.client.on_sync = self._parts.on_sync
        self._task = asyncio.create_task(self.client.run())
        self._task.add_done_callback(self._ended)
        self._parts.on_change()

    def follow(self, address: PrimaryAddress | None) -> None:
        """Another primary, or none."""
        if address == self.client.address:
            return
        self.client.follow(address)
        self._show()
        self._parts.on_change()

    async def disconnect(self, apply_s: float) -> None:
        """Take nothing more; what was received is applied first, for so long."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if not await self.client.drained(apply_s):
            log.warning("some of what was received could not be applied in time")

    async def stop(self) -> None:
        """Disconnect, end the thread; the locks stay with the supervisor."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await asyncio.to_thread(self.applier.stop)

    def cluster_changed(self) -> None:
        """Introduce this node again, with its new cluster id."""
        self.client.again()

    def damaged(self, name: str) -> None:
        """Get the primary's content."""
        self.client.resync(name)

    def mend(self, name: str, suspects: Sequence[int], good: Mapping[int, bytes]) -> Verdict:
        """[worker thread] Put good pages in the place of damaged ones."""
        return self.applier.mend(name, suspects, good)

    def _show(self) -> None:
        address, state = self.client.address, self._node.state
        self._parts.lag.reset()
        state.node[NodeWord.LAG_MS] = NEVER
        state.set_primary_name(address.name if address is not None else "")
        state.node[NodeWord.ROLE] = ROLE_REPLICA if address is not None else ROLE_DISCONNECTED

    def _room(self) -> None:
        self.client.room()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._parts.on_failure(error)
