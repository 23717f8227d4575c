"""Every rule of the CRD: an object that keeps it, one that breaks it, and what the user is told.

Used by ``unit/api`` (Python's side of the rules) and by the lane ``kube_cel`` (a real API server).
"""

from __future__ import annotations

from typing import Any, Final

from support import cel_replication
from support.cel_case import APP, Case, Change, app, pod, primary, spec

_SQL: Final = {"initdb": {"sql": ["CREATE TABLE a (b)"]}}
_URL: Final = {"source": {"url": "https://example.test/a.db"}, "database": "a.db"}
_KEY: Final = {"name": "seed", "key": "a.sql"}
_EXISTS: Final = {"key": "zone", "operator": "Exists"}


def _selector(**requirement: Any) -> Change:
    return primary(candidates={"selector": {"matchExpressions": [requirement]}})


def _initdb(*references: Change) -> Change:
    return spec(bootstrap={"initdb": {"sqlRefs": list(references)}})


def _import(database: str | None, **source: Any) -> Change:
    named = {"database": database} if database else {}
    return spec(bootstrap={"import": {"source": source, **named}})


NAMES: Final = [
    Case(
        "name-length",
        "at most 45 characters",
        {"metadata": {"name": "a" * 45}},
        {"metadata": {"name": "a" * 46}},
        "",
    ),
    Case("name-form", "must begin with a letter", {"metadata": {"name": "n1"}}, {"metadata": {"name": "1n"}}, ""),
    Case(
        "fence-own-pods", "names of this cluster's pods", spec(fence=["notes-1"]), spec(fence=["other-1"]), "spec.fence"
    ),
]

TEMPLATE: Final = [
    Case(
        "container-name",
        "sqlite-guard and sqlite-bootstrap are the operator's containers",
        app(name="sqlite-web"),
        app(name="sqlite-sidecar"),
        "spec.template.spec.containers",
    ),
    Case(
        "init-container-name",
        "sqlite-guard and sqlite-bootstrap are the operator's containers",
        pod(initContainers=[{**APP, "name": "init"}]),
        pod(initContainers=[{**APP, "name": "sqlite-guard"}]),
        "spec.template.spec.containers",
    ),
    Case(
        "unique-names",
        "have the same name",
        pod(initContainers=[{**APP, "name": "init"}]),
        pod(initContainers=[APP]),
        "spec.template.spec.initContainers",
    ),
    Case(
        "volume-name",
        "are the operator's; choose another name",
        pod(volumes=[{"name": "cache", "emptyDir": {}}]),
        pod(volumes=[{"name": "data", "emptyDir": {}}]),
        "spec.template.spec.volumes",
    ),
    Case(
        "volume-prefix",
        "are the operator's; choose another name",
        pod(volumes=[{"name": "my-sqlite-mount", "emptyDir": {}}]),
        pod(volumes=[{"name": "sqlite-mount", "emptyDir": {}}]),
        "spec.template.spec.volumes",
    ),
    Case(
        "ports",
        "20202, 20203 and 20204 are the sidecar's",
        app(ports=[{"name": "http", "containerPort": 8080}]),
        app(ports=[{"name": "http", "containerPort": 20203}]),
        "spec.template.spec.containers",
    ),
    Case(
        "service-account",
        "instead of setting serviceAccountName",
        pod(automountServiceAccountToken=False),
        pod(serviceAccountName="mine"),
        "spec.template.spec.serviceAccountName",
    ),
    Case(
        "mount-containers",
        "names a container that the template does not have",
        spec(mount={"containers": ["app"]}),
        spec(mount={"containers": ["web"]}),
        "spec.mount",
    ),
    Case(
        "mount-path-free",
        "remove that volumeMount",
        app(volumeMounts=[{"name": "cache", "mountPath": "/database"}]),
        app(volumeMounts=[{"name": "cache", "mountPath": "/data/cache"}]),
        "spec.template",
    ),
    Case(
        "mount-path-system",
        "would hide a folder that programs need",
        spec(mount={"path": "/var/lib/notes"}),
        spec(mount={"path": "/etc"}),
        "spec.mount.path",
    ),
    Case(
        "run-on",
        "runOn: Primary needs a template",
        spec(runOn="Primary"),
        spec(runOn="Primary", template=None),
        "spec.runOn",
    ),
    Case(
        "affinity-once",
        "keep one of them",
        spec(affinity={"nodeAffinity": {}}),
        {"spec": {"affinity": {"nodeAffinity": {}}, "template": {"spec": {"affinity": {"nodeAffinity": {}}}}}},
        "spec.affinity",
    ),
    Case(
        "selector-values",
        "In and NotIn need values",
        _selector(key="apps.kubernetes.io/pod-index", operator="In", values=["0"]),
        _selector(key="apps.kubernetes.io/pod-index", operator="In"),
        "spec.primary.candidates.selector.matchExpressions[0].values",
    ),
    Case(
        "selector-no-values",
        "Exists and DoesNotExist take none",
        primary(candidates={"nodeSelector": {"matchExpressions": [_EXISTS]}}),
        primary(candidates={"nodeSelector": {"matchExpressions": [{**_EXISTS, "values": ["a"]}]}}),
        "spec.primary.candidates.nodeSelector.matchExpressions[0].values",
    ),
]

