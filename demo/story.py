"""The story of ``make demo``, step by step, and the live table beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from demo.place import CannotPlayError, Place
from demo.watching import Watching, longest_gap

from localcluster import ClusterError

HERE = Path(__file__).parent
MANIFEST = HERE / "manifests" / "notes.yaml"
NAME, INSTANCES = "notes", 3
IMAGE = "sqlitecluster-sample:0.1.0"
MARK = {"sqlitecluster.dev/demo": "true"}
READY_LIMIT_S, HANDOFF_LIMIT_S, LOSS_LIMIT_S, GONE_LIMIT_S = 180.0, 60.0, 60.0, 120.0
CALM_S = 6.0
HANDOFF_TRIES = 3
COUNT = """
import json, sqlite3
db = sqlite3.connect("file:/data/app.db?mode=ro", uri=True, timeout=20)
print(json.dumps([row[0] for row in db.execute("SELECT token FROM rows")]))
"""


class NotSeenError(Exception):
    """Something that the demo shows did not happen in time."""


def step(text: str) -> None:
    """One line of the story."""
    print(f"• {text}", flush=True)


def play(place: Place, namespace: str, rate: float) -> int:
    """All of it; returns the exit code."""
    step(f"cluster: kubectl context {place.context}" if place.context else "cluster: three nodes on this machine")
    place.prepare()
    with home(place, namespace):
        step("operator: images and chart, as `make deploy` does")
        tags = place.deploy()
        Story(place, namespace, rate, tags["sqlitecluster-sample"]).run()
    return 0


@contextlib.contextmanager
def home(place: Place, namespace: str) -> Iterator[None]:
    """The demo's namespace; it is gone afterwards."""
    if _found(place, namespace):
        labels = place.get("namespace", namespace)["metadata"].get("labels", {})
        if MARK.items() - labels.items():
            raise CannotPlayError(
                f"the namespace {namespace} is somebody else's; choose another: DEMO_NAMESPACE=<name>"
            )
        _drop(place, namespace)  # of a demo that was killed
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": MARK}}
    place.kubectl("create", "-f", "-", text=json.dumps(body))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not stop the cleaning up
        step(f"removing the namespace {namespace}")
        _drop(place, namespace)


