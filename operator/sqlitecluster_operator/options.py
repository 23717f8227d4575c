"""The command line of the operator: values with their defaults. Pure."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

DEFAULT_LEASE: Final = "sqlitecluster-operator"


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator was told."""

    namespaces: tuple[str, ...]
    sidecar_image: str
    sidecar_pull_policy: str
    identity_url: str
    listen_identity: str
    liveness: str
    metrics: str
    max_concurrent_cluster_updates: int
    lease_namespace: str
    lease_name: str
    identity: str
    log_format: str
    log_level: str
    kubeconfig: str
    resync_s: float


def version() -> str:
    """The version of this package."""
    try:
        return metadata.version("sqlitecluster")
    except metadata.PackageNotFoundError:
        return "0"


def parser() -> argparse.ArgumentParser:
    """All flags, with what they mean."""
    made = argparse.ArgumentParser(
        prog="python -m sqlitecluster_operator",
        description="The operator of SQLiteCluster: makes the objects of each SQLiteCluster and keeps them right.",
    )
    add = made.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        metavar="NS",
        help="watch this namespace only (repeatable; default: all)",
    )
    add(
        "--sidecar-image",
        default=f"sqlitecluster-sidecar:{version()}",
        metavar="REF",
        help="image of the sidecar (default: %(default)s)",
    )
    add(
        "--sidecar-pull-policy",
        default="IfNotPresent",
        choices=("Always", "IfNotPresent", "Never"),
        help="(default: %(default)s)",
    )
    add(
        "--identity-url",
        default="",
        metavar="URL",
        help="where pods reach this operator for certificates, https://<service>.<namespace>.svc:8443",
    )
    add(
        "--listen-identity",
        default=":8443",
        metavar="HOST:PORT",
        help="listener for that; empty: none (default: %(default)s)",
    )
    add(
        "--liveness",
        default=":8080",
        metavar="HOST:PORT",
        help="listener for /healthz and /readyz (default: %(default)s)",
    )
    add("--metrics", default=":8081", metavar="HOST:PORT", help="listener for /metrics (default: %(default)s)")
    add(
        "--max-concurrent-cluster-updates",
        type=int,
        default=1,
        metavar="N",
        help="clusters that a new operator version updates at once (default: %(default)s)",
    )
    add(
        "--lease-namespace",
        default="",
        metavar="NS",
        help="where the operators' own Lease is (default: the operator's namespace)",
    )
    add("--lease-name", default=DEFAULT_LEASE, metavar="NAME", help="its name (default: %(default)s)")
    add("--log-format", default="text", choices=("text", "json"), help="(default: %(default)s)")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(default: %(default)s)")
    add(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="default: the cluster around the operator, else the usual kubeconfig",
    )
    add(
        "--resync-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="every cluster is looked at this often (default: %(default)s)",
    )
    add("--version", action="version", version=version())
    return made


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    made = parser()
    given = made.parse_args(arguments)
    if given.max_concurrent_cluster_updates < 1:
        made.error("--max-concurrent-cluster-updates must be at least 1")
    namespace = given.lease_namespace or own_namespace()
    return Options(
        namespaces=tuple(dict.fromkeys(given.namespace)),
        sidecar_image=given.sidecar_image,
        sidecar_pull_policy=given.sidecar_pull_policy,
        identity_url=given.identity_url or f"https://sqlitecluster-identity.{namespace}.svc:8443",
        listen_identity=given.listen_identity,
        liveness=given.liveness,
        metrics=given.metrics,
        max_concurrent_cluster_updates=given.max_concurrent_cluster_updates,
        lease_namespace=namespace,
        lease_name=given.lease_name,
        identity=f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}",
        log_format=given.log_format,
        log_level=given.log_level,
        kubeconfig=given.kubeconfig,
        resync_s=given.resync_seconds,
    )


def own_namespace() -> str:
    """Where this operator runs."""
    try:
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return os.environ.get("POD_NAMESPACE", "default")
