"""All objects of a cluster, in the order in which they are applied. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster
from sqlitecluster_operator.objects import access, network, nodeconfig, pods
from sqlitecluster_operator.objects.metadata import Object, metadata, sealed


@dataclass(frozen=True, slots=True)
class Settings:
    """What all clusters of an operator have in common."""

    image: str
    """Of the sidecar."""
    pull_policy: str = "IfNotPresent"


def make(
    cluster: SQLiteCluster,
    settings: Settings,
    replicas: int,
    claim_templates: Sequence[Mapping[str, Any]],
) -> tuple[Object, ...]:
    """Everything but the Lease and what identity keeps.

    ``claim_templates``: those of the StatefulSet that exists, because they cannot be changed.
    """
    bodies = [
        access.service_account(cluster),
        access.role(cluster, max(cluster.spec.instances, replicas)),
        access.role_binding(cluster),
        nodeconfig.config_map(cluster),
        network.headless(cluster),
        *network.services(cluster),
        network.policy(cluster),
        *disruption_budget(cluster),
        *pod_monitor(cluster),
        stateful_set(cluster, settings, replicas, claim_templates),
    ]
    return tuple(sealed(body) for body in bodies)


def stateful_set(
    cluster: SQLiteCluster,
    settings: Settings,
    replicas: int,
    claim_templates: Sequence[Mapping[str, Any]],
) -> Object:
    """Pods and their volumes. ``OnDelete``: when a pod is replaced is decided by the operator."""
    name, storage = cluster.metadata.name, cluster.spec.storage
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(cluster, name),
        "spec": {
            "replicas": replicas,
            "serviceName": names.headless(name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": names.selector(name)},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": storage.retain.when_deleted,
                "whenScaled": storage.retain.when_scaled,
            },
            "template": pods.template(cluster, settings.image, settings.pull_policy),
            "volumeClaimTemplates": [dict(one) for one in claim_templates] or [_claim(cluster)],
        },
    }


def _claim(cluster: SQLiteCluster) -> Object:
    storage = cluster.spec.storage
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.DATA_VOLUME,
            "labels": names.labels(cluster.metadata.name),
        },
        "spec": spec,
    }


def disruption_budget(cluster: SQLiteCluster) -> list[Object]:
    """One pod at a time; pods that do not serve anyway never block a drain.

    With ``runOn: Primary`` only the primary is ever Ready, and a budget counts all that stand by as lost already: the
    primary could never be evicted, and a drain would hang while no operator moves it. Without one SIGTERM hands over.
    """
    if cluster.spec.disruption_budget == "Disabled" or cluster.spec.instances < 2 or cluster.spec.run_on == "Primary":
        return []
    name = cluster.metadata.name
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": names.selector(name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    meta = metadata(cluster, name)
    return [{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}]


def pod_monitor(cluster: SQLiteCluster) -> list[Object]:
    """For the Prometheus operator, when it is asked for."""
    wanted = cluster.spec.monitoring
    if not wanted.enabled:
        return []
    meta = metadata(cluster, cluster.metadata.name)
    meta["labels"] = {**(wanted.labels or {}), **meta["labels"]}
    spec = {
        "selector": {"matchLabels": names.selector(cluster.metadata.name)},
        "podMetricsEndpoints": [{"port": "sqlite-metrics", "interval": wanted.interval}],
    }
    return [{"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": meta, "spec": spec}]


def lease(cluster: Mapping[str, Any], epoch: int, cluster_id: str, duration_s: int) -> Object:
    """The Lease, free. ``epoch`` is the newest that is known: a Lease that was lost does not start again at 0."""
    raw = cluster["metadata"]
    notes = {}
    if cluster_id:  # else the first primary makes it
        notes[names.ANNOTATION_CLUSTER_ID] = cluster_id
    if epoch:  # none at all: the first primary need not wait for anybody
        notes[names.ANNOTATION_EPOCH] = str(epoch)
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": raw["name"],
            "namespace": raw["namespace"],
            "labels": names.labels(raw["name"]),
            "ownerReferences": [names.owner_reference(cluster)],
            "annotations": notes,
        },
        "spec": {"holderIdentity": "", "leaseDurationSeconds": duration_s, "leaseTransitions": 0},
    }
