"""The real etcd and kube-apiserver, alone: no kubelet, no controllers, no scheduler.

They run in a namespace that a test gives them. What controllers would do (a namespace's
ServiceAccount, a pod's address) is done here by requests.

    freeze, thaw   SIGSTOP: connections stay open and silent
    crash, again   SIGKILL: connections break; what was stored is there again
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from localcluster import controlplane, pki, programs
from localcluster.layout import CONTROL_ADDRESS, Layout
from support import processes
from support.cluster import ClusterStartError
from support.namespaces import Namespace

NAMESPACE: Final = "default"
ACCOUNT: Final = "sidecar"
START_LIMIT_S: Final = 90.0
ADDRESS: Final = CONTROL_ADDRESS
URL: Final = pki.API_URL
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
ACCOUNTS: Final = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
ROLES: Final = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
_MERGE: Final = "application/merge-patch+json"
_VERBS: Final = ["get", "list", "watch", "update"]
_TOKEN_S: Final = 86_400

Object = dict[str, Any]


class Refused(Exception):
    """The API's answer was no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class RealAPI:
    """One API server with its store."""

    def __init__(self, folder: Path, space: Namespace, say: Callable[[str], None]) -> None:
        self._layout = Layout(folder, 0)
        self._space = space
        self._programs = programs.ensure(say)
        folder.mkdir(parents=True)
        self._layout.run.mkdir()
        self._who = pki.make(self._layout)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.answers = False
        """Whether it runs and is not frozen."""
        self._context = ssl.create_default_context(cafile=str(self._who.ca.cert))
        admin = self._who.users["admin"]
        self._context.load_cert_chain(admin.cert, admin.key)

    # Life.

    def start(self) -> None:
        """Start both and wait until the API is ready."""
        self._start("etcd", controlplane.etcd(self._layout, self._programs.bin))
        self.again()
        self._account()

    def again(self) -> None:
        """Start the API server (anew) and wait for it."""
        self._start("kube-apiserver", controlplane.apiserver(self._programs.bin, self._who))
        if not processes.wait_until(self._ready, limit_s=START_LIMIT_S, step_s=0.1):
            raise ClusterStartError(f"the API server is not ready:\n{self.log_tail()}")
        self.answers = True

    def crash(self) -> None:
        """The API server dies."""
        self.answers = False
        process = self._running.pop("kube-apiserver")
        process.kill()
        process.wait(30)

    def freeze(self) -> None:
        """It answers nothing."""
        self.answers = False
        self._running["kube-apiserver"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        if "kube-apiserver" in self._running:
            self._running["kube-apiserver"].send_signal(signal.SIGCONT)
            self.answers = True

    def stop(self) -> None:
        """End both."""
        self.thaw()
        for process in reversed(self._running.values()):
            process.kill()  # nothing of it is needed again
            process.wait(30)
        self._running.clear()

    def log_tail(self, lines: int = 15) -> str:
        """The end of the API server's log."""
        path = self._layout.logs / "kube-apiserver.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"

    def _start(self, name: str, command: list[str]) -> None:
        self._layout.logs.mkdir(exist_ok=True)
        log = self._layout.logs / f"{name}.log"
        self._running[name] = self._space.call(processes.start, command, log=log, env={**os.environ, "GOMAXPROCS": "2"})

    def _ready(self) -> bool:
        ended = [name for name, process in self._running.items() if process.poll() is not None]
        if ended:
            raise ClusterStartError(f"{ended[0]} ended:\n{self.log_tail()}")
        try:
            self.call("GET", "/readyz")
            self.call("GET", f"/api/v1/namespaces/{NAMESPACE}")
        except (OSError, Refused):
            return False
        return True

    # Requests.

    def call(self, method: str, path: str, value: Object | None = None, kind: str = "application/json") -> Object:
        """One request as the cluster's administrator.

        Raises:
            Refused: it was answered with an error.
            OSError: it was not answered.
        """
        return self._space.call(self._request, method, path, value, kind)

    def _request(self, method: str, path: str, value: Object | None, kind: str) -> Object:
        body = json.dumps(value).encode() if value is not None else None
        request = urllib.request.Request(URL + path, body, {"Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5, context=self._context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None
        found = json.loads(text) if text[:1] == b"{" else {}
        return dict(found)

    def patch(self, path: str, value: Object) -> Object:
        """A merge patch."""
        return self.call("PATCH", path, value, _MERGE)

    # Objects.

    def _account(self) -> None:
        """Who the nodes are, and what they may do."""
        rules = [
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": _VERBS,
            },
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "patch"]},
        ]
        group = "rbac.authorization.k8s.io"
        for name in ("default", ACCOUNT):
            self._create(ACCOUNTS, {"metadata": {"name": name}})
        self._create(f"{ROLES}/roles", {"metadata": {"name": ACCOUNT}, "rules": rules})
        binding = {
            "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        }
        self._create(f"{ROLES}/rolebindings", binding)

    def _create(self, path: str, value: Object) -> Object:
        try:
            return self.call("POST", path, value)
        except Refused as error:
            if error.status != 409:
                raise
            return {}

    def write_credentials(self, folder: Path) -> None:
        """``token`` and ``ca.crt`` as kubelet puts them into a pod."""
        folder.mkdir(parents=True, exist_ok=True)
        wish = {"spec": {"expirationSeconds": _TOKEN_S}}
        answer = self.call("POST", f"{ACCOUNTS}/{ACCOUNT}/token", wish)
        (folder / "token").write_text(answer["status"]["token"])
        (folder / "ca.crt").write_bytes(self._who.ca.cert.read_bytes())

    def make_pod(self, name: str, labels: dict[str, str], address: str) -> str:
        """A pod that runs, as others see it; returns its uid."""
        container = {"name": "app", "image": "none"}
        value = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
        made = self.call("POST", PODS, value)
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        self.patch(f"{PODS}/{name}/status", {"status": status})
        return str(made["metadata"]["uid"])
