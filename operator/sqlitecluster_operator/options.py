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
_CHOICES: Final = {
    "--sidecar-pull-policy": ("IfNotPresent", "Always", "Never"),
    "--log-format": ("text", "json"),
    "--log-level": ("info", "debug", "warning", "error"),
}
"""Flags with a few values, the default first."""


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
    everywhere = "watch this namespace only (repeatable; default: all)"
    made.add_argument("--namespace", action="append", default=[], metavar="NS", help=everywhere)
    for flag, default, metavar, text in _flags():
        shown = text + " (default: %(default)s)" if default not in ("", None) else text
        made.add_argument(flag, default=default, type=type(default), metavar=metavar, help=shown)
    for flag, choices in _CHOICES.items():
        made.add_argument(flag, default=choices[0], choices=choices, help="(default: %(default)s)")
    made.add_argument("--version", action="version", version=version())
    return made


def _flags() -> tuple[tuple[str, str | int | float, str, str], ...]:
    """Flag, default, what stands for its value, meaning."""
    url = "where pods reach this operator for certificates, https://<service>.<namespace>.svc:8443"
    api = "default: the cluster around the operator, else the usual kubeconfig"
    return (
        ("--sidecar-image", f"sqlitecluster-sidecar:{version()}", "REF", "image of the sidecar"),
        ("--identity-url", "", "URL", url),
        ("--listen-identity", ":8443", "HOST:PORT", "listener for that"),
        ("--liveness", ":8080", "HOST:PORT", "listener for /healthz and /readyz"),
        ("--metrics", ":8081", "HOST:PORT", "listener for /metrics"),
        ("--max-concurrent-cluster-updates", 1, "N", "clusters that a new operator version updates at once"),
        ("--lease-namespace", "", "NS", "where the operators' own Lease is (default: the operator's namespace)"),
        ("--lease-name", DEFAULT_LEASE, "NAME", "its name"),
        ("--kubeconfig", "", "FILE", api),
        ("--resync-seconds", 30.0, "S", "every cluster is looked at this often"),
    )


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
