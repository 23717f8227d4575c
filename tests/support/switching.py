"""Nodes whose role is given by hand: start them, hand over, ask for positions."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.cluster import Cluster
from support.node import Node


class RoleRefusedError(AssertionError):
    """A node refused a change of its role."""


class SwitchedNode(Node):
    """A node of role ``elected`` without an election."""

    def settings(self) -> dict[str, object]:
        """No role of its own."""
        found = {key: value for key, value in super().settings().items() if key != "primaryUrl"}
        return {**found, "role": "elected", **self._options}

    @property
    def peer(self) -> dict[str, str]:
        """How others follow this node."""
        return {"name": self.name, "url": f"http://127.0.0.1:{self.port('peers')}"}

    def post(self, path: str, limit_s: float = 60.0, **body: Any) -> dict[str, Any]:
        """POST to the local API; raises RoleRefusedError with what the node says."""
        request = urllib.request.Request(self.api + path, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            raise RoleRefusedError(f"{self.name} {path}: {error.read().decode()}") from error

    def positions(self, epoch: int | None = None) -> dict[str, list[int]]:
        """What is in the node's log; with ``epoch`` as a promise."""
        path = "/position" if epoch is None else f"/position?epoch={epoch}"
        return dict(json.loads(self.get(path))["positions"])


class SwitchedCluster(Cluster):
    """n1 … nN, all equal; ``primary`` is whoever it is now."""

    def __init__(self, folder: Path, nodes: int = 3, **options: object) -> None:
        super().__init__(folder, 0, **options)
        self.nodes = [SwitchedNode(folder, i + 1, self.base_port, **options) for i in range(nodes)]
        self.epoch = 0
        self.leader = 0

    @property
    def primary(self) -> Node:
        return self.nodes[self.leader]

    @property
    def others(self) -> list[SwitchedNode]:
        """Everybody but the primary."""
        return [node for node in self.switched if node is not self.primary]

    @property
    def switched(self) -> list[SwitchedNode]:
        """The nodes, with what they can do."""
        return [node for node in self.nodes if isinstance(node, SwitchedNode)]

    def begin(self, leader: int = 0) -> None:
        """The first primary."""
        self.epoch += 1
        self.leader = leader
        self.switched[leader].post("/role", role="primary", epoch=self.epoch)
        self.follow()

    def follow(self) -> None:
        """Everybody follows the primary."""
        peer = self.switched[self.leader].peer
        for node in self.others:
            node.post("/role", role="replica", primary=peer)

    def hand_over(self, to: int, *, limit_s: float = 10.0) -> float:
        """Drain, wait for the target, swap; returns the seconds between drain and the new primary."""
        old, new = self.switched[self.leader], self.switched[to]
        began = time.monotonic()
        try:
            positions = old.post("/drain", timeoutS=limit_s)["positions"]
            done = old.post("/acknowledged", name=new.name, positions=positions, timeoutS=limit_s)["acknowledged"]
            if not done:
                raise RoleRefusedError(f"{new.name} did not acknowledge {positions}; it has {new.positions()}")
        except RoleRefusedError:
            old.post("/resume")
            raise
        self.epoch += 1
        new.post("/role", role="primary", epoch=self.epoch)
        took = time.monotonic() - began
        self.leader = to
        self.follow()
        return took
