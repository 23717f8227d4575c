"""The local Kubernetes cluster as tests use it.

    with kube.cluster(), kube.namespace("mine") as namespace:
        kube.apply(manifest, namespace)
        kube.wait_condition("pod/web", "Ready", namespace)

Lanes share one cluster. Who finds it running leaves it running; who had to start it
ends it. ``SQLITECLUSTER_STATE`` names another cluster's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from localcluster import Cluster, ClusterError
from localcluster.images import references
from localcluster.layout import DEFAULT_STATE, ROOT
from support.cluster import ClusterStartError

STATE_VARIABLE = "SQLITECLUSTER_STATE"
TEST_IMAGE = "local/busybox:1"  # on every node from the start; imagePullPolicy Never
ARCHIVES = ROOT / ".build" / "images"
DEPLOY_LIMIT_S = 900.0
NAMESPACE_GONE_S = 120.0

Found = TypeVar("Found")
Body = dict[str, Any]


@cache
def cluster_object() -> Cluster:
    """The cluster of this test run, up or not."""
    return Cluster(
        Path(os.environ.get(STATE_VARIABLE) or DEFAULT_STATE), say=lambda text: print(f"    {text}", flush=True)
    )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The running cluster; started when it does not run, and only then ended afterwards.

    Raises:
        ClusterStartError: this machine cannot have one, or it did not start.
    """
    ours = cluster_object()
    found_running = ours.is_up()
    try:
        ours.up()
    except ClusterError as error:
        raise ClusterStartError(str(error)) from error
    try:
        yield ours
    finally:
        if not found_running:
            ours.down()


@contextmanager
def deployed() -> Iterator[Cluster]:
    """The running cluster with this checkout's images and chart in it, as ``make deploy`` does."""
    with cluster() as running:
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tools"), "KUBECONFIG": str(running.kubeconfig)}
        done = subprocess.run(
            [sys.executable, "-m", "deploy"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=DEPLOY_LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ClusterStartError(f"deploying failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        yield running


def image(name: str) -> str:
    """The reference of an image of this checkout, by its content (after ``deployed()``)."""
    return references(ARCHIVES / f"{name}.tar")[-1]


def kubectl(*arguments: str, text: str | None = None, limit_s: float = 60.0) -> str:
    """Run kubectl, with ``text`` as its input; its output.

    Raises:
        ClusterError: it said no; the message is its own.
    """
    return cluster_object().kubectl(*arguments, text=text, limit_s=limit_s)


def helm(*arguments: str, limit_s: float = 300.0) -> str:
    """Run Helm; its output."""
    ours = cluster_object()
    command = [str(ours.helm_program), f"--kubeconfig={ours.kubeconfig}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise ClusterError(f"helm {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def client(argv: Sequence[str], *, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine beside the nodes, where pods, Services and their names can be reached."""
    command = cluster_object().client_command(argv)
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)


def apply(manifest: str | Body | Sequence[Body], namespace: str = "") -> str:
    """Apply YAML text, an object or several; kubectl's words."""
    if isinstance(manifest, str):
        text = manifest
    elif isinstance(manifest, Mapping):
        text = json.dumps(manifest)
    else:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
    where = ["--namespace", namespace] if namespace else []
    return kubectl(*where, "apply", "-f", "-", text=text)


def get(what: str, namespace: str = "", *, selector: str = "") -> Body:
    """An object ("pod/web") or a list of them ("pods")."""
    where = ["--namespace", namespace] if namespace else []
    which = ["--selector", selector] if selector else []
    found = json.loads(kubectl(*where, "get", what, *which, "-o", "json"))
    assert isinstance(found, dict)
    return found


def wait_for(what: str, look: Callable[[], Found], *, limit_s: float = 60.0, step_s: float = 0.25) -> Found:
    """Look again and again until the answer is true; an API that says no or nothing is asked again.

    Raises:
        AssertionError: it did not come true in time; with the last answer.
    """
    deadline = time.monotonic() + limit_s
    last: object = None
    while True:
        try:
            found = look()
            if found:
                return found
            last = found
        except (ClusterError, KeyError, IndexError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit_s:.0f} s; last seen: {last}")
        time.sleep(step_s)


def wait_condition(what: str, condition: str, namespace: str, *, limit_s: float = 60.0) -> Body:
    """Wait until an object has a condition that is True; the object."""

    def look() -> Body | None:
        found = get(what, namespace)
        conditions = found.get("status", {}).get("conditions", [])
        good = any(c["type"] == condition and c["status"] == "True" for c in conditions)
        return found if good else None

    return wait_for(f"{what} {condition}", look, limit_s=limit_s) or {}


@contextmanager
def namespace(prefix: str = "test", labels: Mapping[str, str] | None = None, *, wait: bool = True) -> Iterator[str]:
    """A fresh namespace; it is deleted in the end, and its end waited for unless told otherwise."""
    name = f"{prefix}-{uuid.uuid4().hex[:6]}"
    metadata = {"name": name, "labels": dict(labels or {})}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    try:
        yield name
    finally:
        _drop(name, wait)


def _drop(name: str, wait: bool) -> None:
    """Objects with finalizers go first, while whoever removes these still can."""
    try:
        if "sqliteclusters.sqlitecluster.dev" in kubectl("get", "crd", "-o", "name"):
            kubectl("--namespace", name, "delete", "sqliteclusters", "--all", "--wait=false")
        waiting = f"--timeout={NAMESPACE_GONE_S:.0f}s" if wait else "--wait=false"
        kubectl("delete", "namespace", name, waiting, limit_s=NAMESPACE_GONE_S + 10)
    except ClusterError as error:
        print(f"    namespace {name} is left: {error}", flush=True)
