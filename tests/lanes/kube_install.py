"""The chart in use: installed, tested, a first cluster, databases to start with, uninstalled.

    python -m lanes.kube_install [--count N]

The release is the lane's own: it serves the lane's namespace only, beside whatever else runs in the cluster.
"""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from localcluster.images import references
from support import cel_case, kube
from support.kubeapi import ROOT
from support.lane import Case, Run, parse, registry, run_cases, run_lane
from support.operatorscene import others_paused

RELEASE = "lane"
OPERATOR = f"{RELEASE}-sqlitecluster"
READY_S = 180.0
ASK = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall())"
INSERT = """
import sqlite3
connection = sqlite3.connect("/data/a.db", timeout=5)
connection.execute("INSERT INTO t VALUES (1)")
connection.commit()
"""
CASES, case = registry()
_namespace: list[str] = []


def here() -> str:
    """The lane's namespace."""
    return _namespace[0]


def reference(name: str) -> tuple[str, str]:
    """Repository and tag of an image of this checkout."""
    repository, _, tag = references(ROOT / ".build" / "images" / f"{name}.tar")[0].rpartition(":")
    return repository, tag


def install() -> None:
    """Images to the nodes, CRD and chart to the API."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
    command = [sys.executable, "-m", "images", "archives"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=900)
    names = ("sqlitecluster-operator", "sqlitecluster-sidecar", "sqlitecluster-sample")
    kube.cluster_object().load([ROOT / ".build" / "images" / f"{name}.tar" for name in names])
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds" / "sqliteclusters.yaml"))
    upgrade()


def upgrade(*values: str) -> None:
    """Install the release, or change it."""
    chosen = [f"watchNamespaces={{{here()}}}", "crds.enabled=false", "rbac.aggregate=false", *values]
    for key, name in (("image", "sqlitecluster-operator"), ("sidecarImage", "sqlitecluster-sidecar")):
        repository, tag = reference(name)
        chosen += [f"{key}.repository={repository}", f"{key}.tag={tag}"]
    options = [part for value in chosen for part in ("--set", value)]
    chart = str(ROOT / "charts" / "sqlitecluster")
    kube.helm("upgrade", "--install", RELEASE, chart, "-n", here(), "--wait", "--timeout", "180s", *options)


def cluster(name: str, **spec: Any) -> dict[str, Any]:
    """Apply a SQLiteCluster and wait until it is Ready; the object."""
    body = cel_case.merged(cel_case.base(name), cel_case.spec(storage={"retain": {"whenDeleted": "Delete"}}, **spec))
    kube.apply(body, here())
    return kube.wait_condition(f"sqlitecluster/{name}", "Ready", here(), limit_s=READY_S)


def ask(pod: str, path: str, sql: str) -> str:
    """What a pod of a cluster without a program reads in a database."""
    return kube.kubectl("-n", here(), "exec", pod, "-c", "shell", "--", "python", "-c", ASK, path, sql).strip()


def drop(name: str) -> None:
    """Delete a cluster and wait until its pods are gone."""
    kube.kubectl("-n", here(), "delete", "sqlitecluster", name, "--timeout=120s", limit_s=130)
    kube.wait_for(
        f"the pods of {name} are gone",
        lambda: not kube.get("pods", here(), selector=f"sqlitecluster.dev/cluster={name}")["items"],
        limit_s=120,
    )


@case
def helm_test(run: Run) -> None:
    """``helm test`` writes, hands off and reads."""
    said = kube.helm("test", RELEASE, "-n", here(), "--timeout", "5m", "--logs", limit_s=360)
    assert "passed" in said and "write gap" in said, said
    run.say(next(line for line in said.splitlines() if "write gap" in line))


@case
def short_object(_run: Run) -> None:
    """The object of the documentation gives 3/3, and ``kubectl wait`` sees it."""
    repository, tag = reference("sqlitecluster-sample")
    container = {
        "name": "app",
        "image": f"{repository}:{tag}",
        "env": [{"name": "DATABASE_URL", "value": "/data/n.db"}],
    }
    body = cel_case.merged(cel_case.base("short"), cel_case.pod(containers=[container]))
    kube.apply(body, here())
    said = kube.kubectl(
        "-n", here(), "wait", "--for=condition=Ready", "sqlitecluster/short", "--timeout=180s", limit_s=190
    )
    assert "condition met" in said, said
    row = kube.kubectl("-n", here(), "get", "sqc", "short", "--no-headers").split()
    assert row[1] == "3/3" and row[2].startswith("short-") and row[3] == "ClusterHealthy", row
    drop("short")


@case
def bootstrap_sql(_run: Run) -> None:
    """Databases and SQL of the spec are on every pod; a restart of all pods does not run the SQL again."""
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seed"}, "data": {"a": SQL}}, here())
    made = {"sql": ["CREATE TABLE t (a)"], "sqlRefs": [{"configMap": {"name": "seed", "key": "a"}}]}
    rows = [{"name": "notes.db"}, {"name": "tenants/a.db", "journalMode": "DELETE", "pageSize": 1024}]
    cluster("seeded", instances=2, template=None, databases=rows, bootstrap={"initdb": made})
    check_seeded()
    kube.kubectl("-n", here(), "delete", "configmap", "seed")
    kube.kubectl("-n", here(), "delete", "pod", "seeded-0", "seeded-1", "--timeout=120s", limit_s=130)
    kube.wait_condition("sqlitecluster/seeded", "Ready", here(), limit_s=READY_S)
    kube.wait_for("both pods are back", lambda: ready_pods("seeded") == 2, limit_s=READY_S)
    check_seeded()
    drop("seeded")


SQL = "INSERT INTO t VALUES ('from a ConfigMap')"


def check_seeded() -> None:
    """Both pods have what was asked for, once."""
    for pod in ("seeded-0", "seeded-1"):
        kube.wait_for(
            f"{pod} has the row", lambda p=pod: "ConfigMap" in ask(p, "/data/notes.db", "SELECT a FROM t"), limit_s=60
        )
        assert ask(pod, "/data/notes.db", "SELECT count(*) FROM t") == "[(1,)]", pod
        assert ask(pod, "/data/tenants/a.db", "PRAGMA page_size") == "[(1024,)]", pod


def ready_pods(name: str) -> int:
    """How many pods of a cluster are ready."""
    pods = kube.get("pods", here(), selector=f"sqlitecluster.dev/cluster={name}")["items"]
    conditions = [{c["type"]: c["status"] for c in pod["status"].get("conditions", [])} for pod in pods]
    return sum(found.get("Ready") == "True" for found in conditions)


@case
def bootstrap_import(run: Run) -> None:
    """A database from a Secret is taken over byte by byte."""
    path: Path = run.new_folder("import") / "old.db"
    old = sqlite3.connect(path)
    old.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3);")
    old.close()
    data = {"db": base64.b64encode(path.read_bytes()).decode()}
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "old"}, "data": data}, here())
    source = {"source": {"secret": {"name": "old", "key": "db"}}, "database": "new.db"}
    cluster("imported", instances=1, template=None, bootstrap={"import": source})
    assert ask("imported-0", "/data/new.db", "SELECT sum(a) FROM t") == "[(6,)]"
    drop("imported")


@case
def uninstall_leaves_programs(_run: Run) -> None:
    """Without the operator pods run on and still hand over; the operator finds them again."""
    cluster(
        "stays", instances=2, template=None, bootstrap={"initdb": {"database": "a.db", "sql": ["CREATE TABLE t (a)"]}}
    )
    before = kube.get("pods", here(), selector="sqlitecluster.dev/cluster=stays")
    kube.helm("uninstall", RELEASE, "-n", here(), "--wait", "--timeout", "120s")
    holder = kube.get("lease/stays", here())["spec"]["holderIdentity"].partition("_")[0]
    kube.kubectl("-n", here(), "delete", "pod", holder, "--wait=false")
    kube.wait_for(
        "another pod leads",
        lambda: kube.get("lease/stays", here())["spec"].get("holderIdentity", "").partition("_")[0] not in ("", holder),
        limit_s=60,
    )
    now = kube.get("lease/stays", here())["spec"]["holderIdentity"].partition("_")[0]
    uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in before["items"]}
    assert kube.get(f"pod/{now}", here())["metadata"]["uid"] == uids[now], "the other pod did not stay"
    kube.wait_for(
        "the new primary writes",
        lambda: writes(now),
        limit_s=60,
    )
    upgrade()
    kube.wait_condition("sqlitecluster/stays", "Ready", here(), limit_s=READY_S)
    drop("stays")


def writes(pod: str) -> bool:
    """Whether a program in the pod can write."""
    kube.kubectl("-n", here(), "exec", pod, "-c", "shell", "--", "python", "-c", INSERT)
    return True


@case
def two_operators(_run: Run) -> None:
    """With two operators one works; when it goes the other takes over and changes are acted on."""
    upgrade("replicas=2")
    cluster("two", instances=1, template=None)
    lease = "lease/sqlitecluster-operator"
    leader = kube.get(lease, here())["spec"]["holderIdentity"].partition("_")[0]
    kube.kubectl("-n", here(), "delete", "pod", leader, "--wait=false")
    kube.wait_for(
        "the other operator leads",
        lambda: kube.get(lease, here())["spec"].get("holderIdentity", "").partition("_")[0] not in ("", leader),
        limit_s=60,
    )
    kube.kubectl("-n", here(), "scale", "sqc/two", "--replicas=2")
    kube.wait_for("two pods are ready", lambda: ready_pods("two") == 2, limit_s=READY_S)
    drop("two")
    upgrade()


def main() -> int:
    """Run the lane."""
    run = parse("kube_install", "cases", len(CASES), None)
    if run.options.list:
        print("\n".join(CASES))
        return 0
    return run_lane(run, lambda r: body(r, CASES))


def body(run: Run, cases: dict[str, Case]) -> None:
    """Install, run the cases, remove everything."""
    with kube.cluster(), others_paused(), kube.namespace("lane-install") as namespace:
        _namespace[:] = [namespace]
        try:
            install()
            run_cases(run, cases)
            kube.kubectl("-n", namespace, "delete", "sqliteclusters", "--all", "--timeout=120s", limit_s=130)
        finally:
            kube.helm("uninstall", RELEASE, "-n", namespace, "--ignore-not-found")
            for kind in ("clusterrolebinding", "clusterrole"):
                kube.kubectl("delete", kind, f"{OPERATOR}-{namespace}", "--ignore-not-found")


if __name__ == "__main__":
    sys.exit(main())