SERVICES: Final = [
    Case(
        "services-rw",
        "the -rw Service cannot be disabled",
        spec(services={"ro": {"enabled": False}}),
        spec(services={"rw": {"enabled": False}}),
        "spec.services.rw",
    ),
    Case(
        "services-balancer",
        "need type: LoadBalancer",
        spec(services={"r": {"template": {"spec": {"type": "LoadBalancer", "loadBalancerClass": "a/b"}}}}),
        spec(services={"r": {"template": {"spec": {"loadBalancerClass": "a/b"}}}}),
        "spec.services.r.template.spec.type",
    ),
    Case(
        "services-external",
        "needs type: NodePort or LoadBalancer",
        spec(services={"rw": {"template": {"spec": {"type": "NodePort", "externalTrafficPolicy": "Local"}}}}),
        spec(services={"rw": {"template": {"spec": {"externalTrafficPolicy": "Local"}}}}),
        "spec.services.rw.template.spec.externalTrafficPolicy",
    ),
]

TIMES: Final = [
    Case(
        "lease-order",
        "must be more than renewDeadlineSeconds",
        primary(lease={"leaseDurationSeconds": 30, "renewDeadlineSeconds": 20}),
        primary(lease={"leaseDurationSeconds": 20, "renewDeadlineSeconds": 20}),
        "spec.primary.lease.leaseDurationSeconds",
    ),
    Case(
        "lease-retry",
        "at least twice lease.retryPeriodSeconds",
        primary(lease={"renewDeadlineSeconds": 7, "retryPeriodSeconds": 3}),
        primary(lease={"renewDeadlineSeconds": 7, "retryPeriodSeconds": 4}),
        "spec.primary.lease",
    ),
    Case(
        "lease-retry-margin",
        "at least twice lease.retryPeriodSeconds",
        primary(lease={"renewDeadlineSeconds": 7}, fence={"marginMillis": 4999}),
        primary(lease={"renewDeadlineSeconds": 4}, fence={"marginMillis": 2001}),
        "spec.primary.lease",
    ),
    Case(
        "fence-margin",
        "fence.marginMillis must be less",
        primary(fence={"marginMillis": 4999}),
        primary(fence={"marginMillis": 5000}),
        "spec.primary.fence",
    ),
    Case(
        "switchover-timeout",
        "switchoverTimeout must be between 1s and 1h",
        primary(switchoverTimeout="1m30s"),
        primary(switchoverTimeout="500ms"),
        "spec.primary.switchoverTimeout",
    ),
    Case(
        "demote-delay",
        "demoteDelay must be between 0s and 1h",
        primary(demoteDelay="0s"),
        primary(demoteDelay="2h"),
        "spec.primary.demoteDelay",
    ),
    Case(
        "failover-delay",
        "failoverDelay must be between 0s and 24h",
        primary(failoverDelay="24h"),
        primary(failoverDelay="25h"),
        "spec.primary.failoverDelay",
    ),
    Case(
        "max-lag",
        "maxLag must be more than 0s",
        spec(replication={"maxLag": "500ms"}),
        spec(replication={"maxLag": "0s"}),
        "spec.replication.maxLag",
    ),
    Case(
        "retention-ltx",
        "ltx must be at least 1m",
        spec(retention={"ltx": "1m"}),
        spec(retention={"ltx": "59s"}),
        "spec.retention.ltx",
    ),
    Case(
        "retention-bytes",
        "maxBytes must be at least 16Mi",
        spec(retention={"maxBytes": "16Mi"}),
        spec(retention={"maxBytes": "15Mi"}),
        "spec.retention.maxBytes",
    ),
    Case(
        "certificate-lifetime",
        "certificateLifetime must be between 60s and 8760h",
        spec(tls={"certificateLifetime": "60s"}),
        spec(tls={"certificateLifetime": "59s"}),
        "spec.tls.certificateLifetime",
    ),
    Case(
        "ca-lifetime",
        "caLifetime must be at least twice",
        spec(tls={"caLifetime": "336h"}),
        spec(tls={"caLifetime": "335h"}),
        "spec.tls.caLifetime",
    ),
    Case(
        "monitoring-interval",
        "interval must be between 1s and 1h",
        spec(monitoring={"interval": "1s"}),
        spec(monitoring={"interval": "999ms"}),
        "spec.monitoring.interval",
    ),
]

