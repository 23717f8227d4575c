"""The container that the operator adds to each pod, and its volumes. Pure."""

from __future__ import annotations

from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster
from sqlitecluster_operator.objects import nodeconfig
from sqlitecluster_operator.objects.metadata import Object

FOR_EVER: Final = 2_000_000_000
"""Failures of the startup probe, one a second, that are allowed with ``runOn: Primary``: a replica stands by."""
STARTUP_FAILURES: Final = 86_400
"""The same with ``runOn: All``: a first copy of the databases may take long."""
TOKEN_AUDIENCE: Final = "sqlitecluster.dev"
RESOURCES: Final[Object] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"cpu": "2", "memory": "512Mi"},
}
_AS_ROOT: Final[Object] = {"privileged": True, "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}
"""A mount that other containers see needs it; mount and replicator give it away (``runAs``)."""
_FIELDS: Final = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
    "POD_IP": "status.podIP",
    "NODE_NAME": "spec.nodeName",
}


def container(cluster: SQLiteCluster, image: str, pull_policy: str) -> Object:
    """The native sidecar: an init container that stays.

    It has no liveness probe: its supervisor replaces what dies, and takes a SIGTERM for the end of the pod,
    after which programs that still run see no mount any more.
    """
    own = cluster.spec.sidecar
    resources = own.resources.model_dump(by_alias=True, exclude_none=True) if own.resources else RESOURCES
    return {
        "name": names.SIDECAR,
        "image": own.image or image,
        "imagePullPolicy": own.image_pull_policy or pull_policy,
        "restartPolicy": "Always",
        "env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in _FIELDS.items()],
        "ports": [
            {"name": "sqlite-peers", "containerPort": names.PORT_PEERS, "protocol": "TCP"},
            {"name": "sqlite-metrics", "containerPort": names.PORT_METRICS, "protocol": "TCP"},
        ],
        "resources": resources,
        "securityContext": _AS_ROOT,
        "startupProbe": _probe("/healthz/startup", 1, _startup_failures(cluster)),
        "readinessProbe": _probe("/healthz/ready", 2, 2),
        "volumeMounts": _mounts(),
    }


def guard(cluster: SQLiteCluster, image: str, pull_policy: str) -> Object:
    """The first container of a pod, so the last to end: takes away the mount of a sidecar that was killed.

    Without it a pod that is deleted while its sidecar is down could never be torn down.
    """
    own = cluster.spec.sidecar
    return {
        "name": names.GUARD,
        "image": own.image or image,
        "imagePullPolicy": own.image_pull_policy or pull_policy,
        "restartPolicy": "Always",
        "command": ["/bin/busybox", "sh", "/usr/lib/sqlitecluster/guard.sh"],
        "args": [f"{nodeconfig.MOUNT_VOLUME_DIR}/{nodeconfig.MOUNT_SUB_PATH}"],
        "resources": {
            "requests": {"cpu": "1m", "memory": "4Mi"},
            "limits": {"cpu": "100m", "memory": "16Mi"},
        },
        "securityContext": _AS_ROOT,
        "volumeMounts": [
            {
                "name": names.MOUNT_VOLUME,
                "mountPath": nodeconfig.MOUNT_VOLUME_DIR,
                "mountPropagation": "Bidirectional",
            }
        ],
    }


def volumes(cluster: SQLiteCluster) -> list[Object]:
    """The pod's volumes that are ours; ``data`` comes from the StatefulSet's claims."""
    name = cluster.metadata.name
    return [
        {"name": names.MOUNT_VOLUME, "emptyDir": {}},
        {"name": "sqlite-run", "emptyDir": {"medium": "Memory"}},
        {"name": "sqlite-config", "configMap": {"name": names.config_map(name)}},
        {
            "name": "identity",
            "projected": {
                "sources": [
                    {
                        "serviceAccountToken": {
                            "audience": TOKEN_AUDIENCE,
                            "expirationSeconds": 3600,
                            "path": "token",
                        }
                    },
                    {"configMap": {"name": names.trust_map(name)}},
                ]
            },
        },
        {"name": "kube-api", "projected": {"sources": _api_access()}},
    ]


def program_mount(path: str) -> Object:
    """How a container of the program sees the databases."""
    return {
        "name": names.MOUNT_VOLUME,
        "mountPath": path,
        "subPath": nodeconfig.MOUNT_SUB_PATH,
        "mountPropagation": "HostToContainer",
    }


SLEEP: Final = (  # blocked first: the kernel drops signals that the first process of a container has no use for
    "import signal; told = {signal.SIGTERM, signal.SIGINT}; "
    "signal.pthread_sigmask(signal.SIG_BLOCK, told); signal.sigwait(told)"
)


def keeper(cluster: SQLiteCluster, image: str, pull_policy: str) -> Object:
    """The container of a cluster without a template: a pod needs one beside the sidecar. It sleeps."""
    own = cluster.spec.sidecar
    return {
        "name": "shell",
        "image": own.image or image,
        "imagePullPolicy": own.image_pull_policy or pull_policy,
        "command": ["python3", "-c", SLEEP],
        "resources": {
            "requests": {"cpu": "1m", "memory": "16Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": nodeconfig.RUN_AS,
            "runAsGroup": nodeconfig.RUN_AS,
        },
    }


def _startup_failures(cluster: SQLiteCluster) -> int:
    return FOR_EVER if cluster.spec.run_on == "Primary" else STARTUP_FAILURES


def _probe(path: str, period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": names.PORT_METRICS},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _mounts() -> list[Object]:
    def mount(name: str, path: str, **more: Any) -> Object:
        return {"name": name, "mountPath": path, **more}

    return [
        mount(names.DATA_VOLUME, nodeconfig.DATA_DIR),
        mount(names.MOUNT_VOLUME, nodeconfig.MOUNT_VOLUME_DIR, mountPropagation="Bidirectional"),
        mount("sqlite-run", nodeconfig.RUNTIME_DIR),
        mount("sqlite-config", nodeconfig.CONFIG_DIR, readOnly=True),
        mount("identity", nodeconfig.IDENTITY_DIR, readOnly=True),
        mount("kube-api", nodeconfig.API_DIR, readOnly=True),
    ]


def _api_access() -> list[Object]:
    """A ServiceAccount's usual files, for the sidecar alone: programs get no token for the API."""
    return [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
