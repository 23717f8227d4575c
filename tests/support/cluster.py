"""A primary and its replicas on this machine, for lanes, the benchmark and the demo.

``Cluster`` always ends what it started: use it as a context manager. Every wait has
a generous limit, because the test machine may be slow; passing it is a violation.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support import ports, processes
from support.node import Node, StartError, position_of

SYNC_LIMIT_S = 120.0

__all__ = ["Cluster", "ClusterStartError", "StartError", "SyncError"]


class ClusterStartError(StartError):
    """The first start of a cluster failed; nothing was tested yet."""


class SyncError(AssertionError):
    """A replica did not reach the primary's position within the limit."""


class Cluster:
    """Nodes n1 (primary), n2 … (replicas) below one folder."""

    def __init__(self, folder: Path, nodes: int = 2, *, has_failpoints: bool = True, **options: object) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.base_port = ports.take_base()
        self.nodes = [Node(folder, i + 1, self.base_port, **options) for i in range(nodes)]
        for node in self.nodes:
            node.has_failpoints = has_failpoints

    @property
    def primary(self) -> Node:
        return self.nodes[0]

    @property
    def replica(self) -> Node:
        return self.nodes[1]

    @property
    def followers(self) -> list[Node]:
        """Everybody but the primary."""
        return [node for node in self.nodes if node is not self.primary]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes at once and wait for each."""
        for node in self.nodes:
            node.launch()
        try:
            for node in self.nodes:
                node.wait_ready()
        except StartError as error:
            raise ClusterStartError(str(error)) from error

    def add_replica(self, **options: object) -> Node:
        """One more replica, started."""
        node = Node(self.folder, len(self.nodes) + 1, self.base_port, **options)
        self.nodes.append(node)
        node.start()
        return node

    def stop(self) -> bool:
        """Stop replicas, then the primary; True when all ended cleanly with nothing left mounted."""
        clean = [node.stop() for node in reversed(self.nodes)]
        processes.clear(self.folder)
        ports.give_back(self.base_port)
        return all(clean)

    def wait_synced(self, *names: str, limit_s: float = SYNC_LIMIT_S) -> None:
        """Wait until every replica has the primary's position of the databases (of all, without names).

        The primary's position must also cover its last write: it is read twice with a pause between.

        Raises:
            SyncError: the limit passed.
        """
        deadline = time.monotonic() + limit_s
        while (behind := self._behind(names)) is not None:
            if time.monotonic() > deadline:
                raise SyncError(f"not in sync after {limit_s:.0f} s: {behind}\n{self.log_tails()}")
            time.sleep(0.1)

    def _behind(self, names: tuple[str, ...]) -> str | None:
        before = _positions(self.primary)
        if before is None:
            return f"{self.primary.name} does not answer"
        time.sleep(0.25)
        wanted = _positions(self.primary)
        if wanted != before:
            return "the primary is still writing"
        for name in names:
            if name not in before:
                return f"{self.primary.name} does not know {name}"
        for node in self.followers:
            have = _positions(node)
            if have is None:
                return f"{node.name} does not answer"
            for name in names or before:
                if have.get(name) != before[name]:
                    return f"{name} is at {have.get(name)} on {node.name}, {before[name]} on {self.primary.name}"
        return None

    def log_tails(self, lines: int = 25) -> str:
        """The ends of all nodes' logs."""
        return "\n".join(node.log_tail(lines) for node in self.nodes)


def _positions(node: Node) -> dict[str, tuple[str, str] | None] | None:
    info = node.info()
    if info is None:
        return None
    return {str(d["name"]): position_of(d) for d in info.get("databases", []) if "name" in d}
