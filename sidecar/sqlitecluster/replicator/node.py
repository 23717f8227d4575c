"""Wiring of one replicator: store, role, streams, HTTP, and a clean stop.

Called by ``process``. The order of a start: shared memory, kept lock descriptors, store,
role (its thread), listeners, ``ready``.

Rules:
    1. The listeners are up before ``ready``; a port that is taken ends the process with
       PreflightError.
    2. SIGUSR1 says that a stop is near. SIGTERM, or the end of the life-line, stops: no new
       streams, role thread finishes what it has, store closes.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sqlitecluster import tokens
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replication.retention import RetentionPolicy
from sqlitecluster.replicator import through
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.dispatch import Committed, Dispatcher
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.events import EventHub
from sqlitecluster.replicator.health import Health
from sqlitecluster.replicator.http_api import Api, listen
from sqlitecluster.replicator.info import NodeView, version
from sqlitecluster.replicator.lag import LagMeter
from sqlitecluster.replicator.mending import Mender
from sqlitecluster.replicator.quorum import QuorumView
from sqlitecluster.replicator.role_api import RoleApi
from sqlitecluster.replicator.rolechange import Roles
from sqlitecluster.replicator.roles import Parts, Role
from sqlitecluster.replicator.services import (
    Bells,
    NodeServices,
    PeerIdentity,
    PrimaryAddress,
    Problem,
    SupervisorLink,
)
from sqlitecluster.replicator.snapshot_send import read_pages, read_settled
from sqlitecluster.replicator.stream_server import Positions, ReplicaStream, StreamHub
from sqlitecluster.replicator.verify_api import VerifyApi
from sqlitecluster.replicator.verifying import BackgroundVerifier
from sqlitecluster.shared import Bell, NodeWord, State
from sqlitecluster.store.housekeeper import Housekeeper
from sqlitecluster.store.node import NodeStore

if TYPE_CHECKING:
    from sqlitecluster.replicator.elected import Elected

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
        opener = through.Opener(fds["opener"], config.mount_dir)
        through.use(opener)
        tokens.ask_for(opener.token)
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
    loop.add_signal_handler(signal.SIGUSR1, replicator.hand_over)
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
        self._housekeeper = Housekeeper(node.store, policy, retention.interval_s, config.scrub_interval_s)
        self._hub = StreamHub(node, self.hello, self._counters, self._executor, read_settled)
        self._parts = Parts(node, self._hub, self._counters, self._lag, self.hello, self._executor, self._epochs)
        self.roles = Roles(self._parts)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._mender = Mender(node, self._executor, lambda: self.roles.role, lambda: self.streams)
        self._view = NodeView(
            node,
            self._counters,
            self._lag,
            connected=lambda: self.roles.role.connected,
            streams=lambda: list(self._hub.streams),
            waiting_bytes=lambda: self.roles.role.waiting_bytes,
            subscribers=lambda: self._events.count,
            primary_url=self._primary_url,
            positions=self.roles.positions,
        )
        self._events = EventHub(self._view.role)
        self._role_api = RoleApi(self._view, self.roles, self._hub, Health(self._view, self.roles))
        self._api = Api(
            self._view,
            self._events,
            self._executor,
            read_pages,
            self.roles.role.import_image,
            self._hub.handle,
            lambda: self.roles.role.cluster_changed(),
            self._role_api,
            self._mender.peers,
            VerifyApi(node, self._mender, self._executor),
        )
        self._elected: Elected | None = None
        self._runners: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._verifier = BackgroundVerifier(node, self._executor, self._mender.suspect)
        self._view.verifiers, self._view.damaged = self._verifier.verifiers, self._mender.damaged

    def hello(self) -> Hello:
        """How this node presents itself to others."""
        store = self._node.store
        name = self._node.config.name
        port = int(self._node.config.listen.peers.rpartition(":")[2] or 0)
        replication = self._node.config.replication
        return Hello(
            store.cluster_id() or "",
            store.node_id,
            name,
            self._epochs.value,
            version(),
            port=port,
            holds=replication.holds_back,
            zone=replication.zone,
        )

    async def start(self) -> None:
        """Start everything; returns when the node can be used.

        Raises:
            PreflightError: an address cannot be listened on.
        """
        node = self._node
        shutil.rmtree(node.config.data_dir / "staging", ignore_errors=True)  # half-done copies of an earlier process
        node.quorum.attach()
        node.quorum.on_committed = self._hub.committed
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
        self._parts.on_change = self._events.primary_changed
        self._parts.on_sync = self._synced
        self._parts.on_failure = self._failed
        self.roles.on_role = self._role_changed
        await self.roles.start()
        self._tasks = [asyncio.create_task(self._publish_lag()), asyncio.create_task(self._verifier.run())]
        self._tasks.append(asyncio.create_task(self._mender.run()))
        node.supervisor.ready()
        log.info("ready as %s, epoch %d", node.config.role, self._epochs.value)
        await self._take_part()

    async def failed(self) -> None:
        """Raises when the role cannot go on."""
        await asyncio.shield(self._failure)

    async def _take_part(self) -> None:
        """Begin to take part in the election, if there is one."""
        if self._node.config.election is None:
            return
        from sqlitecluster.replicator.elected import Elected

        self._elected = Elected(self)
        self._role_api.electing = self._elected.peers
        self._view.election = self._elected
        await self._elected.start()
        self._tasks.append(asyncio.create_task(self._election_ended(self._elected)))

    def hand_over(self) -> None:
        """The node is about to stop (SIGUSR1): give the role away, and go on as a replica until SIGTERM."""
        if self._elected is not None:
            self._elected.hand_over()

    async def _election_ended(self, elected: Elected) -> None:
        try:
            await elected.ended()
        except Exception as error:
            log.critical("the election ended by an unexpected error", exc_info=error)
            self._failed(error)

    async def stop(self) -> None:
        """Stop in the reverse order; every step is tried."""
        log.info("stopping")
        if self._elected is not None:
            await self._elected.stop()
        self._events.close()
        await self._hub.close()
        for task in self._tasks:
            task.cancel()
        await self.roles.stop()
        await self._mender.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._node.identity is not None:
            await self._node.identity.stop()
        await asyncio.to_thread(self._housekeeper.stop)
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._node.store.close()
        log.info("stopped")

    # what the election uses; see ``rolechange``

    @property
    def services(self) -> NodeServices:
        """What the parts of this process share."""
        return self._node

    @property
    def role_name(self) -> str:
        """``primary``, ``replica``, ``disconnected`` or ``fenced``."""
        return self.roles.name

    @property
    def epoch(self) -> int:
        """The newest epoch seen."""
        return self._epochs.value

    @property
    def is_draining(self) -> bool:
        """Whether a hand-off is being prepared."""
        return self.roles.is_draining

    @property
    def quorum(self) -> QuorumView:
        """What commits wait for, while this node is the primary."""
        return self._node.quorum

    @property
    def streams(self) -> list[ReplicaStream]:
        """Connected replicas."""
        return list(self._hub.streams)

    @property
    def on_newer_epoch(self) -> Callable[[int], None]:
        """Called in the loop when somebody knows a newer epoch than this primary's."""
        return self.roles.on_newer_epoch

    @on_newer_epoch.setter
    def on_newer_epoch(self, call: Callable[[int], None]) -> None:
        self.roles.on_newer_epoch = call

    async def become_primary(self, epoch: int) -> None:
        """See ``Roles.become_primary``."""
        await self.roles.become_primary(epoch)

    async def become_replica(self, primary: PrimaryAddress | None, limit_s: float | None = None) -> None:
        """See ``Roles.become_replica``."""
        await self.roles.become_replica(primary, limit_s)

    async def drain(self, deadline: float) -> dict[str, tuple[int, int, int]]:
        """See ``Roles.drain``."""
        return await self.roles.drain(deadline)

    async def resume(self) -> None:
        """See ``Roles.resume``."""
        await self.roles.resume()

    async def promise(self, epoch: int) -> dict[str, tuple[int, int, int]]:
        """See ``Roles.promise``."""
        return await self.roles.promise(epoch)

    async def wait_acknowledged(self, name: str, positions: Positions, deadline: float) -> bool:
        """See ``StreamHub.wait_acknowledged``."""
        return await self._hub.wait_acknowledged(name, positions, deadline)

    def set_fence(self, boot_ns: int, real_ns: int) -> None:
        """See ``Roles.set_fence``."""
        self.roles.set_fence(boot_ns, real_ns)

    def positions(self) -> dict[str, tuple[int, int, int]]:
        """See ``Roles.positions``."""
        return self.roles.positions()

    def _primary_url(self) -> str:
        address = self.roles.role.address
        return address.url if address is not None else ""

    def _role_changed(self, role: Role) -> None:
        self._api.import_image = role.import_image

    def _failed(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

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
