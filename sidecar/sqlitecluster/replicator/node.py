"""Wiring of one replicator: store, role, streams, HTTP, and a clean stop.

Called by ``process``. The order of a start: shared memory, kept lock descriptors, store,
role (its thread), listeners, ``ready``.

Rules:
    1. The listeners are up before ``ready``; a port that is taken ends the process with
       PreflightError.
    2. SIGTERM, or the end of the life-line, stops: no new streams, role thread finishes
       what it has, store closes.
    3. Only here are threads started: ``capture`` or ``apply``, ``store-housekeeper`` and a
       small pool for what reads disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.replication.lineage import Hello, make_cluster_id
from sqlitecluster.replication.retention import RetentionPolicy
from sqlitecluster.replicator import through
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.dispatch import Committed, Dispatcher
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.events import EventHub
from sqlitecluster.replicator.http_api import Api, listen
from sqlitecluster.replicator.info import NodeView, version
from sqlitecluster.replicator.lag import LagMeter
from sqlitecluster.replicator.roles import PrimaryRole, ReplicaRole, Role
from sqlitecluster.replicator.services import Bells, NodeServices, PeerIdentity, Problem, SupervisorLink
from sqlitecluster.replicator.snapshot_send import read_pages
from sqlitecluster.replicator.stream_server import StreamHub
from sqlitecluster.replicator.verifying import BackgroundVerifier
from sqlitecluster.shared import Bell, NodeWord, State
from sqlitecluster.store.housekeeper import Housekeeper
from sqlitecluster.store.node import NodeStore

log = logging.getLogger(__name__)

_POOL: Final = 4
_LAG_S: Final = 0.1


def open_services(config: NodeConfig, fds: dict[str, int]) -> NodeServices:
    """Everything that needs no event loop: shared memory, kept descriptors, the store."""
    state = State(fds["state"])
    bells = Bells(
        mount=Bell(fds["bell_mount"], state, NodeWord.MOUNT_SLEEPING),
        replicator=Bell(fds["bell_replicator"], state, NodeWord.REPLICATOR_SLEEPING),
    )
    if "opener" in fds:
        through.use(through.Opener(fds["opener"], config.mount_dir))
    supervisor = SupervisorLink.from_fd(fds["sup"])
    supervisor.receive_kept()
    store = NodeStore(config.data_dir, config.reserve_bytes)
    return NodeServices(config, store, state, bells, config.mount_dir, supervisor)


async def main(config: NodeConfig, fds: dict[str, int]) -> None:
    """Run one replicator until SIGTERM or the end of its supervisor."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if "lifeline" in fds:
        os.set_blocking(fds["lifeline"], False)
        loop.add_reader(fds["lifeline"], stop.set)
    replicator = Replicator(open_services(config, fds))
    try:
        await replicator.start()
        failed = asyncio.create_task(replicator.failed())
        waiter = asyncio.create_task(stop.wait())
        await asyncio.wait((failed, waiter), return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if failed.done():
            failed.result()
        failed.cancel()
    finally:
        if "lifeline" in fds:
            loop.remove_reader(fds["lifeline"])
        await replicator.stop()


class Replicator:
    """One node's replicating half."""

    def __init__(self, node: NodeServices) -> None:
        self._node = node
        config = node.config
        self._counters = Counters()
        self._lag = LagMeter()
        self._executor = ThreadPoolExecutor(_POOL, thread_name_prefix="disk")
        self._epochs = EpochFile(node.store)
        self._dispatcher = Dispatcher(asyncio.get_running_loop())
        retention = config.retention
        policy = RetentionPolicy(age_s=retention.age_s, size_bytes=retention.size_bytes)
        self._housekeeper = Housekeeper(node.store, policy, retention.interval_s)
        self._hub = StreamHub(node, self.hello, self._counters, self._executor, read_pages)
        self._role: Role
        if config.role == "primary":
            self._role = PrimaryRole(node, self._hub)
        else:
            self._role = ReplicaRole(node, self._counters, self._lag, self.hello, self._executor, self._epochs)
        self._view = NodeView(
            node,
            self._counters,
            self._lag,
            connected=lambda: self._role.connected,
            streams=lambda: list(self._hub.streams),
            waiting_bytes=lambda: self._role.waiting_bytes,
            subscribers=lambda: self._events.count,
        )
        self._events = EventHub(self._view.role)
        self._api = Api(
            self._view,
            self._events,
            self._executor,
            read_pages,
            self._role.import_image,
            self._hub.handle,
            self._role.cluster_changed,
        )
        self._runners: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._verifier = BackgroundVerifier(node, self._executor, self._role.damaged)

    def hello(self) -> Hello:
        """How this node presents itself to others."""
        store = self._node.store
        name = self._node.config.name
        return Hello(store.cluster_id() or "", store.node_id, name, self._epochs.value, version())

    async def start(self) -> None:
        """Start everything; returns when the node can be used.

        Raises:
            PreflightError: an address cannot be listened on.
        """
        node = self._node
        shutil.rmtree(node.config.data_dir / "staging", ignore_errors=True)  # half-done copies of an earlier process
        if node.config.role == "primary":
            self._begin_as_primary()
        node.state.node[NodeWord.EPOCH] = self._epochs.value
        self._dispatcher.listen(self._hub.transactions)
        self._dispatcher.listen(self._events.transactions)
        self._dispatcher.listen(self._api.transactions)
        self._dispatcher.listen(self._count)
        node.on_transaction = self._dispatcher.transaction
        loop = asyncio.get_running_loop()
        node.problems.on_change = lambda problem, _new: _soon(loop, self._events.problem, problem)
        self._housekeeper.start()
        node.identity = await _identity(node)
        await self._listen()
        self._role.on_change = self._events.primary_changed
        self._role.on_sync = self._synced
        await self._role.start()
        self._tasks = [asyncio.create_task(self._publish_lag()), asyncio.create_task(self._verifier.run())]
        node.supervisor.ready()
        log.info("ready as %s, epoch %d", node.config.role, self._epochs.value)

    async def failed(self) -> None:
        """Returns or raises when the role cannot go on."""
        await self._role.ended()

    async def stop(self) -> None:
        """Stop in the reverse order; every step is tried."""
        log.info("stopping")
        self._events.close()
        await self._hub.close()
        for task in self._tasks:
            task.cancel()
        await self._role.stop()
        for runner in self._runners:
            await runner.cleanup()
        if self._node.identity is not None:
            await self._node.identity.stop()
        await asyncio.to_thread(self._housekeeper.stop)
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._node.store.close()
        log.info("stopped")

    def _begin_as_primary(self) -> None:
        store = self._node.store
        if store.cluster_id() is None:
            store.set_cluster_id(make_cluster_id(os.urandom(8)))
            log.info("made cluster %s", store.cluster_id())
        self._epochs.begin()

    async def _listen(self) -> None:
        addresses = self._node.config.listen
        identity = self._node.identity
        tls = identity.server_context() if identity is not None else None
        for app, address, context in (
            (self._api.peers(), addresses.peers, tls),
            (self._api.monitoring(), addresses.metrics, None),
            (self._api.local(), addresses.api, None),
        ):
            runner = await listen(app, address, context)
            if runner is not None:
                self._runners.append(runner)

    def _count(self, batch: list[Committed]) -> None:
        table = self._counters.transactions
        for entry in batch:
            table[entry.name] = table.get(entry.name, 0) + 1

    def _synced(self) -> None:
        log.info("in sync")
        self._node.supervisor.state("in-sync")

    async def _publish_lag(self) -> None:
        while True:
            self._node.state.node[NodeWord.LAG_MS] = self._view.lag_ms()
            await asyncio.sleep(_LAG_S)


async def _identity(node: NodeServices) -> PeerIdentity | None:
    """The node's certificates, begun; what they need is imported only when there are any."""
    if node.config.identity is None:
        return None
    from sqlitecluster.identity.identity import Identity

    made = Identity(node.config, node.problems)
    await made.start()
    return made


def _soon(loop: asyncio.AbstractEventLoop, call: object, problem: Problem) -> None:
    """Hand a problem to the event loop from any thread; the loop may be closed already."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, problem)  # type: ignore[arg-type]
