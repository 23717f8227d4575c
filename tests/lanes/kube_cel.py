"""The CRD and the chart on a real API server.

    python -m lanes.kube_cel [--count N]

Each rule with one accepted and one refused object and the words of the refusal; every field explained; the
status, the columns and ``scale``; the chart linted, rendered with many values, and accepted by the API server.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from functools import partial

from lanes.kube_chart import CHART_CASES
from sqlitecluster_operator.api.schema import Schema, openapi_schema
from support import cel_case, cel_cases, kubeapi
from support.cel_case import Case, Change
from support.kubeapi import Answer, Kube, cluster_path
from support.lane import Run, parse, run_cases, run_lane
from support.operatorscene import others_paused

NAMESPACE = f"lane-cel-{os.getpid()}"


def refused_well(case: Case, answer: Answer) -> None:
    """Whether the refusal is the rule's, at the field, in words for people."""
    assert not answer.ok, f"{case.name}: an object that breaks the rule was accepted"
    assert answer.status in (400, 422), f"{case.name}: {answer.status} {answer.message}"
    assert case.says.lower() in answer.message.lower(), f"{case.name}: expected {case.says!r} in: {answer.message}"
    causes = (answer.body.get("details") or {}).get("causes") or []
    fields = [cause.get("field", "") for cause in causes]
    assert case.field == "" or any(case.field in field for field in fields), f"{case.name}: {fields} {answer.message}"
    assert "no such key" not in answer.message and "cost" not in answer.message, answer.message


def rule(kube: Kube, case: Case, _run: Run) -> None:
    """One row of the table."""
    before, accepted, refused = (body and quiet(body) for body in cel_case.objects(case))
    assert accepted is not None and refused is not None
    if before is None:
        path = cluster_path(NAMESPACE, query="dryRun=All&fieldValidation=Strict")
        answer = kube.request("POST", path, accepted)
        assert answer.ok, f"{case.name}: a legal object was refused: {answer.message}"
        refused_well(case, kube.request("POST", path, refused))
    else:
        transition(kube, case, before, accepted, refused)


def transition(kube: Kube, case: Case, before: Change, accepted: Change, refused: Change) -> None:
    """A rule about updates: with an object that exists; a refusal leaves it as it was."""
    name = f"t-{case.name}"
    for body in (before, accepted, refused):
        body["metadata"]["name"] = name
        body["spec"].pop("fence", None)  # names pods of the table's cluster
    made = kube.request("POST", cluster_path(NAMESPACE), before)
    assert made.ok, f"{case.name}: {made.message}"
    try:
        refused_well(case, put(kube, name, refused))
        now = kube.request("GET", cluster_path(NAMESPACE, name))
        assert now.body["spec"] == made.body["spec"], f"{case.name}: a refused update changed the object"
        answer = put(kube, name, accepted)
        assert answer.ok, f"{case.name}: a legal update was refused: {answer.message}"
    finally:
        kube.request("DELETE", cluster_path(NAMESPACE, name))


def put(kube: Kube, name: str, body: Change) -> Answer:
    """Replace an object, whoever else changes it meanwhile."""
    for _ in range(10):
        now = kube.request("GET", cluster_path(NAMESPACE, name))
        body["metadata"]["resourceVersion"] = now.body["metadata"]["resourceVersion"]
        body["metadata"]["finalizers"] = now.body["metadata"].get("finalizers", [])
        answer = kube.request("PUT", cluster_path(NAMESPACE, name), body)
        if answer.status != 409:
            return answer
    raise AssertionError(f"{name}: always newer than what was sent")


def quiet(body: Change) -> Change:
    """The object so that an operator in the same cluster makes no pods for it."""
    return body if body["spec"].get("hibernate") else cel_case.merged(body, {"spec": {"suspend": True}})


def paths(schema: Schema, prefix: str) -> list[str]:
    """Every field below a node."""
    found = []
    for name, below in schema.get("properties", {}).items():
        found.append(f"{prefix}.{name}")
        found += paths(below, f"{prefix}.{name}")
        found += paths(below.get("items", {}), f"{prefix}.{name}")
    return found


def explain(kube: Kube, top: str, _run: Run) -> None:
    """``kubectl explain`` of a field of the object and of all below it."""
    node = openapi_schema()["properties"]
    for part in top.split("."):
        node = node[part] if part in node else node["properties"][part]
    for path in [top, *paths(node, top), *paths(node.get("items", {}), top)]:
        done = kube.kubectl("explain", f"sqliteclusters.{path}")
        assert done.returncode == 0, f"{path}: {done.stderr}"
        text = done.stdout.partition("DESCRIPTION:")[2].strip()
        assert len(text) > 10 and not text.startswith("<empty>"), f"{path} is not explained:\n{done.stdout}"


