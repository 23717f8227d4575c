"""Lane ``kube-docs``: what the documents tell kubectl to do works on a cluster.

Every SQLiteCluster in README, docs and demo is shown to the real API server (dry run, strict). Then each
``$ kubectl`` line of the README and of docs is typed, in the order of the documents, with a running
SQLiteCluster ``notes``: an exit code other than 0 is a violation. The README's object is the one that runs,
with the sample program's image. Counts objects and lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lanes.docs import ROOT, clusters, commands
from localcluster import ClusterError
from support import kube
from support.lane import Run, parse, run_lane

LINE_LIMIT_S = 330.0
READY_LIMIT_S = 300.0
FIRST = ("README.md",)
LAST = ("docs/operations.md",)  # deletes the cluster at its end


def documents() -> list[Path]:
    """README, docs, and the one that ends the cluster."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    middle = [name for name in found if name not in LAST]
    return [ROOT / name for name in (*FIRST, *middle, *LAST)]


def lines() -> list[tuple[str, str]]:
    """(document, command) of everything that is typed."""
    return [
        (path.relative_to(ROOT).as_posix(), command)
        for path in documents()
        for command in commands(path.read_text())
        if command.startswith("kubectl ")
    ]


def objects() -> list[tuple[str, dict[str, Any]]]:
    """(where it stands, SQLiteCluster) of all examples."""
    found = [(path.name, body) for path in documents() for body in clusters(path.read_text())]
    manifests = sorted((ROOT / "demo" / "manifests").glob("*.yaml"))
    texts = [(path.name, body) for path in manifests for body in yaml.safe_load_all(path.read_text())]
    return [*found, *((name, body) for name, body in texts if body and body.get("kind") == "SQLiteCluster")]


def show_objects(run: Run, namespace: str) -> None:
    """Dry runs on the API server."""
    for name, body in objects():
        try:
            kube.kubectl(
                "--namespace", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-",
                text=json.dumps(body),
            )  # fmt: skip
            run.count()
        except ClusterError as error:
            run.violation(f"{name}: the API server refuses the example: {error}")


def example(folder: Path) -> None:
    """The README's object as a file, with an image that the nodes have."""
    body = clusters((ROOT / "README.md").read_text())[0]
    spec: Any = body["spec"]
    spec["template"]["spec"]["containers"][0]["image"] = kube.image("sqlitecluster-sample")
    spec["storage"]["size"] = "256Mi"
    (folder / "notes.yaml").write_text(yaml.safe_dump(body))


def environment(run: Run, namespace: str) -> dict[str, str]:
    """A shell with kubectl for this namespace."""
    config = json.loads(kube.kubectl("config", "view", "--raw", "-o", "json"))
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    path = run.folder / "kubeconfig"
    path.write_text(json.dumps(config))
    programs = kube.cluster_object().kubectl_program.parent
    return os.environ | {"KUBECONFIG": str(path), "PATH": f"{programs}:{os.environ['PATH']}"}


def type_lines(run: Run, namespace: str, folder: Path) -> None:
    """Each line, after the cluster is calm again."""
    shell = environment(run, namespace)
    for document, command in lines():
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=shell, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LINE_LIMIT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            run.violation(f"{document}: `{command}` ended with {done.returncode}: {done.stderr or done.stdout}")
        else:
            run.count()
            run.say(f"ok   {command[:90]} ({time.monotonic() - began:.1f} s)")
        if "=Hibernated" not in command and "suspend" not in command.lower() and "delete sqc" not in command:
            calm(namespace, command)


def calm(namespace: str, command: str) -> None:
    """After a change a reader would look until all is well again."""
    if not any(word in command for word in ("wait --for", "apply ")) or "instances}" in command:
        return
    kube.wait_condition("sqlitecluster/notes", "Ready", namespace, limit_s=READY_LIMIT_S)


def body(run: Run) -> None:
    """Objects, then lines."""
    run.wanted = len(objects()) + len(lines())
    with kube.deployed(), kube.namespace("docs") as namespace:
        folder = run.new_folder("reader")
        example(folder)
        show_objects(run, namespace)
        type_lines(run, namespace, folder)


def main() -> int:
    """Entry of ``python -m lanes.kube_docs``."""
    run = parse("kube_docs", "examples", 1, None)
    if run.options.list:
        print("\n".join(f"{document}: {command}" for document, command in lines()))
        return 0
    return run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
