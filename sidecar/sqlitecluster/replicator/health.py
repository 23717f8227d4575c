"""Whether programs may start on this node, and whether others may use it: the probes of a pod.

Asked by the HTTP handlers of the metrics port, in an executor thread where files are looked at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sqlitecluster.errors import NotPrimary, Unavailable
from sqlitecluster.replicator.info import NodeView
from sqlitecluster.replicator.lag import NEVER
from sqlitecluster.replicator.rolechange import Roles

FENCE_LEFT_S: Final = 0.0


@dataclass(slots=True)
class Health:
    """The questions; each raises what is in the way."""

    view: NodeView
    roles: Roles

    def startup(self) -> None:
        """Programs may start: the directory is mounted, the role is known and what is there is current.

        Raises:
            Unavailable: not yet.
            NotPrimary: programs run on the primary only (``runOn``).
        """
        self._mounted()
        self._current()
        if self.view.node.config.run_on == "Primary" and not self.roles.is_primary:
            raise NotPrimary("programs run on the primary only (runOn: Primary)")

    def ready(self) -> None:
        """The node is of use to others.

        Raises:
            Unavailable: why it is not.
        """
        if self.view.node.problems.has("Fenced"):
            raise Unavailable("this pod is fenced (by spec.fence, or because the cluster hibernates)")
        self._current()
        if self.roles.is_primary:
            return
        if not self.view.connected():
            raise Unavailable("the stream to the primary is not open")
        limit_s, lag = self.view.node.config.max_lag_s, self.view.lag_ms()
        if limit_s and (lag == NEVER or lag > limit_s * 1000):
            raise Unavailable(f"the node is {lag} ms behind its primary, {limit_s:g} s are allowed")

    def _mounted(self) -> None:
        try:
            os.stat(self.view.node.mount_dir / ".role")
        except OSError as error:
            raise Unavailable(f"the directory is not mounted: {error.strerror}") from error

    def _current(self) -> None:
        if self.roles.is_primary:
            if self.roles.fence_left_s() <= FENCE_LEFT_S:
                raise Unavailable("the right to write has expired")
            return
        if self.roles.role.address is None:
            raise Unavailable("no primary is known")
        if not self.view.in_sync:
            raise Unavailable("this node is not in sync with its primary yet")
