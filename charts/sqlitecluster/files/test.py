"""`helm test`: makes a SQLiteCluster, writes, hands off, writes again, reads everywhere, and deletes it.

Runs in a pod with the operator's image; speaks to the API through the kubernetes client.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import kubernetes.client
import kubernetes.config

GROUP, VERSION, PLURAL = "sqlitecluster.dev", "v1alpha1", "sqliteclusters"
NAMESPACE = os.environ["TEST_NAMESPACE"]
NAME = os.environ["TEST_CLUSTER"]
DEADLINE = time.monotonic() + float(os.environ["TEST_TIMEOUT"])
ROWS = 10


def main() -> None:
    """The whole test; any exception fails it."""
    kubernetes.config.load_incluster_config()
    api = kubernetes.client.CustomObjectsApi()
    with open("/scripts/cluster.json") as file:
        body = json.load(file)
    delete(api)
    try:
        api.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, body)
        run(api, body["spec"]["instances"])
    finally:
        delete(api)
    print("passed")


def run(api: kubernetes.client.CustomObjectsApi, instances: int) -> None:
    """Write, hand off, read."""
    wait("the cluster is Ready", lambda: condition(get(api), "Ready"))
    first = get(api)["status"]["currentPrimary"]
    for number in range(ROWS):
        wait(f"write {number + 1}", lambda: request("POST", "rw"))
    print(f"wrote {ROWS} rows on {first}")
    mark = str(time.time_ns())
    annotations = {f"{GROUP}/handoff-to": "*", f"{GROUP}/handoff-id": mark}
    api.patch_namespaced_custom_object(
        GROUP, VERSION, NAMESPACE, PLURAL, NAME, {"metadata": {"annotations": annotations}}
    )
    done = wait("the hand-off ends", lambda: ended(get(api), mark))
    if done["phase"] != "Completed":
        raise SystemExit(f"the hand-off failed: {done.get('message')}")
    second = wait("the new primary is known", lambda: moved(get(api), first))
    print(f"handed off from {first} to {second}, write gap {done.get('writeGapMillis')} ms")
    for number in range(ROWS):
        wait(f"write {ROWS + number + 1}", lambda: request("POST", "rw"))
    total = wait("the primary counts", lambda: request("GET", "rw"))["rows"]
    if total < 2 * ROWS:
        raise SystemExit(f"{2 * ROWS} rows were acknowledged, {total} are there")
    counted: dict[str, int] = {}
    wait("every pod has all rows", lambda: count(counted, total, instances))
    print(f"all {total} rows are on {', '.join(sorted(counted))}")


def count(counted: dict[str, int], total: int, instances: int) -> bool:
    """Ask any pod; True when each has said the total."""
    answer = request("GET", "r")
    if answer and answer["rows"] == total:
        counted[answer["pod"]] = total
    return len(counted) >= instances


def get(api: kubernetes.client.CustomObjectsApi) -> dict[str, Any]:
    """The cluster."""
    found: dict[str, Any] = api.get_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, NAME)
    return found


def condition(cluster: dict[str, Any], kind: str) -> bool:
    """Whether a condition is true."""
    conditions = cluster.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def ended(cluster: dict[str, Any], mark: str) -> dict[str, Any] | None:
    """The hand-off with this id, when it ended."""
    handoff: dict[str, Any] = cluster.get("status", {}).get("handoff") or {}
    return handoff if handoff.get("id") == mark and handoff.get("phase") in ("Completed", "Failed") else None


def moved(cluster: dict[str, Any], first: str) -> str | None:
    """The primary, when it is another one."""
    now: str | None = cluster["status"].get("currentPrimary")
    return now if now != first else None


def request(method: str, service: str) -> dict[str, Any] | None:
    """Ask the program; None when it cannot answer now."""
    url = f"http://{NAME}-{service}.{NAMESPACE}.svc:8080/rows"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            body: dict[str, Any] = json.load(answer)
            return body
    except (urllib.error.URLError, OSError, ValueError):
        return None


def wait(what: str, look: Callable[[], Any]) -> Any:
    """Look until there is something, or the time is over."""
    while time.monotonic() < DEADLINE:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise SystemExit(f"no time left: {what}")


def delete(api: kubernetes.client.CustomObjectsApi) -> None:
    """Delete the cluster of the test, if there is one, and wait until it is gone."""
    try:
        api.delete_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, NAME)
        while True:
            get(api)
            time.sleep(1)
            if time.monotonic() > DEADLINE + 60:
                raise SystemExit("the cluster of the test was deleted, but it does not go")
    except kubernetes.client.ApiException as error:
        if error.status != 404:
            raise


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
