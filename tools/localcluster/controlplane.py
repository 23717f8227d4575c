"""Command lines of etcd, the control plane and the ways in to it. Pure: lists of words only."""

from __future__ import annotations

from pathlib import Path

from localcluster.layout import (
    API_PORT,
    CONTROL_ADDRESS,
    POD_NET,
    SERVICE_NET,
    Layout,
)
from localcluster.nodeconfig import VOLUMES
from localcluster.pki import Identities

ETCD_URL = "http://127.0.0.1:2379"
ETCD_PEER_URL = "http://127.0.0.1:2380"
PROVISIONER = "sqlitecluster.dev/local"
TOLERATED_S = 5


def etcd(layout: Layout, programs: Path) -> list[str]:
    return [
        str(programs / "etcd"),
        f"--data-dir={layout.run / 'etcd'}",
        "--unsafe-no-fsync",  # a cluster that is thrown away need not survive a crash
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        f"--listen-peer-urls={ETCD_PEER_URL}",
        f"--initial-advertise-peer-urls={ETCD_PEER_URL}",
        f"--initial-cluster=default={ETCD_PEER_URL}",
        "--log-level=warn",
    ]


def apiserver(programs: Path, who: Identities) -> list[str]:
    options = {
        "advertise-address": CONTROL_ADDRESS,
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "client-ca-file": who.ca.cert,
        "default-not-ready-toleration-seconds": TOLERATED_S,
        "default-unreachable-toleration-seconds": TOLERATED_S,
        "enable-admission-plugins": "NodeRestriction",
        "enable-aggregator-routing": "true",
        "etcd-servers": ETCD_URL,
        "kubelet-certificate-authority": who.ca.cert,
        "kubelet-client-certificate": who.users["kubelet-client"].cert,
        "kubelet-client-key": who.users["kubelet-client"].key,
        "kubelet-preferred-address-types": "InternalIP",
        "proxy-client-cert-file": who.front_client.cert,
        "proxy-client-key-file": who.front_client.key,
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-client-ca-file": who.front_ca.cert,
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "secure-port": API_PORT,
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": who.tokens.cert,
        "service-account-signing-key-file": who.tokens.key,
        "service-cluster-ip-range": SERVICE_NET,
        "tls-cert-file": who.api.cert,
        "tls-private-key-file": who.api.key,
    }
    return _command(programs / "kube-apiserver", options)


def controller_manager(layout: Layout, programs: Path, who: Identities) -> list[str]:
    config = kubeconfig_path(layout, "controller-manager")
    options = {
        "allocate-node-cidrs": "false",
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "cluster-cidr": POD_NET,
        "cluster-signing-cert-file": who.ca.cert,
        "cluster-signing-key-file": who.ca.key,
        "kubeconfig": config,
        "leader-elect": "false",
        "node-monitor-grace-period": "8s",
        "node-monitor-period": "1s",
        "requestheader-client-ca-file": who.front_ca.cert,
        "root-ca-file": who.ca.cert,
        "service-account-private-key-file": who.tokens.key,
        "use-service-account-credentials": "true",
    }
    return _command(programs / "kube-controller-manager", options)


def scheduler(layout: Layout, programs: Path) -> list[str]:
    config = kubeconfig_path(layout, "scheduler")
    options = {
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "kubeconfig": config,
        "leader-elect": "false",
    }
    return _command(programs / "kube-scheduler", options)


def provisioner(layout: Layout, programs: Path) -> list[str]:
    options = {
        "kubeconfig": kubeconfig_path(layout, "provisioner"),
        "name": PROVISIONER,
        "host-path": layout.run / "nodes" / "%s" / "volumes",
        "node-path": VOLUMES,
    }
    return _command(programs / "provisioner", options)


def way_out(layout: Layout) -> list[str]:
    """Inside the control plane's network: a unix socket, which other networks can reach, to the API."""
    return ["socat", f"UNIX-LISTEN:{layout.api_socket},fork,mode=600", f"TCP:{CONTROL_ADDRESS}:{API_PORT}"]


def way_in(layout: Layout, port: int) -> list[str]:
    """On the machine: a local port to that socket."""
    return [
        "socat",
        f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=128",
        f"UNIX-CONNECT:{layout.api_socket}",
    ]


def kubeconfig_path(layout: Layout, user: str) -> Path:
    return layout.pki / f"{user}.kubeconfig"


def _command(program: Path, options: dict[str, object]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]