DATA: Final = [
    Case(
        "size",
        "size must be at least 64Mi",
        spec(storage={"size": "64Mi"}),
        spec(storage={"size": "63Mi"}),
        "spec.storage.size",
    ),
    Case(
        "hibernate-suspend",
        "set suspend to false first",
        spec(hibernate=True),
        spec(hibernate=True, suspend=True),
        "spec.hibernate",
    ),
    Case(
        "database-name",
        "belong to SQLite and to the mount",
        spec(databases=[{"name": "tenants/a.db"}]),
        spec(databases=[{"name": "a.db-wal"}]),
        "spec.databases[0].name",
    ),
    Case(
        "bootstrap-one",
        "exactly one of initdb and import",
        spec(bootstrap=_SQL),
        spec(bootstrap={**_SQL, "import": _URL}),
        "spec.bootstrap",
    ),
    Case(
        "initdb-empty",
        "initdb needs sql or sqlRefs",
        spec(bootstrap=_SQL),
        spec(bootstrap={"initdb": {}}),
        "spec.bootstrap.initdb",
    ),
    Case(
        "sql-reference",
        "exactly one of configMap and secret",
        _initdb({"configMap": _KEY}, {"secret": _KEY}),
        _initdb({"configMap": _KEY, "secret": _KEY}),
        "spec.bootstrap.initdb.sqlRefs[0]",
    ),
    Case(
        "import-source",
        "exactly one of url, persistentVolumeClaim and secret",
        _import("a.db", secret=_KEY),
        _import("a.db", secret=_KEY, url="https://example.test/a.db"),
        "spec.bootstrap.import.source",
    ),
    Case(
        "import-database",
        "it is the name that the imported file gets",
        _import(None, persistentVolumeClaim={"claimName": "old"}),
        _import(None, url="https://example.test/a.db"),
        "spec.bootstrap.import.database",
    ),
]