def status_and_scale(kube: Kube, _run: Run) -> None:
    """Status is a subresource; columns, wait, scale and short names show it."""
    body = quiet(cel_case.base("columns"))
    made = kube.request("POST", cluster_path(NAMESPACE), {**body, "status": {"epoch": 9}})
    assert made.ok, made.message
    assert "status" not in made.body, "a status came in with the object"
    stamp = "2030-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "reason": "ClusterHealthy", "message": "m", "lastTransitionTime": stamp}
    status = {"conditions": [ready], "ready": "3/3", "instances": 3, "currentPrimary": "columns-1", "epoch": 4}
    status["selector"] = "sqlitecluster.dev/cluster=columns"
    path = cluster_path(NAMESPACE, "columns", "status")
    answer = kube.request("PATCH", path, {"status": status}, kind="merge-patch")
    assert answer.ok, answer.message
    for words in (["get", "sqc", "columns"], ["get", "sqlite"], ["get", "all"], ["get", "databases"]):
        done = kube.kubectl(*words, "-n", NAMESPACE)
        for text in ("3/3", "columns-1", "ClusterHealthy"):
            assert text in done.stdout, f"kubectl {' '.join(words)}: {done.stdout}{done.stderr}"
    done = kube.kubectl("wait", "--for=condition=Ready", "sqc/columns", "-n", NAMESPACE, "--timeout=10s")
    assert done.returncode == 0, done.stderr
    done = kube.kubectl("scale", "sqc/columns", "--replicas=5", "-n", NAMESPACE)
    assert done.returncode == 0, done.stderr
    assert kube.request("GET", cluster_path(NAMESPACE, "columns")).body["spec"]["instances"] == 5
    scale = kube.request("GET", cluster_path(NAMESPACE, "columns", "scale")).body["status"]
    assert scale == {"replicas": 3, "selector": status["selector"]}, scale
    done = kube.kubectl("scale", "sqc/columns", "--replicas=0", "-n", NAMESPACE)
    assert done.returncode != 0, "instances: 0 came in through scale"
    two = [{**ready, "type": kind} for kind in ("Ready", "Ready")]
    answer = kube.request("PATCH", path, {"status": {"conditions": two}}, kind="merge-patch")
    assert not answer.ok, "two conditions of one type were accepted"


def defaults_and_unknown_fields(kube: Kube, _run: Run) -> None:
    """The short object is completed; unknown fields are pruned, but kept in the pod template."""
    body = cel_case.merged(cel_case.base("short"), {"spec": {"unheardOf": 1}})
    answer = kube.request("POST", cluster_path(NAMESPACE, query="dryRun=All"), body)
    assert answer.ok, answer.message
    spec = answer.body["spec"]
    assert "unheardOf" not in spec
    assert spec["template"]["spec"]["containers"][0]["env"], "a container lost its environment"
    assert spec["primary"]["lease"] == {
        "leaseDurationSeconds": 12,
        "renewDeadlineSeconds": 7,
        "retryPeriodSeconds": 1,
    }, spec["primary"]
    assert spec["mount"]["path"] == "/data" and spec["services"]["rw"]["enabled"] is True
    strict = cluster_path(NAMESPACE, query="dryRun=All&fieldValidation=Strict")
    answer = kube.request("POST", strict, body)
    assert "unheardOf" in answer.message, f"kubectl does not name an unknown field: {answer.message}"


def largest_object(kube: Kube, _run: Run) -> None:
    """An object at every limit of its lists is accepted: the rules' cost stays within the API server's budget."""
    containers = [
        {
            "name": f"c{number}",
            "image": "a",
            "ports": [{"containerPort": 1000 + port} for port in range(64)],
            "volumeMounts": [{"name": f"v{at}", "mountPath": f"/m{at}"} for at in range(64)],
        }
        for number in range(32)
    ]
    volumes = [{"name": f"v{at}", "emptyDir": {}} for at in range(64)]
    inits = [{**one, "name": f"i{one['name']}"} for one in containers]
    change = cel_case.spec(
        instances=64,
        template={"spec": {"containers": containers, "initContainers": inits, "volumes": volumes}},
        databases=[{"name": f"{number}.db"} for number in range(256)],
        mount={"containers": [f"c{number}" for number in range(16)]},
        fence=[f"large-{number}" for number in range(64)],
    )
    body = cel_case.merged(cel_case.base("large"), change)
    answer = kube.request("POST", cluster_path(NAMESPACE, query="dryRun=All"), body)
    assert answer.ok, answer.message


def main() -> int:
    """Run the lane."""
    tops = [f"spec.{name}" for name in openapi_schema()["properties"]["spec"]["properties"]] + ["status"]
    run = parse("kube_cel", "cases", len(cel_cases.CASES) + len(tops) + len(CHART_CASES) + 3, None)
    cases = {case.name: rule for case in cel_cases.CASES}
    names = [*cases, *(f"explain {top}" for top in tops), "status-and-scale", "defaults", "largest", *CHART_CASES]
    if run.options.list:
        print("\n".join(names))
        return 0

    def body(run: Run) -> None:
        kube = kubeapi.connect()
        kube.install_definition()
        kube.make_namespace(NAMESPACE)
        table = {case.name: partial(rule, kube, case) for case in cel_cases.CASES}
        table |= {f"explain {top}": partial(explain, kube, top) for top in tops}
        table |= {
            "status-and-scale": partial(status_and_scale, kube),
            "defaults": partial(defaults_and_unknown_fields, kube),
            "largest": partial(largest_object, kube),
        }
        table |= {name: partial(case, kube, NAMESPACE) for name, case in CHART_CASES.items()}
        try:
            # The status of the lane's own object is what the lane writes there, not a deployed operator.
            with nullcontext() if os.environ.get("KUBECONFIG") else others_paused():
                run_cases(run, table)
        finally:
            kube.drop_namespace(NAMESPACE)

    return run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
