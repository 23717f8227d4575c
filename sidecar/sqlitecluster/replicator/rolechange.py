"""Changing a node's role while programs keep their databases open.

``Roles`` is driven by the election (``elected``), by the local API (a node of role
``elected`` without an election), or not at all (a static role). Its order of steps:

    to primary    take nothing more from the old primary, apply what was received; epoch
                  durable; capture marks behind what was applied; ROLE; then the locks go,
                  and open connections just start to work
    to replica    writing ends (``handover``); ROLE, so that nothing more can be written;
                  everything is captured; streams end; the replica's role takes the locks over
    drain         writing ends, everything is captured, this node stays the primary

Rules:
    1. One change at a time; each can be followed by any other.
    2. An epoch begins once, on one node: ``EpochFile`` decides.
    3. A fence of 0 is none. Once it has passed the mount refuses writes by itself; here
       only the ROLE word follows, for those who look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from sqlitecluster.errors import DrainTimeout, NotPrimary, SQLiteClusterError, Unavailable
from sqlitecluster.replication.lineage import make_cluster_id
from sqlitecluster.replicator.capture import drop_stale_spools
from sqlitecluster.replicator.handover import Handover
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.roles import Parts, PrimaryRole, ReplicaRole, Role
from sqlitecluster.replicator.services import PrimaryAddress
from sqlitecluster.replicator.work import WorkQueue
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_FENCED, ROLE_NAMES, ROLE_NONE, ROLE_PRIMARY, NodeWord, Word

log = logging.getLogger(__name__)

__all__ = ["PrimaryAddress", "Roles"]

APPLY_S: Final = 10.0
"""What was received has so long to be applied before a replica becomes the primary."""
LIMIT_S: Final = 10.0
"""Running transactions have so long to end when nothing else is configured."""
CAPTURE_S: Final = 5.0
TAIL_S: Final = 10.0
"""What a new primary inherited and is in doubt has so long to be acknowledged."""
_LOOK_S: Final = 0.01
_SUCCESSOR_S: Final = 2.0
_PROMISE_S: Final = 2.0


class Roles:
    """The role of this node, whatever it is at the moment."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._node = parts.node
        self._words = parts.node.state.node
        self._lock = asyncio.Lock()
        self._started = asyncio.Event()
        self._handover: Handover | None = None
        self._fence_timer: asyncio.TimerHandle | None = None
        self.on_role: Callable[[Role], None] = lambda _role: None
        """The role is another object now."""
        self.on_newer_epoch: Callable[[int], None] = lambda _epoch: None
        """Somebody knows a newer epoch than this primary's."""
        parts.hub.on_newer_epoch = self._newer_epoch
        config = parts.node.config
        address = PrimaryAddress(config.primary_name, config.primary_url) if config.primary_url else None
        self.role: Role = PrimaryRole(parts) if config.role == "primary" else ReplicaRole(parts, address)

    # looking

    @property
    def name(self) -> str:
        """``primary``, ``replica``, ``disconnected`` or ``fenced``."""
        return ROLE_NAMES[int(self._words[NodeWord.ROLE])]

    @property
    def is_primary(self) -> bool:
        """Whether this node captures (its fence may have passed)."""
        return isinstance(self.role, PrimaryRole)

    @property
    def incoming(self) -> WorkQueue | None:
        """Where a replica's transactions go; None: this node is no replica."""
        return self.role.applier.queue if isinstance(self.role, ReplicaRole) else None

    @property
    def is_draining(self) -> bool:
        """Whether programs cannot write because a hand-off is being prepared."""
        return self._handover is not None

    def positions(self) -> dict[str, tuple[int, int, int]]:
        """Name → (epoch, TXID, checksum) of the newest transaction that is in the log here."""
        found: dict[str, tuple[int, int, int]] = {}
        for name in self._node.store.names():
            db = self._node.find(name)
            if db is not None and not db.position.is_zero:
                found[name] = (db.epoch, db.position.txid, db.position.checksum)
        return found

    # beginning and end

    async def start(self) -> None:
        """Begin in the configured role; an elected node begins disconnected, whatever it was."""
        node = self._node
        if node.config.role == "primary":
            self._make_cluster()
            node.store.epoch = self._parts.epochs.begin()
        elif node.config.role == "elected":
            await self._start_elected()
        self._words[NodeWord.EPOCH] = self._parts.epochs.value
        if node.config.role != "elected":
            await self.role.start()
        self.on_role(self.role)
        self._started.set()

    async def stop(self) -> None:
        """The node stops."""
        if self._fence_timer is not None:
            self._fence_timer.cancel()
        async with self._lock:
            await self.role.stop()

    async def _start_elected(self) -> None:
        """An earlier process may have been the primary, and programs may be in the middle of something."""
        handover = Handover(self._node)
        await asyncio.to_thread(handover.meet_mount)  # from then on its databases are known
        if self._words[NodeWord.ROLE] in (ROLE_PRIMARY, ROLE_FENCED):
            await self._take_from_programs(handover, time.monotonic() + _SUCCESSOR_S)
        elif self._words[NodeWord.ROLE] == ROLE_NONE:
            await asyncio.to_thread(drop_stale_spools, self._node)
        handover.end()
        await self._become(ReplicaRole(self._parts, None, handover.databases))

    # changes

    async def become_primary(self, epoch: int) -> None:
        """Let programs write here. Valid while primary, too: then only the epoch is a newer one.

        Raises:
            StaleEpoch: somebody may know this epoch, or a newer one.
            SQLiteClusterError: a database cannot be brought up to what its log has; the node stays a replica.
        """
        async with self._changing():
            if isinstance(self.role, ReplicaRole):
                await self._promote(self.role, epoch)
            else:
                await asyncio.to_thread(self._parts.epochs.begin, epoch)
                await self._enter(epoch)
                self.role.cluster_changed()

    async def become_replica(self, primary: PrimaryAddress | None, limit_s: float | None = None) -> None:
        """Follow a primary; None: keep the locks and wait.

        ``limit_s``: how long running transactions may take; then their programs are cut off.
        """
        async with self._changing():
            if isinstance(self.role, ReplicaRole):
                self.role.follow(primary)
                return
            await self._demote(primary, self._limit_s if limit_s is None else limit_s)

    async def drain(self, deadline: float) -> dict[str, tuple[int, int, int]]:
        """Still the primary, but nobody can write and everything is captured; the positions.

        Raises:
            NotPrimary: there is nothing to drain.
            DrainTimeout: a transaction does not end; ``resume`` or ``become_replica`` follows.
        """
        async with self._changing():
            role = self.role
            if not isinstance(role, PrimaryRole):
                raise NotPrimary("only a primary can be drained")
            if self._handover is None:
                self._handover = Handover(self._node)
                await asyncio.to_thread(self._handover.begin)
            await asyncio.to_thread(self._handover.seize, deadline)
            await asyncio.to_thread(role.capture.finish, max(1.0, deadline - time.monotonic()))
            return self.positions()

    async def resume(self) -> None:
        """Call a drain off: programs write on."""
        async with self._changing():
            handover, self._handover = self._handover, None
            if handover is not None:
                await asyncio.to_thread(handover.release)

    async def promise(self, epoch: int) -> dict[str, tuple[int, int, int]]:
        """The positions, after which nothing of an epoch older than this one is taken any more."""
        await self._started.wait()  # what an earlier process left is captured by then
        epochs = self._parts.epochs
        if epoch > epochs.value:
            await asyncio.to_thread(epochs.promise, epoch)
            if isinstance(self.role, ReplicaRole):
                self.role.client.cut()
                await self.role.client.drained(_PROMISE_S)
            else:
                self._newer_epoch(epoch)
        return self.positions()

    def set_fence(self, boot_ns: int, real_ns: int) -> None:
        """Writes are refused from these moments on (CLOCK_BOOTTIME, CLOCK_REALTIME); 0, 0: no fence."""
        words = self._words
        words[NodeWord.FENCE_BOOT_NS], words[NodeWord.FENCE_REAL_NS] = boot_ns, real_ns
        if self._fence_timer is not None:
            self._fence_timer.cancel()
            self._fence_timer = None
        left_s = self.fence_left_s()
        if words[NodeWord.ROLE] == ROLE_FENCED and left_s > 0:
            words[NodeWord.ROLE] = ROLE_PRIMARY
            self._parts.on_change()
        if boot_ns or real_ns:
            self._fence_timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._fence_passed)

    def fence_left_s(self) -> float:
        """Seconds until the fence; infinite without one."""
        boot, real = self._words[NodeWord.FENCE_BOOT_NS], self._words[NodeWord.FENCE_REAL_NS]
        left = [float("inf")]
        if boot:
            left.append((boot - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9)
        if real:
            left.append((real - time.time_ns()) / 1e9)
        return min(left)

    # steps

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """One change at a time, and none before the start is finished: the listeners are up earlier."""
        await self._started.wait()
        async with self._lock:
            yield

    @property
    def _limit_s(self) -> float:
        election = self._node.config.election
        return election.demote_delay_s if election is not None else LIMIT_S

    async def _become(self, role: Role) -> None:
        self.role = role
        await role.start()
        self.on_role(role)

    async def _promote(self, old: ReplicaRole, epoch: int) -> None:
        began = time.monotonic()
        await asyncio.to_thread(self._parts.epochs.begin, epoch)
        await old.disconnect(APPLY_S)
        databases = await asyncio.to_thread(old.applier.retire)
        try:
            await self._acknowledge_tail()
            await asyncio.to_thread(self._hand_to_programs, old)
        except (SQLiteClusterError, OSError):
            await self._become(ReplicaRole(self._parts, None, {db.name: db for db in databases}))
            raise
        await self._enter(epoch)
        self._words[NodeWord.PROMOTIONS] += 1
        await self._become(PrimaryRole(self._parts))
        await asyncio.to_thread(_close_all, databases)
        log.info("primary of epoch %d after %.0f ms", epoch, (time.monotonic() - began) * 1000)

    async def _enter(self, epoch: int) -> None:
        self._node.store.epoch = epoch
        self._words[NodeWord.EPOCH] = epoch
        self._make_cluster()
        await asyncio.to_thread(self._stamp, epoch)

    def _stamp(self, epoch: int) -> None:
        """What is there belongs to the new epoch now: whoever has all of it may say so, too."""
        for name in self._node.store.names():
            db = self._node.find(name)
            if db is not None and not db.position.is_zero:
                db.set_epoch(epoch)

    async def _acknowledge_tail(self) -> None:
        """What this node has and may not show yet must be held by enough members before anybody sees it.

        Raises:
            Unavailable: it is not; the node stays a replica, and shows nothing of it.
        """
        node, quorum = self._node, self._node.quorum
        stores = [db for name in node.store.names() if (db := node.find(name)) is not None]
        tail = [db.name for db in stores if db.commit_limit is not None and db.commit_limit < db.position.txid]
        if not tail or not node.config.replication.is_quorum:
            return
        log.info("%s: transactions in doubt are given to the members first", ", ".join(tail))
        quorum.begin({db.name: db.position for db in stores}, {})
        self._parts.hub.primary = True
        deadline = time.monotonic() + TAIL_S
        while not quorum.has_enough():
            if time.monotonic() >= deadline:
                await self._parts.hub.shut()
                raise Unavailable(f"{', '.join(tail)}: not enough members hold what this node inherited")
            await asyncio.sleep(_LOOK_S)

    def _hand_to_programs(self, old: ReplicaRole) -> None:
        """Everything is visible, and capture knows where it goes on."""
        state = self._node.state
        for name in self._node.store.names():
            slot = state.find(name)
            if old.applier.make_ready(name) and slot is not None:
                words = state.slot(slot)
                # What the sidecar itself did to files is no news for capture.
                words[Word.GONE_DONE], words[Word.RAW_HINT_DONE] = words[Word.GONE_SEQ], words[Word.RAW_HINT]

    async def _demote(self, primary: PrimaryAddress | None, limit_s: float) -> None:
        role, began = self.role, time.monotonic()
        assert isinstance(role, PrimaryRole)
        handover, self._handover = self._handover or Handover(self._node), None
        await self._take_from_programs(handover, began + limit_s)
        with contextlib.suppress(SQLiteClusterError, OSError):  # reported there; what is left is taken over later
            await asyncio.to_thread(role.capture.finish, CAPTURE_S)
        await role.stop()
        await self._parts.hub.shut()
        self._node.store.epoch = 0
        self.set_fence(0, 0)
        await self._become(ReplicaRole(self._parts, primary, handover.databases))
        log.info("no primary any more after %.0f ms", (time.monotonic() - began) * 1000)

    async def _take_from_programs(self, handover: Handover, deadline: float) -> None:
        """End writing; after the deadline whoever writes is cut off."""
        await asyncio.to_thread(handover.begin)
        try:
            await asyncio.to_thread(handover.seize, deadline)
        except DrainTimeout as error:
            log.warning("a write transaction is cut off: %s", error.message)
        self._words[NodeWord.ROLE] = ROLE_DISCONNECTED
        await asyncio.to_thread(handover.meet_mount)
        handover.cut_off()
        handover.end()

    def _make_cluster(self) -> None:
        store = self._node.store
        if store.cluster_id() is None:
            store.set_cluster_id(make_cluster_id(os.urandom(8)))
            log.info("made cluster %s", store.cluster_id())

    def _newer_epoch(self, epoch: int) -> None:
        log.warning("somebody knows epoch %d, newer than this primary's", epoch)
        self.role.cluster_changed()
        self.on_newer_epoch(epoch)

    def _fence_passed(self) -> None:
        self._fence_timer = None
        if self._words[NodeWord.ROLE] != ROLE_PRIMARY:
            return
        left_s = self.fence_left_s()
        if left_s > 0:
            self._fence_timer = asyncio.get_running_loop().call_later(left_s, self._fence_passed)
            return
        self._words[NodeWord.ROLE] = ROLE_FENCED
        log.warning("the right to write has expired; writes are refused")
        self._parts.on_change()


def _close_all(databases: list[ReplicaDb]) -> None:
    for db in databases:
        db.close()
