"""Role labels of pods: ``-rw`` and ``-ro`` Services select by them.

Used by ``elected``. Level-triggered: what is wanted is kept until the API has it.

Rules:
    1. A new primary labels itself and takes the label from whoever else has it, both at once:
       an old primary that cannot be reached leaves the Service all the same.
    2. A replica changes its own label only, and one that was the primary leaves a moment for
       its successor to do so: EndpointSlices and proxies take in a change a second, so a Service
       that is empty between two of them stays empty for that second.
    3. As primary only with an open fence: one that was frozen, and does not know yet that it
       has a successor, leaves the successor's label alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from sqlitecluster.kubeapi import KubeAPI, KubeError, NotFound, Pod

if TYPE_CHECKING:
    from sqlitecluster.replicator.election_peers import Peers
    from sqlitecluster.replicator.services import ProblemBook

log = logging.getLogger(__name__)

ROLE: Final = "sqlitecluster.dev/role"
PRIMARY, REPLICA = "primary", "replica"
_AGAIN_S: Final = 1.0
_YIELD_S: Final = 1.0
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
        self._was_primary = False
        self._changed = asyncio.Event()

    def primary(self, _pod: str) -> None:
        """This node is the primary."""
        self._set(PRIMARY)

    def replica(self) -> None:
        """This node is none."""
        self._set(REPLICA)

    def _set(self, role: str) -> None:
        if role != self._role:
            self._was_primary = self._role == PRIMARY
            self._role = role
            self._changed.set()

    async def run(self) -> None:
        """Write what is wanted; look now and then whether it still is so."""
        fresh = False
        while True:
            self._changed.clear()
            if fresh and self._was_primary and await self._changes(_YIELD_S):
                continue
            done = not self._role or await self._write(trust=not fresh or self._was_primary)
            fresh = await self._changes(_LOOK_S if done else _AGAIN_S)

    async def _changes(self, limit_s: float) -> bool:
        """Wait for another role; False after the limit."""
        try:
            async with asyncio.timeout(limit_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _write(self, *, trust: bool) -> bool:
        if not self._is_allowed(self._role):
            return False
        role = self._role
        try:
            if not trust:  # a new role: do not look first
                await self._relabel(role, self._peers.pods, is_mine_right=False)
            pods = await self._peers.refresh()
            if role != self._role or not self._is_allowed(role):
                return False  # much can have happened while the API answered
            mine = next((pod for pod in pods if pod.name == self._peers.me), None)
            await self._relabel(role, pods, is_mine_right=mine is not None and mine.labels.get(ROLE) == role)
        except KubeError as error:
            self._problems.report(_CODE, f"the role label cannot be written: {error}")
            return False
        self._problems.clear(_CODE)
        return True

    def _is_allowed(self, role: str) -> bool:
        return role != PRIMARY or self._is_primary()

    async def _relabel(self, role: str, pods: Sequence[Pod], *, is_mine_right: bool) -> None:
        me = self._peers.me
        wanted = {} if is_mine_right else {me: role}
        if role == PRIMARY:
            wanted |= {pod.name: REPLICA for pod in pods if pod.name != me and pod.labels.get(ROLE) != REPLICA}
        await asyncio.gather(*(self._label(pod, label) for pod, label in wanted.items()))

    async def _label(self, pod: str, role: str) -> None:
        try:
            await self._api.patch_pod_labels(pod, {ROLE: role})
        except NotFound:
            log.info("pod %s is gone; no label needed", pod)
