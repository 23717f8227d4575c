"""What a node does with its databases: capture them (primary) or apply to them (replica).

``node.Replicator`` makes one ``Role`` and drives it: ``start``, ``ended``, ``stop``.

Rules:
    1. The shared ROLE word is set before a program can be let in, and says what is true.
    2. The stream client, not the apply thread, owns the connection; they meet in the
       work queue only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

from sqlitecluster.errors import Unavailable
from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.apply import Applier
from sqlitecluster.replicator.capture import Capture
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.lag import NEVER, LagMeter
from sqlitecluster.replicator.receive import Receiver
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.stream_client import StreamClient
from sqlitecluster.replicator.stream_server import StreamHub
from sqlitecluster.shared import ROLE_PRIMARY, ROLE_REPLICA, NodeWord

log = logging.getLogger(__name__)


def _nothing() -> None:
    """Default of the callbacks."""


class Role(Protocol):
    """What ``node`` needs of either role."""

    on_change: Callable[[], None]
    """Called in the loop when the role, or the primary's name, changed."""
    on_sync: Callable[[], None]
    """Called in the loop when the node is in sync."""
    import_image: Callable[[str, Path], Position] | None

    @property
    def connected(self) -> bool: ...
    @property
    def waiting_bytes(self) -> int: ...
    async def start(self) -> None: ...
    async def ended(self) -> None: ...
    async def stop(self) -> None: ...
    def cluster_changed(self) -> None: ...
    def damaged(self, name: str) -> None: ...


class PrimaryRole:
    """Captures; streams to replicas."""

    def __init__(self, node: NodeServices, hub: StreamHub) -> None:
        self.on_change: Callable[[], None] = _nothing
        self.on_sync: Callable[[], None] = _nothing
        self._node = node
        self._hub = hub
        self._capture = Capture(node)
        self.import_image: Callable[[str, Path], Position] | None = self._import

    @property
    def connected(self) -> bool:
        """A primary has nobody to be connected to."""
        return True

    @property
    def waiting_bytes(self) -> int:
        """Nothing is applied here."""
        return 0

    async def start(self) -> None:
        """Recover what was not captured, then let programs in."""
        state = self._node.state
        state.set_primary_name("")
        await asyncio.to_thread(self._capture.start)
        state.node[NodeWord.ROLE] = ROLE_PRIMARY
        self._node.bells.mount.ring()
        self.on_change()
        self.on_sync()

    async def ended(self) -> None:
        """A primary goes on until it is stopped."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Capture what is there, then end the thread."""
        await asyncio.to_thread(self._capture.stop)

    def _import(self, name: str, path: Path) -> Position:
        self._capture.import_image(name, path)
        return self._node.store.open(name).position

    def cluster_changed(self) -> None:
        """Replicas of the old cluster must introduce themselves again."""
        for stream in list(self._hub.streams):
            stream.stop()

    def damaged(self, name: str) -> None:
        """Nobody has better content than the primary: a person must decide."""
        log.error("%s: the image is damaged; restore it, or import a good copy", name, extra={"code": "ImageDamaged"})


class ReplicaRole:
    """Follows the configured primary."""

    def __init__(
        self,
        node: NodeServices,
        counters: Counters,
        lag: LagMeter,
        hello: Callable[[], Hello],
        executor: Executor,
        epochs: EpochFile,
    ) -> None:
        self.on_change: Callable[[], None] = _nothing
        self.on_sync: Callable[[], None] = _nothing
        self.import_image: Callable[[str, Path], Position] | None = None
        self._node = node
        self._applier = Applier(node, self._room)
        receiver = Receiver(node, self._applier.queue, counters, executor)
        receiver.apply_now = self._applier.apply_now
        self._client = StreamClient(node, self._applier.queue, receiver, lag, hello, counters, epochs)
        self._applier.resync = self._client.resync
        self._applier.reclaim = self._client.reclaim
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the stream to the primary is open."""
        return self._client.connected

    @property
    def waiting_bytes(self) -> int:
        """Bytes of transactions that were received and not applied."""
        return self._applier.queue.waiting_bytes

    async def start(self) -> None:
        """Take the role's locks, then follow the primary."""
        node = self._node
        node.state.node[NodeWord.ROLE] = ROLE_REPLICA
        node.state.node[NodeWord.LAG_MS] = NEVER
        node.state.set_primary_name(node.config.primary_name)
        await asyncio.to_thread(self._applier.start)
        node.bells.mount.ring()
        self._client.on_primary = self.on_change
        self._client.on_sync = self.on_sync
        self._task = asyncio.create_task(self._client.run())

    async def ended(self) -> None:
        """Raises what ended the stream client; it never ends by itself."""
        if self._task is None:
            raise Unavailable("the stream client was not started")
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Disconnect, apply what is there, end the thread."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await asyncio.to_thread(self._applier.stop)

    def cluster_changed(self) -> None:
        """Introduce this node again, with its new cluster id."""
        self._client.again()

    def damaged(self, name: str) -> None:
        """Get the primary's content."""
        self._client.resync(name)

    def _room(self) -> None:
        self._client.room()
