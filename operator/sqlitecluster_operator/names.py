"""Names that users, sidecars and the operator share: labels, annotations, ports, objects.

Constants and pure functions; everything else imports from here, so that a name is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlitecluster.election import promise, record

GROUP: Final = "sqlitecluster.dev"
VERSION: Final = "v1alpha1"
PLURAL: Final = "sqliteclusters"
KIND: Final = "SQLiteCluster"
FIELD_MANAGER: Final = "sqlitecluster-operator"

LABEL_CLUSTER: Final = f"{GROUP}/cluster"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_INSTANCE: Final = f"{GROUP}/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
ROLE_PRIMARY: Final = "primary"
ROLE_REPLICA: Final = "replica"

# On a SQLiteCluster, by users.
ANNOTATION_HANDOFF_TO: Final = f"{GROUP}/handoff-to"
ANNOTATION_HANDOFF_ID: Final = f"{GROUP}/handoff-id"
ANNOTATION_DEMOTE: Final = f"{GROUP}/demote"
ANNOTATION_RESTARTED_AT: Final = f"{GROUP}/restartedAt"
ANNOTATION_PROMOTE: Final = f"{GROUP}/promote"
ACCEPT_DATA_LOSS: Final = "accept-data-loss"
"""The only value of it."""
ANNOTATION_PROMOTE_TO: Final = f"{GROUP}/promote-to"
ANNOTATION_PROMOTE_ID: Final = f"{GROUP}/promote-id"

# On a Lease: what the sidecars read and write there.
ANNOTATION_EPOCH: Final = record.EPOCH
ANNOTATION_CLUSTER_ID: Final = record.CLUSTER_ID
ANNOTATION_HANDOFF: Final = record.HANDOFF
ANNOTATION_HANDOFF_RESULT: Final = record.RESULT
ANNOTATION_FENCED: Final = record.FENCED
ANNOTATION_BARRED: Final = record.BARRED
"""Pods that spec.primary.candidates does not let become the primary: a JSON list, like the fenced ones."""

ANNOTATION_DEGRADED_SINCE: Final = promise.DEGRADED
ANNOTATION_DATA_LOSS: Final = promise.LOSS
ANNOTATION_DATA_LOSS_HANDLED: Final = promise.LOSS_HANDLED
"""Id of the newest permission to lose data that a candidate used."""

# On objects that the operator makes.
ANNOTATION_APPLIED: Final = f"{GROUP}/applied"
"""Hash of what was applied: another hash means that the object has to be applied again."""
ANNOTATION_TEMPLATE: Final = f"{GROUP}/template-hash"
"""On pods: hash of the whole pod template. A pod with another one is out of date."""
ANNOTATION_USER_TEMPLATE: Final = f"{GROUP}/spec-hash"
"""On pods: hash of what the user wrote; equal while only the operator's part differs."""
ANNOTATION_CONFIG: Final = f"{GROUP}/config-hash"
"""On pods: hash of the sidecar's configuration."""
ANNOTATION_ZONE: Final = f"{GROUP}/zone"
"""On pods: value of the node's label that spec.replication.spread names; the sidecar reads it from its own pod."""
ZONE_UNKNOWN: Final = "?"
"""No label can have this value. All pods whose zone is not known are in it, so of them one acknowledgement counts."""

FINALIZER: Final = f"{GROUP}/protect"

PORT_PEERS: Final = 20202
PORT_METRICS: Final = 20203
SIDECAR: Final = "sqlite-sidecar"
GUARD: Final = "sqlite-guard"

MOUNT_VOLUME: Final = "sqlite-mount"
DATA_VOLUME: Final = "data"
CONFIG_FILE: Final = "node.yaml"


def services(cluster: str) -> dict[str, str]:
    """Names of the three Services by their purpose."""
    return {purpose: f"{cluster}-{purpose}" for purpose in ("rw", "ro", "r")}


def headless(cluster: str) -> str:
    """The Service that gives pods their names."""
    return f"{cluster}-pods"


def config_map(cluster: str) -> str:
    """The ConfigMap with the sidecar's configuration."""
    return f"{cluster}-config"


def trust_map(cluster: str) -> str:
    """The ConfigMap with the certificates that pods trust."""
    return f"{cluster}-trust"


def pod(cluster: str, ordinal: int) -> str:
    """The pod with an ordinal."""
    return f"{cluster}-{ordinal}"


def claim(cluster: str, ordinal: int) -> str:
    """The volume claim of a pod."""
    return f"{DATA_VOLUME}-{cluster}-{ordinal}"


def ordinal(cluster: str, name: str) -> int | None:
    """The ordinal in a pod's name; None when it is no pod of the cluster."""
    prefix, _, number = name.rpartition("-")
    if prefix != cluster or not number.isdecimal() or (number != "0" and number.startswith("0")):
        return None
    return int(number)


def labels(cluster: str) -> dict[str, str]:
    """The labels of everything that the operator makes for a cluster."""
    return {
        "app.kubernetes.io/name": "sqlitecluster",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/component": "database",
        LABEL_MANAGED_BY: FIELD_MANAGER,
        LABEL_CLUSTER: cluster,
    }


def selector(cluster: str) -> dict[str, str]:
    """The labels that select the pods of a cluster."""
    return {"app.kubernetes.io/name": "sqlitecluster", LABEL_CLUSTER: cluster}


def owner_reference(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """The reference that makes a SQLiteCluster the controller of an object."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": cluster["metadata"]["name"],
        "uid": cluster["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_uid(metadata: Mapping[str, Any]) -> str | None:
    """The uid of the object's controller; None when it has none."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("uid"))
    return None
