"""``spec.databases`` and ``spec.bootstrap``: an init container that makes databases before the program starts. Pure.

It runs in every pod after the sidecar; only on the primary it does something (``sqlitecluster bootstrap``). Sources
are volumes: the operator itself never reads a Secret of a user.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sqlitecluster_operator.api import SQLiteCluster
from sqlitecluster_operator.objects.metadata import Object

CONTAINER: Final = "sqlite-bootstrap"
CONFIG_KEY: Final = "bootstrap.json"
DEFAULT_DATABASE: Final = "app.db"
_CONFIG_DIR: Final = "/etc/sqlitecluster"
_BUILD_DIR: Final = "/var/tmp"
_SEEDS_DIR: Final = "/seeds"
_SOURCE_DIR: Final = "/source"
_RUN_AS: Final = 20202


def wanted(cluster: SQLiteCluster) -> bool:
    """Whether there is anything to make."""
    return bool(cluster.spec.databases) or cluster.spec.bootstrap is not None


def config(cluster: SQLiteCluster) -> dict[str, str]:
    """What the ConfigMap of the cluster has for it; nothing when nothing is to be made."""
    if not wanted(cluster):
        return {}
    spec = cluster.spec
    rows = [one.model_dump(mode="json", by_alias=True) for one in spec.databases]
    document: dict[str, Any] = {"databases": rows}
    if spec.bootstrap and spec.bootstrap.initdb:
        initdb = spec.bootstrap.initdb
        first = spec.databases[0].name if spec.databases else DEFAULT_DATABASE
        files = [f"{_SEEDS_DIR}/{number}.sql" for number in range(len(initdb.sql_refs))]
        document["initdb"] = {"database": initdb.database or first, "sql": initdb.sql, "files": files}
    if spec.bootstrap and spec.bootstrap.import_:
        document["import"] = _import(cluster)
    return {CONFIG_KEY: json.dumps(document, indent=1)}


def containers(cluster: SQLiteCluster, image: str, pull_policy: str) -> list[Object]:
    """The init container; it belongs right after the sidecar."""
    if not wanted(cluster):
        return []
    own = cluster.spec.sidecar
    mounts = [
        {"name": "sqlite-config", "mountPath": _CONFIG_DIR, "readOnly": True},
        {"name": "sqlite-build", "mountPath": _BUILD_DIR},
    ]
    if _seeds(cluster):
        mounts.append({"name": "sqlite-seeds", "mountPath": _SEEDS_DIR, "readOnly": True})
    if _claim(cluster):
        mounts.append({"name": "sqlite-source", "mountPath": _SOURCE_DIR, "readOnly": True})
    return [
        {
            "name": CONTAINER,
            "image": own.image or image,
            "imagePullPolicy": own.image_pull_policy or pull_policy,
            "command": ["/opt/sqlitecluster/bin/sqlitecluster", "bootstrap"],
            "args": [f"--file={_CONFIG_DIR}/{CONFIG_KEY}", f"--folder={_BUILD_DIR}"],
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"},
                "limits": {"cpu": "1", "memory": "256Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": _RUN_AS,
                "runAsGroup": _RUN_AS,
            },
            "volumeMounts": mounts,
        }
    ]


def volumes(cluster: SQLiteCluster) -> list[Object]:
    """Its volumes. What it reads may be gone once the cluster exists, except for a claim."""
    if not wanted(cluster):
        return []
    made: list[Object] = [{"name": "sqlite-build", "emptyDir": {}}]
    seeds, claim = _seeds(cluster), _claim(cluster)
    if seeds:
        made.append({"name": "sqlite-seeds", "projected": {"sources": seeds}})
    if claim:
        made.append({"name": "sqlite-source", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return made


def _import(cluster: SQLiteCluster) -> dict[str, Any]:
    assert cluster.spec.bootstrap is not None and cluster.spec.bootstrap.import_ is not None
    wish = cluster.spec.bootstrap.import_
    named = {"database": wish.database} if wish.database else {}
    if wish.source.url is not None:
        return {"url": wish.source.url, **named}
    if wish.source.persistent_volume_claim is not None:
        path = wish.source.persistent_volume_claim.path.lstrip("/")
        return {"path": f"{_SOURCE_DIR}/{path}".rstrip("/."), **named}
    return {"path": f"{_SEEDS_DIR}/import.db", **named}


def _seeds(cluster: SQLiteCluster) -> list[Object]:
    """Sources of the projected volume, in the order of the references."""
    start = cluster.spec.bootstrap
    if start is None:
        return []
    found: list[Object] = []
    if start.initdb:
        for number, reference in enumerate(start.initdb.sql_refs):
            kind, key = ("configMap", reference.config_map) if reference.config_map else ("secret", reference.secret)
            assert key is not None
            found.append(_source(kind, key.name, key.key, f"{number}.sql"))
    if start.import_ and start.import_.source.secret:
        found.append(_source("secret", start.import_.source.secret.name, start.import_.source.secret.key, "import.db"))
    return found


def _source(kind: str, name: str, key: str, path: str) -> Object:
    return {kind: {"name": name, "items": [{"key": key, "path": path}], "optional": True}}


def _claim(cluster: SQLiteCluster) -> str | None:
    start = cluster.spec.bootstrap
    if start is None or start.import_ is None or start.import_.source.persistent_volume_claim is None:
        return None
    return start.import_.source.persistent_volume_claim.claim_name
