"""Role labels of pods: ``-rw`` and ``-ro`` Services select by them.

Used by ``elected``. Level-triggered: what is wanted is kept until the API has it.

Rules:
    1. The primary labels itself first, then takes the label from whoever else has it: an old
       primary that cannot be reached leaves the Service all the same.
    2. A replica changes its own label only.
    3. As primary only with an open fence: one that was frozen, and does not know yet that it
       has a successor, leaves the successor's label alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlitecluster.kubeapi import KubeAPI, KubeError, NotFound

if TYPE_CHECKING:
    from sqlitecluster.replicator.election_peers import Peers
    from sqlitecluster.replicator.services import ProblemBook

log = logging.getLogger(__name__)

ROLE: Final = "sqlitecluster.dev/role"
PRIMARY, REPLICA = "primary", "replica"
_AGAIN_S: Final = 1.0
_LOOK_S: Final = 5.0
_CODE: Final = "RoleLabel"


class RoleLabels:
    """Keeps the labels as they should be."""

    def __init__(self, api: KubeAPI, peers: Peers, problems: ProblemBook, is_primary: Callable[[], bool]) -> None:
        self._api = api
        self._peers = peers
        self._problems = problems
        self._is_primary = is_primary
        self._role = ""
        self._changed = asyncio.Event()

    def primary(self, _pod: str) -> None:
        """This node is the primary."""
        self._set(PRIMARY)

    def replica(self) -> None:
        """This node is none."""
        self._set(REPLICA)

    def _set(self, role: str) -> None:
        if role != self._role:
            self._role = role
            self._changed.set()

    async def run(self) -> None:
        """Write what is wanted; look now and then whether it still is so."""
        fresh = False
        while True:
            self._changed.clear()
            done = not self._role or await self._write(trust=not fresh)
            fresh = False
            try:
                async with asyncio.timeout(_LOOK_S if done else _AGAIN_S):
                    await self._changed.wait()
                    fresh = True
            except TimeoutError:
                continue

    async def _write(self, *, trust: bool) -> bool:
        role, me = self._role, self._peers.me
        if role == PRIMARY and not self._is_primary():
            return False
        try:
            if not trust:
                await self._label(me, role)  # a new role: do not look first
            pods = {pod.name: pod for pod in await self._peers.refresh()}
            mine = pods.get(me)
            if role != self._role or (role == PRIMARY and not self._is_primary()):
                return False  # much can have happened while the API answered
            if mine is None or mine.labels.get(ROLE) != role:
                await self._label(me, role)
            if role == PRIMARY:
                others = [p.name for p in pods.values() if p.name != me and p.labels.get(ROLE) != REPLICA]
                await asyncio.gather(*(self._label(name, REPLICA) for name in others))
        except KubeError as error:
            self._problems.report(_CODE, f"the role label cannot be written: {error}")
            return False
        self._problems.clear(_CODE)
        return True

    async def _label(self, pod: str, role: str) -> None:
        try:
            await self._api.patch_pod_labels(pod, {ROLE: role})
        except NotFound:
            log.info("pod %s is gone; no label needed", pod)
