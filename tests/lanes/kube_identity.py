"""Lane ``kube_identity``: certificates against a real API server and real kubelets.

Tokens are the ones that kubelet projects, or that the API server makes for a pod; TokenReview,
Secret, ConfigMap and pods are real. The endpoint runs in this process: pods cannot reach it, so
the lane asks in their place, with what lies in their volumes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlitecluster.errors import IdentityError
from sqlitecluster.identity import signer
from sqlitecluster.identity.certificates import Held
from sqlitecluster.identity.files import Kept, Projected
from sqlitecluster_operator.identity import ca, secrets
from sqlitecluster_operator.identity.claims import AUDIENCE
from sqlitecluster_operator.identity.kube import KubeCalls
from sqlitecluster_operator.identity.secrets import OPERATOR_SECRET, ROTATE, NotOurs
from sqlitecluster_operator.identity.service import IdentityService
from sqlitecluster_operator.runtime.api import configuration, connect
from support import kube
from support.lane import Run, scene_main

MOUNTED = "/var/run/sqlitecluster/identity"
DEFINITION = Path(__file__).parents[2] / "crds" / "sqliteclusters.yaml"
PROPAGATION_LIMIT_S = 240.0
"""kubelet looks at ConfigMaps about each minute; a rotation waits ten for it."""


class Endpoint:
    """The operator's endpoint, in a thread, as an administrator of the cluster."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._api = connect(configuration(str(kubeconfig)))
        self.calls = KubeCalls(self._api)
        self.service = IdentityService(self.calls, namespace, "https://localhost:1")
        self.url = f"https://localhost:{self.do(self.service.start('127.0.0.1', 0))}"

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the endpoint's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        """Stop listening."""
        self.do(self.service.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._api.close()


@dataclass
class Scene:
    """One namespace with two clusters, their pods, and the endpoint."""

    namespace: str
    endpoint: Endpoint
    folder: Path

    def cluster(self, name: str) -> dict[str, Any]:
        return kube.get(f"sqlitecluster/{name}", self.namespace)

    def ensure(self, name: str) -> secrets.Ensured:
        done = self.endpoint.do(self.endpoint.service.ensure(self.cluster(name)))
        assert isinstance(done, secrets.Ensured)
        return done

    def obtain(self, cluster: str, pod: str, token: str) -> Held:
        """Ask as a pod would, with this token."""
        folder = self.folder / "projected"
        folder.mkdir(exist_ok=True)
        for name, text in kube.get(f"configmap/{cluster}-trust", self.namespace)["data"].items():
            (folder / name).write_text(text)
        own = kube.get(f"secret/{OPERATOR_SECRET}", self.namespace)["data"]["tls.crt"]
        (folder / "operator-ca.crt").write_bytes(base64.b64decode(own))  # another operator may be deployed here too
        (folder / "token").write_text(token)
        kept = Kept(self.folder / pod)
        title = f"{self.namespace}/{cluster}"
        held = self.endpoint.do(signer.obtain(Projected(folder, self.endpoint.url), kept, title, pod, 3600))
        assert isinstance(held, Held)
        return held

    def token(self, account: str, *options: str) -> str:
        """A token from the API server."""
        return kube.kubectl("--namespace", self.namespace, "create", "token", account, *options).strip()

    def bound(self, account: str, pod: str, audience: str = AUDIENCE) -> str:
        """A token bound to a pod, as kubelet asks for it."""
        uid = kube.get(f"pod/{pod}", self.namespace)["metadata"]["uid"]
        what = ["--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--bound-object-uid={uid}"]
        return self.token(account, f"--audience={audience}", *what)

    def read(self, pod: str, name: str) -> str:
        """A file of the pod's projected volume."""
        return kube.kubectl("--namespace", self.namespace, "exec", pod, "--", "cat", f"{MOUNTED}/{name}")


# -- manifests -------------------------------------------------------------------------


def _cluster(name: str) -> kube.Body:
    return {
        "apiVersion": "sqlitecluster.dev/v1alpha1",
        "kind": "SQLiteCluster",
        "metadata": {"name": name},
        "spec": {"instances": 1, "suspend": True, "storage": {"size": "1Gi"}},
    }


def _pod_spec(cluster: str) -> kube.Body:
    token = {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    sources = [{"serviceAccountToken": token}, {"configMap": {"name": f"{cluster}-trust"}}]
    return {
        "serviceAccountName": cluster,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "shell",
                "image": kube.TEST_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["sleep", "100000"],
                "volumeMounts": [{"name": "identity", "mountPath": MOUNTED}],
            }
        ],
        "volumes": [{"name": "identity", "projected": {"sources": sources}}],
    }


