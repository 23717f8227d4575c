"""Who is who in the cluster: the certificate and kubeconfig of every component."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from localcluster.certificates import Authority, Pair, signing_key
from localcluster.layout import API_PORT, API_SERVICE_ADDRESS, CONTROL_ADDRESS, DOMAIN, Layout, Node

MASTERS = ("system:masters",)
USERS = {  # file name → user, groups
    "admin": ("kubernetes-admin", MASTERS),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "proxy": ("system:kube-proxy", ()),
    "provisioner": ("local-provisioner", MASTERS),
    "kubelet-client": ("kube-apiserver-kubelet-client", MASTERS),
}
API_URL = f"https://{CONTROL_ADDRESS}:{API_PORT}"


@dataclass(frozen=True)
class Identities:
    """All files of one cluster's identities."""

    ca: Pair
    front_ca: Pair
    front_client: Pair
    api: Pair
    tokens: Pair
    users: dict[str, Pair]
    node_clients: dict[str, Pair]
    node_servers: dict[str, Pair]


def make(layout: Layout) -> Identities:
    """Make all keys and certificates."""
    folder = layout.pki
    ca, front = Authority(folder, "ca"), Authority(folder, "front-proxy-ca")
    service = "kubernetes.default.svc"
    names = [
        "localhost",
        "127.0.0.1",
        CONTROL_ADDRESS,
        API_SERVICE_ADDRESS,
        "kubernetes",
        "kubernetes.default",
        service,
    ]
    return Identities(
        ca=ca.files,
        front_ca=front.files,
        front_client=front.issue("front-proxy-client", "front-proxy-client"),
        api=ca.issue("apiserver", "kube-apiserver", names=[*names, f"{service}.{DOMAIN}"]),
        tokens=signing_key(folder, "service-accounts"),
        users={file: ca.issue(file, name, groups) for file, (name, groups) in USERS.items()},
        node_clients={n.name: ca.issue(n.name, f"system:node:{n.name}", ("system:nodes",)) for n in layout.nodes},
        node_servers={n.name: _node_server(ca, n) for n in layout.nodes},
    )


def _node_server(ca: Authority, node: Node) -> Pair:
    return ca.issue(f"{node.name}-server", node.name, names=[node.name, node.address])


def kubeconfig(server: str, ca: Path, user: Pair, name: str = "sqlitecluster-local") -> str:
    """A kubeconfig with everything inside (JSON is YAML)."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _encoded(ca)}}],
        "users": [
            {
                "name": "admin",
                "user": {
                    "client-certificate-data": _encoded(user.cert),
                    "client-key-data": _encoded(user.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}],
        "current-context": name,
    }
    return json.dumps(content, indent=1) + "\n"


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
