"""Names, addresses and paths of one local cluster; pure: nothing here touches the machine.

Two clusters on one machine (the shared one and a test's own) differ in their state
folder only; everything with a machine-wide name carries a short hash of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_STATE = ROOT / ".cluster"

BRIDGE_NET = "10.88.0.0/24"
POD_NET = "10.89.0.0/16"
SERVICE_NET = "10.90.0.0/16"
API_SERVICE_ADDRESS = "10.90.0.1"
DNS_ADDRESS = "10.90.0.10"
CONTROL_ADDRESS = "10.88.0.2"
CLIENT_ADDRESS = "10.88.0.3"
API_PORT = 6443
FIRST_NODE_HOST = 10
DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Node:
    """One node: its number says everything else."""

    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def address(self) -> str:
        return f"10.88.0.{FIRST_NODE_HOST + self.number}"

    @property
    def pod_net(self) -> str:
        return f"10.89.{self.number}.0/24"


@dataclass(frozen=True)
class Layout:
    """Where one cluster lives and what its parts are called."""

    state: Path
    node_count: int = 3

    @cached_property
    def identity(self) -> str:
        """Short name that is part of every machine-wide name of this cluster."""
        return "sqc-" + hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(number) for number in range(1, self.node_count + 1))

    def node(self, name: str) -> Node:
        """The node of a name ("node2") or number ("2")."""
        for node in self.nodes:
            if name in (node.name, str(node.number)):
                return node
        raise KeyError(f"no node {name!r}; there are {', '.join(n.name for n in self.nodes)}")

    def namespace(self, part: str) -> str:
        """Network namespace of ``switch``, ``control``, ``client`` or a node's name."""
        return f"{self.identity}-{part}"

    def namespace_path(self, part: str) -> Path:
        return Path("/run/netns") / self.namespace(part)

    # What survives `down`: programs' links, image archives, the nodes' image stores.

    @property
    def bin(self) -> Path:
        return self.state / "bin"

    @property
    def images(self) -> Path:
        return self.state / "images"

    def store(self, node: Node) -> Path:
        """The node's containerd folder: images stay there."""
        return self.state / "store" / node.name

    # What `down` wipes.

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def pki(self) -> Path:
        return self.run / "pki"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @property
    def pids(self) -> Path:
        return self.run / "pids"

    @property
    def api_socket(self) -> Path:
        return self.run / "api.sock"

    def node_folder(self, node: Node) -> Path:
        return self.run / "nodes" / node.name

    def cgroup(self, part: str = "") -> str:
        """Path below every cgroup hierarchy's root."""
        return f"{self.identity}/{part}" if part else self.identity