TRANSITIONS: Final = [
    Case(
        "shrink",
        "a volume cannot shrink",
        spec(storage={"size": "2048Mi"}),
        spec(storage={"size": "1Gi"}),
        "spec.storage.size",
        before=spec(storage={"size": "2Gi"}),
    ),
    Case(
        "storage-class",
        "storage class of existing volumes cannot be changed",
        spec(storage={"storageClass": "fast"}),
        spec(storage={"storageClass": "slow"}),
        "spec.storage.storageClass",
        before=spec(storage={"storageClass": "fast"}),
    ),
    Case(
        "storage-class-added",
        "storage class of existing volumes cannot be changed",
        spec(instances=5),
        spec(storage={"storageClass": "slow"}),
        "spec.storage.storageClass",
        before={},
    ),
    Case(
        "mount-path",
        "the mount path cannot be changed",
        spec(mount={"path": "/srv"}, replicaWrites="ReadOnly"),
        spec(mount={"path": "/data"}),
        "spec.mount.path",
        before=spec(mount={"path": "/srv"}),
    ),
    Case(
        "databases-changed",
        "databases are made once",
        spec(databases=[{"name": "a.db"}], suspend=True),
        spec(databases=[{"name": "a.db"}, {"name": "b.db"}]),
        "spec.databases",
        before=spec(databases=[{"name": "a.db"}]),
    ),
    Case(
        "bootstrap-added",
        "cannot be added or removed later",
        spec(suspend=True),
        spec(bootstrap=_SQL),
        "spec.bootstrap",
        before={},
    ),
    Case(
        "bootstrap-changed",
        "it cannot be changed later",
        spec(bootstrap=_SQL, fence=["notes-2"]),
        spec(bootstrap={"initdb": {"sql": ["CREATE TABLE c (d)"]}}),
        "spec.bootstrap",
        before=spec(bootstrap=_SQL),
    ),
]

SCHEMA: Final = [
    Case("fence-form", "", spec(fence=["*"]), spec(fence=["notes"]), "spec.fence[0]", schema=True),
    Case("fence-ordinal", "", spec(fence=["notes-10"]), spec(fence=["notes-01"]), "spec.fence[0]", schema=True),
    Case("instances", "64", spec(instances=64), spec(instances=65), "spec.instances", schema=True),
    Case("instances-none", "1", spec(instances=1), spec(instances=0), "spec.instances", schema=True),
    Case("run-on-values", "Primary", spec(runOn="All"), spec(runOn="Replica"), "spec.runOn", schema=True),
    Case("storage-needed", "required", {}, spec(storage=None), "spec.storage", schema=True),
    Case(
        "size-form",
        "",
        spec(storage={"size": "1.5Gi"}),
        spec(storage={"size": "1 GB"}),
        "spec.storage.size",
        schema=True,
    ),
    Case(
        "duration-form",
        "",
        primary(demoteDelay="1.5s"),
        primary(demoteDelay="10"),
        "spec.primary.demoteDelay",
        schema=True,
    ),
    Case(
        "mount-path-form",
        "",
        spec(mount={"path": "/srv/db"}),
        spec(mount={"path": "data"}),
        "spec.mount.path",
        schema=True,
    ),
    Case(
        "containers-needed",
        "",
        spec(template={"metadata": {"labels": {"a": "b"}}}),
        pod(containers=[]),
        "spec.template.spec.containers",
        schema=True,
    ),
    Case(
        "page-size-values",
        "",
        spec(databases=[{"name": "a", "pageSize": 512}]),
        spec(databases=[{"name": "a", "pageSize": 1000}]),
        "spec.databases[0].pageSize",
        schema=True,
    ),
    Case(
        "database-form",
        "",
        spec(databases=[{"name": "a/b.db"}]),
        spec(databases=[{"name": "../b.db"}]),
        "spec.databases[0].name",
        schema=True,
    ),
    Case(
        "restart-policy",
        "Always",
        pod(restartPolicy="Always"),
        pod(restartPolicy="Never"),
        "spec.template.spec.restartPolicy",
        schema=True,
    ),
]

CASES: Final = [*NAMES, *TEMPLATE, *SERVICES, *TIMES, *DATA, *TRANSITIONS, *SCHEMA, *cel_replication.CASES]
