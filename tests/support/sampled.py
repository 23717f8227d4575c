"""A SQLiteCluster on the local cluster whose program is the sample: it writes, journals and can be asked.

Each pod's program writes its journal through a hostPath into the lane's folder; the local cluster's nodes
share this machine's files, so what was acknowledged survives pods and nodes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from support import kube, ledger
from support.lane import Run

READY_LIMIT_S = 180.0
PREFIX = "sqlitecluster.dev/"

COUNT_ROWS = """
import json, sqlite3
db = sqlite3.connect("file:/data/app.db?mode=ro", uri=True, timeout=20)
print(json.dumps(db.execute("SELECT id, token FROM rows").fetchall()))
"""


class Sampled:
    """One SQLiteCluster with the sample program."""

    def __init__(
        self, run: Run, namespace: str, name: str = "notes", *, instances: int = 3, rate: float = 100, **spec: Any
    ) -> None:
        self.namespace, self.name = namespace, name
        self.journals = run.new_folder(f"journals-{name}")
        self.journals.chmod(0o777)
        self._say = run.say
        self.manifest: dict[str, Any] = {
            "apiVersion": "sqlitecluster.dev/v1alpha1",
            "kind": "SQLiteCluster",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "instances": instances,
                "storage": {"size": "256Mi"},
                "template": {"spec": self._pod(rate)},
                **spec,
            },
        }

    def _pod(self, rate: float) -> dict[str, Any]:
        pod_name = {"fieldRef": {"fieldPath": "metadata.name"}}
        environment = [
            {"name": "POD_NAME", "valueFrom": pod_name},
            {"name": "WRITE_RATE", "value": str(rate)},
            {"name": "JOURNAL", "value": "/journal/$(POD_NAME).journal"},
        ]
        container = {
            "name": "app",
            "image": kube.image("sqlitecluster-sample"),
            "imagePullPolicy": "Never",
            "env": environment,
            "ports": [{"name": "http", "containerPort": 8080}],
            "volumeMounts": [{"name": "journal", "mountPath": "/journal"}],
        }
        return {
            "terminationGracePeriodSeconds": 90,
            "containers": [container],
            "volumes": [{"name": "journal", "hostPath": {"path": str(self.journals), "type": "Directory"}}],
        }

    # Doing.

    def apply(self) -> None:
        """Create it or bring the changed manifest to it."""
        kube.apply(yaml.safe_dump(self.manifest))

    def start(self) -> None:
        """Apply and wait until it is Ready and rows are acknowledged."""
        self.apply()
        self.wait_ready()
        self.wait_writes()

    def annotate(self, **annotations: str) -> None:
        """Annotations of the object, with the product's prefix; ``_`` stands for ``-``."""
        pairs = [f"{PREFIX}{key.replace('_', '-')}={value}" for key, value in annotations.items()]
        self.kubectl("annotate", "sqlitecluster", self.name, "--overwrite", *pairs)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """kubectl in this object's namespace."""
        return kube.kubectl("--namespace", self.namespace, *arguments, **options)

    # Looking.

    def status(self) -> dict[str, Any]:
        """The object's status."""
        found = json.loads(self.kubectl("get", "sqlitecluster", self.name, "-o", "json"))
        return dict(found.get("status", {}))

    def lease(self) -> dict[str, Any]:
        """The cluster's Lease."""
        return dict(json.loads(self.kubectl("get", "lease", self.name, "-o", "json")))

    def holder(self) -> str:
        """The pod that holds the Lease; empty when nobody does."""
        return str(self.lease()["spec"].get("holderIdentity") or "").partition("_")[0]

    def ready(self) -> bool:
        """Whether the object says Ready and all pods are."""
        status = self.status()
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        wanted = self.manifest["spec"]["instances"]
        return conditions.get("Ready") == "True" and status.get("readyInstances") == wanted

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> None:
        """Wait for Ready; says what it saw when that never comes."""
        try:
            kube.wait_for(f"{self.name} is Ready", self.ready, limit_s=limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None

    def describe(self) -> str:
        """What a person would look at first."""
        parts = [json.dumps(self.status().get("conditions"), indent=1)]
        looks = (("get", "pods", "-o", "wide"), ("get", "events", "--sort-by=.lastTimestamp"))
        parts += [self.kubectl(*what)[-3000:] for what in looks]
        for pod in self.pods():
            logs = ("logs", pod, "-c", "sqlite-sidecar", "--tail=15")
            parts.append(f"--- {pod}\n{_quietly(lambda logs=logs: self.kubectl(*logs))}")
        return "\n".join(parts)

    @property
    def selector(self) -> str:
        """What selects its pods."""
        return f"{PREFIX}cluster={self.name}"

    def pods(self) -> list[str]:
        """Names of its pods."""
        return self.kubectl("get", "pods", "-l", self.selector, "-o", "jsonpath={.items[*].metadata.name}").split()

    def pod_objects(self) -> list[kube.Body]:
        """Its pods as the API tells them."""
        found: list[kube.Body] = kube.get("pods", self.namespace, selector=self.selector)["items"]
        return found

    def replica(self) -> str:
        """A pod that is not the primary."""
        primary = self.holder()
        return next(pod for pod in self.pods() if pod != primary)

    def node_of(self, pod: str) -> str:
        """The node a pod runs on."""
        return self.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}").strip()

    def acks(self) -> list[ledger.Ack]:
        """What was acknowledged so far."""
        return ledger.read(self.journals)

    def wait_writes(self, limit_s: float = 60.0, *, after: float | None = None, but: str = "") -> ledger.Ack:
        """Wait for an acknowledgement later than ``after`` (now), by any pod ``but`` one."""
        moment = time.time() if after is None else after
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            newer = [ack for ack in self.acks() if ack.at > moment and ack.pod != but]
            if newer:
                return newer[0]
            time.sleep(0.1)
        raise AssertionError(f"no row was acknowledged for {limit_s:.0f} s: {self.describe()}")

    def rows(self, pod: str) -> dict[str, list[int]]:
        """The rows that a pod's program reads."""
        text = self.kubectl("exec", pod, "-c", "app", "--", "python3", "-c", COUNT_ROWS, limit_s=120)
        return ledger.by_token((row, token) for row, token in json.loads(text))

    def sidecar_pid(self, pod: str) -> int:
        """The supervisor of a pod's sidecar, as this machine numbers it."""
        uid = self.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}").strip()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_supervisor(entry, uid):
                return int(entry.name)
        raise AssertionError(f"{pod}: no supervisor runs")

    # Checking.

    def check_rows(self, acks: list[ledger.Ack], pods: list[str] | None = None) -> tuple[list[ledger.Ack], list[str]]:
        """(acknowledged rows that a pod does not have, rows that are there twice), after the pods have caught up."""
        lost: list[ledger.Ack] = []
        twice: list[str] = []
        for pod in pods if pods is not None else self.pods():
            deadline = 0.0
            while True:
                # Kubernetes replaces the pods of a node that was away, sometimes after it is back: ask the next one.
                what = f"{pod} answers"
                table = kube.wait_for(what, lambda pod=pod: self.rows(pod), limit_s=READY_LIMIT_S, step_s=1)
                deadline = deadline or time.monotonic() + 20
                gone = ledger.missing(acks, table)
                if not gone or time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            lost += [ack for ack in gone if ack not in lost]
            twice += ledger.doubled(table)
        return lost, twice

    def forget(self, acks: list[ledger.Ack]) -> None:
        """Take rows that are known to be lost, and were counted, out of the journals."""
        tokens = {ack.token for ack in acks}
        for path in self.journals.glob("*.journal"):
            kept = [line for line in path.read_text().splitlines() if not any(f'"{token}"' in line for token in tokens)]
            path.write_text("\n".join(kept) + "\n" if kept else "")


def _is_supervisor(process: Path, pod_uid: str) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
        environment = (process / "environ").read_bytes()
    except OSError:
        return False
    return b"sqlitecluster.supervisor" in command and f"POD_UID={pod_uid}".encode() in environment.split(b"\0")


def _quietly(call: Callable[[], str]) -> str:
    try:
        return call()
    except Exception as error:
        return str(error)


def annotate_id() -> str:
    """A new handoff-id."""
    return os.urandom(4).hex()
