"""One scene for the operator: a namespace of its own, an operator, puppets, and what a test asks of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcluster import ClusterError
from localcluster.layout import ROOT
from support import kube
from support.faultproxy import FaultProxy
from support.operatorprocess import LEADER_LEASE, OperatorProcess
from support.puppets import NOWHERE, Puppets

READY_LIMIT_S = 60.0
CRD = ROOT / "crds" / "sqliteclusters.yaml"


@dataclass(slots=True)
class Scene:
    """What a test has in its hands."""

    namespace: str
    operator: OperatorProcess
    puppets: Puppets
    proxy: FaultProxy
    folder: Path
    extra: list[OperatorProcess] = field(default_factory=list)

    def apply(self, name: str = "notes", **spec: Any) -> None:
        """Apply a SQLiteCluster."""
        kube.apply(manifest(name, **spec), self.namespace)

    def patch(self, body: str, name: str = "notes") -> None:
        """Merge patch a SQLiteCluster."""
        kube.kubectl("-n", self.namespace, "patch", "sqlitecluster", name, "--type=merge", "-p", body)

    def annotate(self, *pairs: str, name: str = "notes") -> None:
        """Annotate a SQLiteCluster."""
        kube.kubectl("-n", self.namespace, "annotate", "sqlitecluster", name, "--overwrite", *pairs)

    def get(self, what: str) -> dict[str, Any]:
        """An object of the namespace, or a list."""
        return kube.get(what, self.namespace)

    def exists(self, what: str) -> bool:
        """Whether an object is there."""
        with suppress(ClusterError):
            self.get(what)
            return True
        return False

    def status(self, name: str = "notes") -> dict[str, Any]:
        """The status of a SQLiteCluster."""
        found = self.get(f"sqlitecluster/{name}").get("status") or {}
        assert isinstance(found, dict)
        return found

    def ready(self, name: str = "notes", count: int | None = None, limit_s: float = READY_LIMIT_S) -> dict[str, Any]:
        """Wait until the cluster is Ready for its present generation; its status."""

        def look() -> dict[str, Any] | None:
            whole = self.get(f"sqlitecluster/{name}")
            status, wanted = whole.get("status") or {}, count or whole["spec"]["instances"]
            good = condition(status).get("status") == "True" and status.get("ready") == f"{wanted}/{wanted}"
            current = status.get("observedGeneration") == whole["metadata"]["generation"]
            return status if good and current and status.get("instances") == wanted else None

        try:
            return kube.wait_for(f"{name} Ready", look, limit_s=limit_s) or {}
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status(name)}\n{self.operator.tail()}") from error

    def reason(self, wanted: str, name: str = "notes", limit_s: float = 40.0) -> Mapping[str, Any]:
        """Wait until Ready has this reason; the condition."""

        def look() -> Mapping[str, Any] | None:
            found = condition(self.status(name))
            return found if found.get("reason") == wanted else None

        return self.until(f"Ready reason {wanted}", look, limit_s) or {}

    def until(self, what: str, look: Callable[[], Any], limit_s: float = 40.0) -> Any:
        """Wait for something; with the operator's log when it does not come."""
        try:
            return kube.wait_for(what, look, limit_s=limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.operator.tail()}") from error

    def pods(self) -> list[dict[str, Any]]:
        """All pods of the namespace that are not being deleted, by name."""
        found = [pod for pod in self.get("pods")["items"] if not pod["metadata"].get("deletionTimestamp")]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def forget_leader(self) -> None:
        """Nobody leads: who starts need not wait for the Lease of one that was killed."""
        kube.kubectl("-n", self.namespace, "delete", "lease", LEADER_LEASE, "--ignore-not-found")

    def another(self) -> OperatorProcess:
        """A second operator for the same namespace."""
        folder = self.folder / f"operator-{len(self.extra) + 2}"
        folder.mkdir()
        made = OperatorProcess(folder, self.operator.kubeconfig, (self.namespace,), self.namespace, *FAST)
        self.extra.append(made)
        return made


FAST = ("--resync-seconds", "10", "--sidecar-image", "sidecar:1")


@contextmanager
def scene(
    folder: Path, *, start: bool = True, play: bool = True, labels: Mapping[str, str] | None = None
) -> Iterator[Scene]:
    """A namespace with an operator for it alone; everything ends with the scene."""
    with kube.cluster() as running, others_paused(), kube.namespace("operator", labels, wait=False) as namespace:
        install_crd()
        proxy = FaultProxy(running.kubeconfig, folder)
        operator = OperatorProcess(folder, proxy.start(), (namespace,), namespace, *FAST)
        puppets = Puppets(running.kubeconfig, (namespace,))
        made = Scene(namespace, operator, puppets, proxy, folder)
        try:
            if play:
                puppets.start()
            if start:
                operator.start()
                operator.wait_leading()
            yield made
        finally:
            _end(made, play)


def _end(made: Scene, played: bool) -> None:
    made.proxy.decide = lambda _number, _method, _path: ""
    for one in made.extra:
        one.kill()
    made.operator.kill()
    with suppress(ClusterError):
        for found in made.get("sqliteclusters")["items"]:
            release(made.namespace, found["metadata"]["name"])
    if played:
        made.puppets.stop()
    made.proxy.stop()


def release(namespace: str, name: str) -> None:
    """What the documentation tells to do when a SQLiteCluster must go without an operator."""
    kube.kubectl(
        "-n", namespace, "patch", "sqlitecluster", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )  # fmt: skip


@contextmanager
def others_paused() -> Iterator[None]:
    """Operators that are deployed for all namespaces would look after the scene's clusters too: they rest so long."""
    ours = ("-l", "app.kubernetes.io/name=sqlitecluster-operator")
    found = json.loads(kube.kubectl("get", "deployments.apps", "--all-namespaces", *ours, "-o", "json"))
    resting = [
        one["metadata"]
        for one in found["items"]
        if one["spec"].get("replicas") and not _is_namespaced(one["spec"]["template"]["spec"]["containers"][0])
    ]
    for meta in resting:
        kube.kubectl("-n", meta["namespace"], "scale", "deployment", meta["name"], "--replicas=0")
        kube.kubectl("-n", meta["namespace"], "wait", "pod", "--for=delete", *ours, "--timeout=60s", limit_s=70)
    try:
        yield
    finally:
        for meta in resting:
            kube.kubectl("-n", meta["namespace"], "scale", "deployment", meta["name"], "--replicas=1")


def _is_namespaced(container: Mapping[str, Any]) -> bool:
    return any(str(one).startswith("--namespace") for one in container.get("args") or ())


def install_crd() -> None:
    """The CRD of this checkout."""
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    kube.kubectl("wait", "--for=condition=Established", "crd/sqliteclusters.sqlitecluster.dev", "--timeout=20s")


def manifest(name: str = "notes", image: str = "notes:1", **spec: Any) -> dict[str, Any]:
    """A SQLiteCluster whose pods no node runs."""
    pod = {
        "containers": [{"name": "app", "image": image, "ports": [{"name": "http", "containerPort": 80}]}],
        "nodeSelector": NOWHERE,
    }
    whole = {"instances": 3, "storage": {"size": "64Mi"}, "template": {"spec": pod}, **spec}
    return {
        "apiVersion": "sqlitecluster.dev/v1alpha1",
        "kind": "SQLiteCluster",
        "metadata": {"name": name},
        "spec": whole,
    }


def condition(status: Mapping[str, Any], kind: str = "Ready") -> Mapping[str, Any]:
    """A condition of a status; empty when there is none."""
    return next((one for one in status.get("conditions") or () if one["type"] == kind), {})