class Story:
    """One cluster and its fate."""

    def __init__(self, place: Place, namespace: str, rate: float, tag: str) -> None:
        self._place, self._namespace, self._rate = place, namespace, rate
        registry = os.environ.get("DEPLOY_REGISTRY", "")
        self._image = (f"{registry}/" if registry else "") + f"{IMAGE.partition(':')[0]}:{tag}"
        self._began = time.monotonic()
        self._shown = 0.0
        self._last = ""

    def run(self) -> None:
        """Apply, write, hand off, lose, compare."""
        self._apply()
        self._start_client()
        with Watching(self._place, self._namespace, NAME, INSTANCES) as seen:
            self._wait(seen, "a row is acknowledged", lambda: bool(seen.rows), READY_LIMIT_S)
            print(f"\n    {'':>7}  " + "  ".join(f"{pod:<11}" for pod in seen.names()))
            self._began = time.monotonic()
            self._watch(seen, CALM_S)
            self._hand_off(seen)
            self._watch(seen, CALM_S)
            moment = self._lose(seen)
            self._show_object()
            self._compare(seen, moment)

    # The steps.

    def _apply(self) -> None:
        text = MANIFEST.read_text()
        step(f"kubectl apply -f {MANIFEST.relative_to(HERE.parent)}")
        print("".join(f"    {line}\n" for line in text.splitlines()), end="")
        self._kubectl("apply", "-f", "-", text=text.replace(IMAGE, self._image))
        began = time.monotonic()
        wait = ("wait", "--for=condition=Ready", f"sqlitecluster/{NAME}")
        try:
            self._kubectl(*wait, f"--timeout={READY_LIMIT_S:.0f}s", limit_s=READY_LIMIT_S + 10)
        except ClusterError as error:
            raise NotSeenError(f"the cluster is not Ready: {error}; {self._conditions()}") from None
        step(f"Ready after {time.monotonic() - began:.0f} s")
        self._show_object()

    def _start_client(self) -> None:
        step(f"a client writes {self._rate:g} rows a second through the Service {NAME}-rw")
        source = (HERE / "writer.py").read_text()
        command = ["python3", "-u", "-c", source, f"{NAME}-rw", "8080", str(self._rate)]
        near = [{"weight": 100, "preference": {"matchExpressions": [_on(self._operator_node())]}}]
        container = {"name": "client", "image": self._image, "imagePullPolicy": "IfNotPresent", "command": command}
        spec = {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": near}},
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec}
        self._kubectl("apply", "-f", "-", text=json.dumps(body))

    def _hand_off(self, seen: Watching) -> None:
        for _ in range(HANDOFF_TRIES):
            moment, old = time.time(), self._holder()
            target = self._target(seen, old)
            record = self._ask(seen, target)
            if record["phase"] == "Completed":
                break
            self._say(f"not handed off, {old} goes on: {record.get('message')}")
            self._watch(seen, 2.0)
        else:
            raise NotSeenError(f"{HANDOFF_TRIES} hand-offs failed; the reasons stand above")
        self._wait(seen, "the new primary writes", lambda: self._wrote(seen, moment, old), HANDOFF_LIMIT_S)
        self._watch(seen, 1.0)
        gap = longest_gap(seen.rows, moment)
        assert gap is not None
        told = f"no pod took writes for {record.get('writeGapMillis')} ms"
        self._say(f"handed off from {old} to {target}: {told}; the client waited {gap.seconds * 1000:.0f} ms")

    def _ask(self, seen: Watching, target: str) -> dict[str, Any]:
        """Ask for one hand-off by annotation; its record when it has ended."""
        token = f"demo-{int(time.time())}"
        pairs = (f"sqlitecluster.dev/handoff-to={target}", f"sqlitecluster.dev/handoff-id={token}")
        self._say(f"hand-off: kubectl annotate sqc {NAME} --overwrite {' '.join(pairs)}")
        self._kubectl("annotate", "sqlitecluster", NAME, "--overwrite", *pairs)
        self._wait(seen, "the hand-off ends", lambda: self._ended(token), HANDOFF_LIMIT_S)
        return self._ended(token) or {"phase": "Failed", "message": "its record is gone"}

    def _lose(self, seen: Watching) -> float:
        old = self._holder()
        node = seen.pods[old]["spec"]["nodeName"]
        off = self._can_power_off(node)
        how = f"the plug of {node} is pulled, where {old} runs" if off else f"kubectl delete pod {old} --force"
        self._say(f"loss of the primary: {how}")
        moment = time.time()
        local = self._place.local
        try:
            if off and local is not None:
                local.power_off(node)
                seen.nodes_down = frozenset({node})
            else:
                self._kubectl("delete", "pod", old, "--grace-period=0", "--force", "--wait=false")
            self._wait(seen, "another primary writes", lambda: self._recovered(seen, moment, old), LOSS_LIMIT_S)
            self._watch(seen, 2.0)
            gap = longest_gap(seen.rows, moment)
            assert gap is not None
            self._say(f"{self._holder()} is the primary by itself; the client waited {gap.seconds:.1f} s")
        finally:
            if off and local is not None:
                self._say(f"{node} is switched on again")
                local.power_on(node)
                seen.nodes_down = frozenset()
        self._wait(seen, "all pods serve again", lambda: self._all_ready(seen), READY_LIMIT_S)
        return moment

    def _compare(self, seen: Watching, moment: float) -> None:
        self._kubectl("delete", "pod", "client", "--wait=true", "--grace-period=0", "--force")
        rows = list(seen.rows)
        tokens = {row.token for row in rows}
        tables = {pod: self._tokens(pod, tokens) for pod in seen.names()}
        doubled = sum(len(table) - len(set(table)) for table in tables.values())
        missing = {token for table in tables.values() for token in tokens - set(table)}
        late = [row for row in rows if row.token in missing and not moment - 1 < row.at < moment + 1]
        have = len(tokens) - len(missing)
        step(f"{len(tokens):,} rows were acknowledged, {have:,} of them are on all {INSTANCES} pods, {doubled} twice")
        if missing:
            step(f"{len(missing)} had not reached a replica when the primary was lost: replication is asynchronous")
        if late or doubled:
            raise NotSeenError(f"{len(late)} rows are lost that were acknowledged long before or after the loss")

    # Looking.

    def _tokens(self, pod: str, wanted: set[str]) -> list[str]:
        """The rows that a pod's program reads, after it had a few seconds to catch up."""
        for _ in range(10):
            found = json.loads(self._kubectl("exec", pod, "-c", "app", "--", "python3", "-c", COUNT))
            if wanted <= set(found):
                break
            time.sleep(0.5)
        return list(found)

    def _recovered(self, seen: Watching, moment: float, old: str) -> bool:
        """Rows are acknowledged again, after a silence or by somebody else."""
        later = [row for row in seen.rows if row.at > moment + 1.0]
        gap = longest_gap(seen.rows, moment)
        return bool(later) and gap is not None and (gap.seconds > 2.0 or later[-1].pod != old)

    def _wrote(self, seen: Watching, moment: float, old: str) -> bool:
        return any(row.at > moment and row.pod != old for row in seen.rows[-50:])

    def _all_ready(self, seen: Watching) -> bool:
        roles = [one for one in self._status().get("conditions", []) if one["type"] == "Ready"]
        return bool(roles) and roles[0]["status"] == "True" and self._status().get("readyInstances") == INSTANCES

    def _holder(self) -> str:
        lease = self._place.get("--namespace", self._namespace, "lease", NAME)
        return str(lease["spec"].get("holderIdentity") or "").partition("_")[0]

    def _target(self, seen: Watching, old: str) -> str:
        """A replica that is not beside the operator and the client: its node may be switched off afterwards."""
        others = [pod for pod in seen.names() if pod != old]
        beside = self._operator_node()
        away = [pod for pod in others if seen.pods.get(pod, {}).get("spec", {}).get("nodeName") != beside]
        return (away or others)[0]

    def _can_power_off(self, node: str) -> bool:
        if self._place.local is None or os.environ.get("DEMO_LOSS") == "pod":
            return False
        client = self._place.get("--namespace", self._namespace, "pod", "client")
        return node not in (client["spec"].get("nodeName"), self._operator_node())

    def _operator_node(self) -> str:
        where = ("--namespace", self._place.operator_namespace, "pods")
        found = self._place.get(*where, "--selector", "app.kubernetes.io/name=sqlitecluster-operator")["items"]
        return next((str(pod["spec"].get("nodeName")) for pod in found), "")

    def _status(self) -> dict[str, Any]:
        return dict(self._place.get("--namespace", self._namespace, "sqlitecluster", NAME).get("status", {}))

    def _ended(self, token: str) -> dict[str, Any] | None:
        record = self._status().get("handoff") or {}
        done = record.get("id") == token and record.get("phase") in ("Completed", "Failed")
        return dict(record) if done else None

    def _conditions(self) -> str:
        rows = self._status().get("conditions", [])
        return "; ".join(f"{one['reason']}: {one['message']}" for one in rows if one["type"] == "Ready")

    # Showing.

    def _show_object(self) -> None:
        step(f"kubectl get sqc {NAME}")
        print("".join(f"    {line}\n" for line in self._kubectl("get", "sqc", NAME).splitlines()), end="", flush=True)

    def _say(self, text: str) -> None:
        if sys.stdout.isatty():
            print()
        step(text)

    def _watch(self, seen: Watching, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._show(seen)
            time.sleep(0.1)

    def _wait(self, seen: Watching, what: str, look: Callable[[], object], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(ClusterError, KeyError, ValueError):
                if look():
                    return
            if time.monotonic() > deadline:
                raise NotSeenError(f"not within {limit_s:.0f} s: {what}; {self._conditions()}")
            self._show(seen)
            time.sleep(0.1)

    def _show(self, seen: Watching) -> None:
        """The table: rewritten in place on a terminal; elsewhere a line when a role changes, and every two seconds."""
        now = time.monotonic()
        line = seen.line(now - self._began, time.time())
        if sys.stdout.isatty():
            print(line, end="\r", flush=True)
            return
        roles = line[13:50]
        if seen.rows and (roles != self._last or now - self._shown >= 2.0):
            print(line.rstrip(), flush=True)
            self._last, self._shown = roles, now

    def _kubectl(self, *arguments: str, text: str | None = None, limit_s: float = 60.0) -> str:
        return self._place.kubectl("--namespace", self._namespace, *arguments, text=text, limit_s=limit_s)


def _on(node: str) -> dict[str, Any]:
    return {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}


def _found(place: Place, namespace: str) -> bool:
    return bool(place.kubectl("get", "namespace", namespace, "--ignore-not-found").strip())


def _drop(place: Place, namespace: str) -> None:
    """Remove the namespace; the objects with a finalizer first, while the operator still lives."""
    for command in (
        ("--namespace", namespace, "delete", "sqliteclusters", "--all", f"--timeout={GONE_LIMIT_S:.0f}s"),
        ("delete", "namespace", namespace, "--ignore-not-found", f"--timeout={GONE_LIMIT_S:.0f}s"),
    ):
        try:
            place.kubectl(*command, limit_s=GONE_LIMIT_S + 10)
        except ClusterError as error:
            if "the server doesn't have a resource type" not in str(error):
                print(f"demo: {error}", file=sys.stderr)
