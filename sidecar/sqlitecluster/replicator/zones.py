"""Zones of pods: of one zone at most one acknowledgement counts (``replication.quorum``).

The operator writes the value of the node's label that ``spec.replication.spread`` names on each pod;
every list of pods brings all of them. So the primary knows the zones of its replicas itself, also of
one that was connected before the operator had told it, and no replica can claim another one.

Event loop only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlitecluster.kubeapi import Pod


class Zones:
    """Name of a pod → its zone, as far as the operator told it."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called after a zone changed: who counts acknowledgements has to count again."""

    def seen(self, pods: Iterable[Pod]) -> None:
        """A list of all pods; what it does not say is not known any more."""
        told = {pod.name: pod.zone for pod in pods if pod.zone is not None}
        if told != self._told:
            self._told = told
            self.on_change()

    def of(self, name: str, configured: str) -> str:
        """The zone of a node: what the operator told, else what the node's own configuration says."""
        return self._told.get(name, configured)
