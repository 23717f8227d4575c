"""Scenes of lane ``kube_operator``: many clusters on one operator."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import time

from support import kube, lane
from support.operatorscene import Scene, manifest, scene

CASES, case = lane.registry()

MEMORY_MIB = 200.0
ACT_P95_S = 2.0
CHANGES = 40
QUIET_S = 30.0


@case
def many_clusters(run: lane.Run) -> None:
    """Memory, steady-state API calls, and the time until a change is acted on."""
    count = run.options.clusters
    with scene(run.new_folder("many")) as made:
        bodies = [manifest(f"c{number}", instances=2, primary=_slow_lease()) for number in range(count)]
        began = time.monotonic()
        for start in range(0, count, 50):
            kube.apply(bodies[start : start + 50], made.namespace)
        made.until("all Ready", lambda: _ready(made) == count, 30 + 6 * count)
        run.say(f"{count} clusters Ready after {time.monotonic() - began:.0f} s")
        time.sleep(10)
        _steady(run, made)
        waits = _changes(run, made, count)
        p95 = sorted(waits)[math.ceil(0.95 * len(waits)) - 1]
        memory, peak = made.operator.resident_mib(), made.operator.resident_mib("VmHWM")
        run.say(
            f"a change is acted on after {statistics.median(waits):.2f} s (p50), {p95:.2f} s (p95), "
            f"{max(waits):.2f} s (max); memory {memory:.0f} MiB, at most {peak:.0f} MiB"
        )
        assert memory <= MEMORY_MIB, f"{memory:.0f} MiB for {count} clusters"
        assert p95 <= ACT_P95_S, f"p95 {p95:.2f} s"
        _remove_all(made)


def _slow_lease() -> dict[str, object]:
    lease = {"leaseDurationSeconds": 300, "renewDeadlineSeconds": 200, "retryPeriodSeconds": 60}
    return {"lease": lease}


def _ready(made: Scene) -> int:
    found = made.get("sqliteclusters")["items"]
    return sum((one.get("status") or {}).get("ready") == "2/2" for one in found)


def _steady(run: lane.Run, made: Scene) -> None:
    before = made.operator.metrics()
    time.sleep(QUIET_S)
    after = made.operator.metrics()
    calls = {
        name.partition("{")[2].rstrip("}"): after[name] - before.get(name, 0.0)
        for name in after
        if name.startswith("sqlitecluster_operator_api_requests_total") and after[name] != before.get(name, 0.0)
    }
    run.say(f"in steady state {sum(calls.values()) / QUIET_S:.1f} API calls a second: {json.dumps(calls)}")


def _changes(run: lane.Run, made: Scene, count: int) -> list[float]:
    """Change one cluster after the other; how long until its object is as it should be, kubectl's own time too."""
    rng = run.rng("changes")
    waits = []
    for number in range(CHANGES):
        name = f"c{rng.randrange(count)}"
        label = f"v{number}"
        patch = json.dumps({"spec": {"services": {"ro": {"template": {"metadata": {"labels": {"change": label}}}}}}})
        watch = _watch_service(made.namespace, f"{name}-ro")
        try:
            began = time.monotonic()
            made.patch(patch, name)
            waits.append(_wait_label(watch, label) - began)
        finally:
            watch.kill()
            watch.wait()
    return waits


def _watch_service(namespace: str, name: str) -> subprocess.Popen[str]:
    ours = kube.cluster_object()
    command = [
        str(ours.kubectl_program), f"--kubeconfig={ours.kubeconfig}", "-n", namespace, "get", "service", name,
        "--watch", "-o", "jsonpath={.metadata.labels.change}{'\\n'}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the watch stands
    return process


def _wait_label(watch: subprocess.Popen[str], label: str) -> float:
    """When the label was seen."""
    assert watch.stdout is not None
    for line in watch.stdout:
        if line.strip() == label:
            return time.monotonic()
    raise AssertionError("the watch ended")


def _remove_all(made: Scene) -> None:
    kube.kubectl("-n", made.namespace, "delete", "sqliteclusters", "--all", "--wait=false", limit_s=120)
    made.until("all gone", lambda: not made.get("sqliteclusters")["items"], 300)
