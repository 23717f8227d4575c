"""The chart's cases of ``lanes.kube_cel``: lint, rendering with many values, and the API server's opinion."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import yaml

from support.kubeapi import ROOT, Kube, cluster_path
from support.lane import Run

CHART = str(ROOT / "charts" / "sqlitecluster")
KUBERNETES = "v1.34.2"
DIGEST = "sha256:" + "0" * 64
# Sets of values that must render, with a text that must be in what is rendered.
RENDERINGS = {
    "default": ([], "--lease-namespace="),
    "namespaced": (["--set", "watchNamespaces={lane-a,lane-b}"], "--namespace=lane-b"),
    "two": (["--set", "replicas=2"], "kind: PodDisruptionBudget"),
    "registry": (
        ["--set", "image.registry=mirror.example.test:5000", "--set", "sidecarImage.registry=mirror.example.test"],
        "--sidecar-image=mirror.example.test/sqlitecluster-sidecar:",
    ),
    "digest": (["--set", f"image.digest={DIGEST}", "--set", "imagePullSecrets[0].name=pull"], f"operator@{DIGEST}"),
    "foreign-account": (["--set", "serviceAccount.create=false,serviceAccount.name=mine"], "serviceAccountName: mine"),
    "bare": (
        ["--set", "crds.enabled=false,rbac.create=false,networkPolicy.enabled=false,test.enabled=false"],
        "kind: Deployment",
    ),
    "placed": (
        ["--set", "nodeSelector.a=b,podLabels.team=x,priorityClassName=high", "--set", "extraArgs={--verbose}"],
        "priorityClassName: high",
    ),
}
# Values that the schema must refuse, and a word of the refusal.
REFUSED = {
    "unknown": (["--set", "replica=2"], "replica"),
    "too-many": (["--set", "replicas=9"], "replicas"),
    "digest": (["--set", "image.digest=sha256:12"], "digest"),
    "policy": (["--set", "image.pullPolicy=Sometimes"], "pullPolicy"),
    "log": (["--set", "logFormat=xml"], "logFormat"),
    "namespace": (["--set", "watchNamespaces={Big}"], "watchNamespaces"),
}


def lint(kube: Kube, _namespace: str, _run: Run) -> None:
    """``helm lint`` without a complaint."""
    done = kube.helm("lint", "--strict", "--kube-version", KUBERNETES, CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def rendered(kube: Kube, namespace: str, *values: str) -> str:
    """What ``helm template`` makes."""
    done = kube.helm(
        "template", "sqlitecluster", CHART, "--namespace", namespace, "--kube-version", KUBERNETES, *values
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    """The objects in a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def renders(kube: Kube, namespace: str, _run: Run) -> None:
    """Each set of values renders to legal objects, every one in the release's or a watched namespace."""
    for name, (values, expected) in RENDERINGS.items():
        text = rendered(kube, namespace, *values)
        assert expected in text, f"{name}: no {expected!r}"
        for document in documents(text):
            place = document["metadata"].get("namespace", namespace)
            assert place in (namespace, "lane-a", "lane-b"), f"{name}: {document['kind']} in {place}"
            assert len(document["metadata"]["name"]) <= 63, document["metadata"]["name"]


def refuses(kube: Kube, namespace: str, _run: Run) -> None:
    """The schema of values refuses what cannot be, and says which value."""
    for name, (values, word) in REFUSED.items():
        done = kube.helm(
            "template", "sqlitecluster", CHART, "--namespace", namespace, "--kube-version", KUBERNETES, *values
        )
        assert done.returncode != 0, f"{name}: was accepted"
        assert word in done.stderr, f"{name}: {done.stderr}"


def accepted_by_the_server(kube: Kube, namespace: str, _run: Run) -> None:
    """The API server takes every object, strictly (a field with a spelling mistake would be refused)."""
    kube.make_namespace(namespace)
    for values in ([], ["--set", "replicas=2"], ["--set", f"watchNamespaces={{{namespace}}}"]):
        text = rendered(kube, namespace, "--no-hooks", "--set", "crds.enabled=false", *values)
        done = kube.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
        assert done.returncode == 0, done.stderr
        assert "would violate" not in done.stderr, done.stderr


def operator_is_restricted(kube: Kube, namespace: str, _run: Run) -> None:
    """The operator's pod and the test's pod run in a namespace with Pod Security "restricted"."""
    place = f"{namespace}-pss"
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place, "labels": label}}
    answer = kube.request("POST", "/api/v1/namespaces", body)
    assert answer.ok or answer.status == 409, answer.message
    try:
        for document in documents(rendered(kube, place)):
            if document["kind"] not in ("Deployment", "Pod"):
                continue
            pod = document if document["kind"] == "Pod" else document["spec"]["template"]
            spec = {key: value for key, value in pod["spec"].items() if key != "serviceAccountName"}
            meta = {"name": "probe", "namespace": place}
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
            answer = kube.request("POST", f"/api/v1/namespaces/{place}/pods?dryRun=All", body)
            waiting = "serviceaccount" in answer.message  # the default one is made a moment after the namespace
            assert answer.ok or waiting, f"{document['kind']}: {answer.message}"
            assert "violates PodSecurity" not in answer.message, answer.message
    finally:
        kube.drop_namespace(place)


def notes_can_be_pasted(kube: Kube, namespace: str, _run: Run) -> None:
    """The object in the chart's notes is accepted as it stands there."""
    done = kube.helm(
        "install", "sqlitecluster", CHART, "--namespace", namespace, "--dry-run=server", "--set", "crds.enabled=false"
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"<<EOF\n(.*?)\nEOF\n", done.stdout.partition("NOTES:")[2], re.DOTALL)
    assert found is not None, done.stdout[-2000:]
    body = yaml.safe_load(found[1])
    answer = kube.request("POST", cluster_path(namespace, query="dryRun=All&fieldValidation=Strict"), body)
    assert answer.ok, answer.message
    assert "kubectl wait --for=condition=Ready" in done.stdout


def install_file_is_current(kube: Kube, _namespace: str, _run: Run) -> None:
    """``charts/install.yaml`` is what the chart renders to."""
    command = [sys.executable, str(ROOT / "tools" / "chart.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


CHART_CASES: dict[str, Callable[[Kube, str, Run], None]] = {
    "chart-lint": lint,
    "chart-renders": renders,
    "chart-refuses": refuses,
    "chart-accepted": accepted_by_the_server,
    "chart-restricted": operator_is_restricted,
    "chart-notes": notes_can_be_pasted,
    "chart-install-file": install_file_is_current,
}
