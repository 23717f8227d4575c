"""Members and acknowledgements between the elector and the data path, while this node is the primary.

Used by ``elected``. ``QuorumView`` is what the data path has to offer (``replicator.quorum``).

Rules:
    1. Everything is asked of the data path in the very turn in which the elector is told.
    2. A volume becomes a member only when a pod that the API lists says that it has it.
    3. A member is gone when every listed pod has said which volume it has, and none has this
       one, for ``GONE_S``. A pod that does not answer keeps the volume that it had before; one that
       never answered may have any.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlitecluster.election import Elector, Instant, LeaseRecord
from sqlitecluster.election.instants import seconds
from sqlitecluster.election.membership import Wanted
from sqlitecluster.election.messages import DataPath, SetMembers
from sqlitecluster.election.notes import micro_time
from sqlitecluster.kubeapi import KubeError
from sqlitecluster.units import format_node_id

if TYPE_CHECKING:
    from sqlitecluster.config.model import Replication
    from sqlitecluster.replicator.election_peers import Peers

GONE_S: Final = 30.0
_LOOK_S: Final = 5.0
_SOON_S: Final = 0.25


class QuorumView(Protocol):
    """The data path's side."""

    on_short: Callable[[], None]

    def in_sync(self) -> frozenset[int]:
        """Connected replicas that have acknowledged everything; members or not."""

    def enough_without(self, replica: int, /) -> bool:
        """Whether everything stays acknowledged by enough members without this one."""

    def has_enough(self) -> bool:
        """Whether the configured number of those that count holds everything."""

    def set_members(self, members: frozenset[int] | None, /) -> None:
        """Whose acknowledgements count."""

    def degrade(self, is_degraded: bool, /) -> None:
        """Whether commits go on with fewer."""


def wanted(config: Replication, store: int) -> Wanted:
    """What a node is configured for."""
    return Wanted(store, config.acks if config.is_quorum else 0, config.durability == "Preferred")


class Members:
    """Looks at volumes for the elector."""

    def __init__(self, view: QuorumView, peers: Peers, elector: Elector, tell: Callable[[bool], None]) -> None:
        self._view = view
        self._peers = peers
        self._elector = elector
        self._stores: dict[str, int] = {}
        self._unsure = True
        self._missing: dict[int, Instant] = {}
        self._soon = asyncio.Event()
        if self.is_used:
            view.on_short = lambda: tell(True)

    @property
    def is_used(self) -> bool:
        """Whether commits wait for acknowledgements at all."""
        return self._elector.settings.wanted.acks > 0

    def look(self, now: Instant, *, short: bool = False) -> DataPath:
        """For the elector, now."""
        in_sync, record = self._view.in_sync(), self._elector.seen.record
        members = record.promise.members if record is not None else frozenset()
        pods = frozenset(self._stores.values())
        gone = self._gone(members - pods - {self._elector.settings.wanted.store}, now)
        spare = frozenset(store for store in gone if self._view.enough_without(store))
        if in_sync - pods:
            self._soon.set()
        return DataPath(in_sync, spare, pods, gone, now, self._view.has_enough(), short)

    def set(self, action: SetMembers) -> None:
        """What counts from now on."""
        self._view.set_members(action.members)
        self._view.degrade(action.degraded)

    async def run(self) -> None:
        """Know which pod has which volume."""
        while self.is_used:
            self._soon.clear()
            if self._elector.is_primary:
                await self._refresh()
            await asyncio.sleep(_SOON_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._soon.wait()

    async def _refresh(self) -> None:
        try:
            listed = {pod.name for pod in await self._peers.refresh()}
        except KubeError:
            self._unsure = True
            return
        answers, _known = await self._peers.ask(0)
        told = {peer.pod: peer.store for peer in answers if peer.store}
        self._stores = {pod: store for pod, store in (self._stores | told).items() if pod in listed}
        self._unsure = self._peers.me not in listed or bool(listed - {self._peers.me} - self._stores.keys())

    def _gone(self, missing: frozenset[int], now: Instant) -> frozenset[int]:
        if self._unsure or not self._elector.is_primary:
            missing = frozenset()
        self._missing = {store: self._missing.get(store, now) for store in missing}
        return frozenset(store for store, since in self._missing.items() if now.since(since) >= seconds(GONE_S))


def quorum_info(record: LeaseRecord | None) -> dict[str, Any] | None:
    """For ``/info``: what the Lease says; None: nothing."""
    promise = record.promise if record is not None else None
    if promise is None or not promise.members:
        return None
    since = promise.degraded_ns
    return {
        "members": [format_node_id(member) for member in sorted(promise.members)],
        "acks": promise.acks,
        "degradedSince": micro_time(since) if since is not None else None,
    }