def _stateful_set(owner: kube.Body) -> kube.Body:
    name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name, "uid": uid, "controller": True}
    labels = {"lane": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "ownerReferences": [reference]},
        "spec": {
            "replicas": 1,
            "serviceName": f"{name}-pods",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(name)},
        },
    }


@contextlib.contextmanager
def scene(run: Run) -> Iterator[Scene]:
    with kube.cluster() as cluster, kube.namespace("lane-identity") as namespace:
        if "sqliteclusters.sqlitecluster.dev" not in kube.kubectl("get", "crd", "-o", "name"):
            kube.kubectl(
                "apply", "--server-side", "-f", str(Path(__file__).parents[2] / "crds" / "sqliteclusters.yaml")
            )
            kube.kubectl("wait", "--for=condition=Established", "crd/sqliteclusters.sqlitecluster.dev")
        endpoint = Endpoint(cluster.kubeconfig, namespace)
        try:
            it = Scene(namespace, endpoint, run.folder)
            for name in ("notes", "other"):
                _make(it, name)
            yield it
        finally:
            endpoint.close()


def _make(it: Scene, name: str) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    kube.apply([_cluster(name), account], it.namespace)
    it.ensure(name)
    kube.apply(_stateful_set(it.cluster(name)), it.namespace)
    kube.wait_for(f"{name}-0", lambda: kube.wait_condition(f"pod/{name}-0", "Ready", it.namespace), limit_s=120)


# -- cases -----------------------------------------------------------------------------


def a_pod_gets_its_certificate(it: Scene, run: Run) -> None:
    """With the token that kubelet projected, and the trust that kubelet projected."""
    held = it.obtain("notes", "notes-0", it.read("notes-0", "token"))
    assert held.pod == (it.namespace, "notes", "notes-0")
    assert held.end_s - time.time() > 3500
    bundle = kube.get("configmap/notes-trust", it.namespace)["data"]["ca.crt"]
    assert it.read("notes-0", "ca.crt").strip() == bundle.strip() and "PRIVATE" not in bundle
    run.say(f"issued {it.endpoint.service.server.issued}")


def other_tokens_are_refused(it: Scene, run: Run) -> None:
    """What the API server says about each is what decides."""
    rogue = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "notes-9"}, "spec": _pod_spec("notes")}
    kube.apply(rogue, it.namespace)
    rows = (
        ("no token at all", "notes-0", "nonsense", "InvalidToken|not valid"),
        ("not bound to a pod", "notes-0", it.token("notes", f"--audience={AUDIENCE}"), "not bound"),
        ("for the API server", "notes-0", it.bound("notes", "notes-0", "https://kubernetes.default.svc"), "not valid"),
        ("of another cluster", "notes-0", it.bound("other", "other-0"), "not the one of cluster"),
        ("of a pod that somebody made by hand", "notes-9", it.bound("notes", "notes-9"), "was not made by"),
    )
    for what, pod, token, why in rows:
        _refused(it, pod, token, why, what)
    run.say(f"refused {it.endpoint.service.server.refused}")
    kube.kubectl("--namespace", it.namespace, "delete", "pod", "notes-9", "--now")


def a_deleted_pods_token_is_worth_nothing(it: Scene, _run: Run) -> None:
    """The pod that comes after it under the same name gets its own."""
    before = it.read("notes-0", "token")
    uid = kube.get("pod/notes-0", it.namespace)["metadata"]["uid"]
    kube.kubectl("--namespace", it.namespace, "delete", "pod", "notes-0", "--now")
    kube.wait_for("another notes-0", lambda: _ready(it, "notes-0", uid), limit_s=120)
    _refused(it, "notes-0", before, "not valid|earlier pod", "of the deleted pod")
    assert it.obtain("notes", "notes-0", it.read("notes-0", "token")).pod == (it.namespace, "notes", "notes-0")


