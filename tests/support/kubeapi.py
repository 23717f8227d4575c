"""Direct requests of lanes to a real API server, where kubectl would be too slow or says too little.

Used by ``lanes.kube_cel`` and ``lanes.kube_rbac``. The cluster is the local one, or what
``KUBECONFIG`` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kubernetes.client
import kubernetes.config
import urllib3

from support.cluster import ClusterStartError

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".cluster"
CLUSTERS = "/apis/sqlitecluster.dev/v1alpha1"
Body = dict[str, Any]
AT_ONCE = 8
"""Requests that a lane has under way; one after the other, an answer takes 15 ms, mostly waiting."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said."""

    status: int
    body: Body

    @property
    def ok(self) -> bool:
        """Whether it did what was asked."""
        return self.status < 300

    @property
    def message(self) -> str:
        """What it says to people."""
        return str(self.body.get("message", ""))


class Kube:
    """One API server."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self._host = configuration.host
        self._token = configuration.get_api_key_with_prefix("authorization") or ""
        self._pool = urllib3.PoolManager(
            maxsize=AT_ONCE,
            cert_reqs="CERT_REQUIRED" if configuration.verify_ssl else "CERT_NONE",
            ca_certs=configuration.ssl_ca_cert,
            cert_file=configuration.cert_file,
            key_file=configuration.key_file,
        )

    def request(self, method: str, path: str, body: object = None, *, as_user: str = "", kind: str = "json") -> Answer:
        """One request; ``as_user`` impersonates, ``kind`` is the body's type (json, merge-patch, apply-patch)."""
        headers = {"Accept": "application/json", "Content-Type": f"application/{kind}{'+json' if '-' in kind else ''}"}
        if kind == "apply-patch":
            headers["Content-Type"] = "application/apply-patch+yaml"
        if self._token:
            headers["Authorization"] = self._token
        if as_user:
            headers["Impersonate-User"] = as_user
        answer = self._pool.request(
            method,
            self._host + path,
            headers=headers,
            body=None if body is None else json.dumps(body).encode(),
            timeout=urllib3.Timeout(connect=5, read=30),
            retries=False,
        )
        data = json.loads(answer.data) if answer.data else {}
        return Answer(answer.status, data)

    def kubectl(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl."""
        return self._program("kubectl", *arguments, text=text)

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Helm."""
        return self._program("helm", *arguments)

    def _program(self, name: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        local = STATE / "bin" / name
        program = str(local) if local.exists() else name
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            [program, *arguments], input=text, capture_output=True, text=True, env=environment, timeout=120, check=False
        )

    def make_namespace(self, name: str) -> None:
        """A namespace; it may exist."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        answer = self.request("POST", "/api/v1/namespaces", body)
        assert answer.ok or answer.status == 409, answer.message

    def drop_namespace(self, name: str) -> None:
        """Delete a namespace, without waiting."""
        self.request("DELETE", f"/api/v1/namespaces/{name}")

    def install_definition(self) -> None:
        """The CRD of this checkout, served by the API."""
        path = ROOT / "crds" / "sqliteclusters.yaml"
        done = self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
        assert done.returncode == 0, done.stderr
        done = self.kubectl(
            "wait", "--for=condition=Established", "crd/sqliteclusters.sqlitecluster.dev", "--timeout=60s"
        )
        assert done.returncode == 0, done.stderr

    def allowed(
        self, user: str, verb: str, resource: str, *, group: str = "", namespace: str = "", name: str = ""
    ) -> bool:
        """What ``kubectl auth can-i --as USER`` says. ``resource`` may have a subresource: pods/exec."""
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        attributes |= {"namespace": namespace, "name": name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups_of(user), "resourceAttributes": attributes},
        }
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        assert answer.ok, answer.message
        return bool(answer.body["status"].get("allowed"))


def groups_of(user: str) -> list[str]:
    """The groups that the API server gives a ServiceAccount."""
    namespace = user.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


def account(namespace: str, name: str) -> str:
    """The user name of a ServiceAccount."""
    return f"system:serviceaccount:{namespace}:{name}"


def cluster_path(namespace: str, name: str = "", subresource: str = "", query: str = "") -> str:
    """The path of a SQLiteCluster, or of all in a namespace."""
    tail = "".join(f"/{quote(part)}" for part in (name, subresource) if part)
    return f"{CLUSTERS}/namespaces/{namespace}/sqliteclusters{tail}{'?' + query if query else ''}"


def connect() -> Kube:
    """The cluster of ``KUBECONFIG``, else the local one, which is started when it does not run.

    Raises:
        ClusterStartError: there is none.
    """
    given = os.environ.get("KUBECONFIG")
    if given:
        return Kube(Path(given))
    done = subprocess.run(
        [sys.executable, "-m", "localcluster", "up"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    if done.returncode:
        raise ClusterStartError(f"no Kubernetes here: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return Kube(STATE / "kubeconfig")
