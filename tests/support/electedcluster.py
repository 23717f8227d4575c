"""Elected nodes on this machine: ``sqlitecluster node`` with role elected, and a Lease server.

Each node has a loopback address of its own and the same peers port, as pods do. The part
of the operator that matters here (making the Lease) is played by the test.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlitecluster.election.record import HANDOFF, HandOff, LeaseRecord
from support import ports, processes
from support.cluster import ClusterStartError
from support.leaseserver import LeaseServer
from support.node import Node, StartError

NAMESPACE, CLUSTER = "default", "demo"
ROLE = "sqlitecluster.dev/role"
DEFAULT_LEASE: Final = {"durationS": 12, "renewDeadlineS": 7, "retryPeriodS": 1, "marginMs": 1000}
LIMIT_S: Final = 60.0


class ElectedNode(Node):
    """A pod: its name, its uid, its address."""

    def __init__(self, folder: Path, index: int, base_port: int, api_url: str, **options: object) -> None:
        super().__init__(folder, index, base_port, **options)
        self.api_url = api_url
        self.births = 0
        self.address = f"127.0.0.{10 + index}"
        self.election: dict[str, object] = {}

    @property
    def uid(self) -> str:
        """Another one for each pod of this name."""
        return f"uid-{self.name}-{self.births}"

    @property
    def holder(self) -> str:
        """As the Lease names it."""
        return f"{self.name}_{self.uid}"

    def settings(self) -> dict[str, object]:
        """The configuration as it is written to node.yaml."""
        listen = {kind: f"127.0.0.1:{self.port(kind)}" for kind in ("metrics", "api")}
        listen["peers"] = f"{self.address}:{self._base_port + 2}"
        election: dict[str, object] = {
            "cluster": CLUSTER,
            "namespace": NAMESPACE,
            "podUID": self.uid,
            "address": self.address,
            "apiServer": self.api_url,
            "credentialsDir": str(self.folder / "no-credentials"),
            "lease": DEFAULT_LEASE,
            "switchoverTimeoutS": 20,
        }
        paths = {"dataDir": str(self.data), "mountDir": str(self.mount)}
        election |= self.election
        return {"name": self.name, **paths, "role": "elected", "listen": listen, "election": election, **self._options}

    def pod(self) -> dict[str, Any]:
        """Its Pod object."""
        labels = {"sqlitecluster.dev/cluster": CLUSTER}
        meta = {"name": self.name, "uid": self.uid, "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": {"podIP": self.address}}

    def role(self) -> str:
        """As ``/info`` says; empty while it does not answer."""
        return str((self.info() or {}).get("role", ""))

    def everyone(self) -> list[int]:
        """All processes of this node."""
        return processes.children_of(self.process.pid) if self.process is not None else []

    def signal_all(self, number: int) -> None:
        """To every process of the node at once: what a frozen or lost machine is to others."""
        for pid in self.everyone():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def freeze(self) -> None:
        """SIGSTOP."""
        self.signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal_all(signal.SIGCONT)


class ElectedCluster:
    """Nodes n1 … of one election."""

    def __init__(
        self, folder: Path, nodes: int = 3, election: Mapping[str, object] | None = None, **options: object
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.server = LeaseServer()
        self.base_port = ports.take_base()
        self._options = options
        self._election = dict(election or {})
        self._count = nodes
        self.nodes: list[ElectedNode] = []
        self._ids = 0

    def __enter__(self) -> Self:
        self.server.__enter__()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Make the objects, start the nodes, wait for a primary that all follow."""
        self.make_lease()
        for index in range(1, self._count + 1):
            url = self.server.door(f"n{index}")
            node = ElectedNode(self.folder, index, self.base_port, url, **self._options)
            node.election = dict(self._election)
            self.nodes.append(node)
            self.server.call(self.server.objects.create, "pods", NAMESPACE, node.pod())
            node.launch()
        try:
            for node in self.nodes:
                node.wait_ready()
        except StartError as error:
            raise ClusterStartError(str(error)) from error
        self.settled()

    def stop(self) -> bool:
        """Stop everything."""
        self.server.thaw()
        for node in self.nodes:
            self.server.mend(node.name)
            node.thaw()
        clean = [node.stop() for node in reversed(self.nodes)]
        processes.clear(self.folder)
        ports.give_back(self.base_port)
        self.server.__exit__()
        return all(clean)

    # -- the Lease -------------------------------------------------------------------

    def make_lease(self, epoch: int = 0) -> None:
        """What the operator does: at first without an epoch, after a deletion with the newest it knows."""
        notes = {"sqlitecluster.dev/epoch": str(epoch)} if epoch else {}
        value = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": CLUSTER, "annotations": notes},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 12},
        }
        self.server.call(self.server.objects.create, "leases", NAMESPACE, value)

    def delete_lease(self) -> None:
        """By hand."""
        self.server.call(self.server.objects.delete, "leases", NAMESPACE, CLUSTER)

    def record(self) -> LeaseRecord:
        """The Lease as it is."""
        return LeaseRecord.from_object(self.server.lease(NAMESPACE, CLUSTER) or {})

    def ask(self, to: str, kind: str = "handoff") -> str:
        """Request a hand-off as the operator does; returns its id."""
        self._ids += 1
        request = HandOff(f"id-{self._ids}", to, kind)
        change = {"metadata": {"annotations": {HANDOFF: request.to_json()}}}
        self.server.call(self.server.objects.patch, "leases", NAMESPACE, CLUSTER, change)
        return request.id

    def result(self, id_: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Wait for the end of a hand-off."""

        def ended(value: dict[str, Any]) -> bool:
            result = LeaseRecord.from_object(value).result
            return result is not None and result.id == id_ and result.phase in ("Completed", "Failed")

        found = self.server.wait(NAMESPACE, CLUSTER, ended, limit_s)
        if found is None:
            raise AssertionError(f"hand-off {id_} did not end: {self.record().result}\n{self.log_tails()}")
        return dict(json.loads(found["metadata"]["annotations"]["sqlitecluster.dev/handoff-result"]))

    # -- the nodes -------------------------------------------------------------------

    def node(self, name: str) -> ElectedNode:
        """By name."""
        return next(node for node in self.nodes if node.name == name)

    @property
    def primary(self) -> ElectedNode:
        """Whom the Lease names."""
        return self.node(self.record().pod)

    @property
    def replicas(self) -> list[ElectedNode]:
        """The others."""
        return [node for node in self.nodes if node.name != self.record().pod]

    def settled(self, limit_s: float = LIMIT_S) -> ElectedNode:
        """Wait until the Lease's holder is the primary and every running node follows it."""
        deadline, last = time.monotonic() + limit_s, ""
        while time.monotonic() < deadline:
            last = self._unsettled()
            if not last:
                return self.primary
            time.sleep(0.1)
        raise AssertionError(f"not settled after {limit_s:.0f} s: {last}\n{self.log_tails()}")

    def _unsettled(self) -> str:
        return unsettled((node for node in self.nodes if node.process is not None), self.record().pod)

    def labels(self) -> dict[str, str]:
        """Role labels by pod."""
        items = self.server.objects.items
        return {n.name: items["pods", NAMESPACE, n.name]["metadata"]["labels"].get(ROLE, "") for n in self.nodes}

    def log_tails(self, lines: int = 25) -> str:
        """The ends of all nodes' logs."""
        return "\n".join(node.log_tail(lines) for node in self.nodes)


def unsettled(nodes: Iterable[Node], primary: str) -> str:
    """Which of them is not what the Lease makes of it; empty: all are."""
    for node in nodes:
        info = node.info() or {}
        wanted = "primary" if node.name == primary else "replica"
        if info.get("role") != wanted or not info.get("connected"):
            return f"{node.name} is {info.get('role')} (connected {info.get('connected')}), not {wanted}"
        if wanted == "replica" and info.get("primary", {}).get("hostname") != primary:
            return f"{node.name} follows {info.get('primary')}"
    return "" if primary else "nobody holds the Lease"