def objects_are_made_once(it: Scene, _run: Run) -> None:
    """A reconcile that finds everything right writes nothing; what is missing comes back."""
    before = _authority(it)
    it.ensure("notes")
    assert _authority(it) == before
    kube.kubectl("--namespace", it.namespace, "delete", "configmap", "notes-trust")
    it.ensure("notes")
    assert _authority(it) == before
    assert kube.get("configmap/notes-trust", it.namespace)["metadata"]["ownerReferences"][0]["name"] == "notes"
    assert kube.get(f"secret/{OPERATOR_SECRET}", it.namespace)["type"] == "kubernetes.io/tls"


def foreign_objects_stay(it: Scene, _run: Run) -> None:
    """A Secret of our name that somebody else made is not touched."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "third-ca"}, "stringData": {"mine": "yes"}}
    kube.apply([body, _cluster("third")], it.namespace)
    try:
        it.ensure("third")
    except NotOurs as error:
        assert "third-ca" in str(error)
    else:
        raise AssertionError("a foreign Secret was taken over")
    assert set(kube.get("secret/third-ca", it.namespace)["data"]) == {"mine"}


def a_rotation_reaches_the_pods(it: Scene, run: Run) -> None:
    """By annotation; the new authority is in the pod's volume long before it signs."""
    first = it.read("notes-0", "ca.crt").strip()
    kube.kubectl("--namespace", it.namespace, "annotate", "sqlitecluster", "notes", f"{ROTATE}=lane")
    done = it.ensure("notes")
    assert done.rotating and 0 < done.again.total_seconds() <= ca.PUBLISH.total_seconds()
    data = kube.get("secret/notes-ca", it.namespace)["data"]
    assert {"tls.crt", "tls.key", "next.crt", "next.key"} <= set(data)
    began = time.monotonic()
    kube.wait_for(
        "the bundle in the pod",
        lambda: it.read("notes-0", "ca.crt").count("BEGIN") == 2 and first in it.read("notes-0", "ca.crt"),
        limit_s=PROPAGATION_LIMIT_S,
        step_s=2.0,
    )
    took = time.monotonic() - began
    assert took < ca.PUBLISH.total_seconds() / 2
    run.say(f"the new authority was in the pod after {took:.0f} s; it signs after {ca.PUBLISH.total_seconds():.0f} s")
    held = it.obtain("notes", "notes-0", it.read("notes-0", "token"))
    assert held.pod is not None


def _refused(it: Scene, pod: str, token: str, why: str, what: str) -> None:
    try:
        it.obtain("notes", pod, token)
    except IdentityError as error:
        assert any(part in str(error) for part in why.split("|")), f"{what}: {error}"
    else:
        raise AssertionError(f"a certificate was given for a token {what}")


def _ready(it: Scene, pod: str, not_uid: str) -> bool:
    body = kube.get(f"pod/{pod}", it.namespace)
    conditions = {c["type"]: c["status"] for c in body["status"].get("conditions", [])}
    return body["metadata"]["uid"] != not_uid and conditions.get("Ready") == "True"


def _authority(it: Scene) -> tuple[str, str]:
    """The Secret's version, and what pods are told to trust."""
    version = kube.get("secret/notes-ca", it.namespace)["metadata"]["resourceVersion"]
    return version, kube.get("configmap/notes-trust", it.namespace)["data"]["ca.crt"]


CASES = {
    "a-pod-gets-its-certificate": a_pod_gets_its_certificate,
    "other-tokens-are-refused": other_tokens_are_refused,
    "a-deleted-pods-token-is-worth-nothing": a_deleted_pods_token_is_worth_nothing,
    "objects-are-made-once": objects_are_made_once,
    "foreign-objects-stay": foreign_objects_stay,
    "a-rotation-reaches-the-pods": a_rotation_reaches_the_pods,
}


def main() -> int:
    """Entry of ``python -m lanes.kube_identity``."""
    return scene_main("kube_identity", "cases", CASES, scene)


if __name__ == "__main__":
    sys.exit(main())
