"""``spec.databases`` and ``spec.bootstrap`` as objects: who gets the init container, and what it is told."""

from __future__ import annotations

import json
from typing import Any

from sqlitecluster.cli import bootstrap as command
from sqlitecluster_operator.api import SQLiteCluster, parse
from sqlitecluster_operator.objects import bootstrap, nodeconfig, pods
from support import cel_case


def cluster(**fields: Any) -> SQLiteCluster:
    return parse(cel_case.merged(cel_case.base(), cel_case.spec(**fields)))


def told(made: SQLiteCluster) -> list[command.Wanted]:
    """What the command in the pod makes of its file."""
    return list(command.plan(json.loads(nodeconfig.config_map(made)["data"]["bootstrap.json"])))


def test_a_cluster_without_databases_has_no_init_container() -> None:
    pod = pods.pod_spec(cluster(), "sidecar:1", "Never")

    assert [one["name"] for one in pod["initContainers"]] == ["sqlite-guard", "sqlite-sidecar"]
    assert "bootstrap.json" not in nodeconfig.config_map(cluster())["data"]


def test_it_runs_after_the_sidecar_and_before_the_program_without_rights() -> None:
    made = cluster(databases=[{"name": "a.db"}], template={"spec": {"initContainers": [{"name": "i", "image": "x"}]}})
    containers = pods.pod_spec(made, "sidecar:1", "Never")["initContainers"]

    assert [one["name"] for one in containers] == ["sqlite-guard", "sqlite-sidecar", "sqlite-bootstrap", "i"]
    assert "restartPolicy" not in containers[2]
    assert containers[2]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert containers[2]["resources"]["limits"]


def test_databases_are_told() -> None:
    rows = [{"name": "a.db", "pageSize": 512}, {"name": "b.db", "journalMode": "DELETE"}]

    assert told(cluster(databases=rows)) == [
        command.Wanted("a.db", page_size=512),
        command.Wanted("b.db", journal_mode="DELETE"),
    ]


def test_sql_runs_in_the_first_database_and_comes_from_volumes() -> None:
    references = [{"configMap": {"name": "c", "key": "k"}}, {"secret": {"name": "s", "key": "l"}}]
    made = cluster(bootstrap={"initdb": {"sql": ["X"], "sqlRefs": references}}, databases=[{"name": "a.db"}])

    assert told(made) == [command.Wanted("a.db", "", ("X",), ("/seeds/0.sql", "/seeds/1.sql"))]
    assert bootstrap.volumes(made)[1]["projected"]["sources"] == [
        {"configMap": {"name": "c", "items": [{"key": "k", "path": "0.sql"}], "optional": True}},
        {"secret": {"name": "s", "items": [{"key": "l", "path": "1.sql"}], "optional": True}},
    ]


def test_without_a_name_sql_runs_in_app_db() -> None:
    assert told(cluster(bootstrap={"initdb": {"sql": ["X"]}}))[0].name == "app.db"


def test_imports() -> None:
    key = {"name": "s", "key": "k"}
    claim = {"claimName": "old", "path": "/var/db/a.db"}

    def source(**kind: Any) -> str:
        return told(cluster(bootstrap={"import": {"source": kind, "database": "a.db"}}))[0].source

    assert source(url="https://example.test/x") == "https://example.test/x"
    assert source(secret=key) == "/seeds/import.db"
    assert source(persistentVolumeClaim=claim) == "/source/var/db/a.db"
    assert source(persistentVolumeClaim={"claimName": "old"}) == "/source"


def test_every_volume_that_is_mounted_exists() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "old"}}
    for start in ({"import": {"source": claim}}, {"initdb": {"sqlRefs": [{"secret": {"name": "s", "key": "k"}}]}}):
        pod = pods.pod_spec(cluster(bootstrap=start), "sidecar:1", "Never")
        known = {volume["name"] for volume in pod["volumes"]} | {"data"}
        for one in pod["initContainers"]:
            assert {mount["name"] for mount in one.get("volumeMounts", ())} <= known, one["name"]
