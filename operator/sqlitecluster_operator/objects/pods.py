"""The pod template: the user's, with the sidecar and its volumes added. Pure.

What the user wrote is kept as it is. Added are: guard and sidecar as the first init containers, our
volumes, the databases' mount in each container that sees them, labels, the ServiceAccount and
defaults where the user said nothing (spread, grace period, no API token for programs).
"""

from __future__ import annotations

from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster, duration_seconds
from sqlitecluster_operator.objects import bootstrap, nodeconfig, sidecar
from sqlitecluster_operator.objects.metadata import Object, digest, merged

_SPREAD_OVER: Final = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
_GRACE_EXTRA_S: Final = 30
_SHAPES_PODS: Final = {
    "affinity",
    "bootstrap",
    "databases",
    "mount",
    "primary",
    "replica_writes",
    "replication",
    "retention",
    "run_on",
    "sidecar",
    "template",
    "tls",
    "topology_spread",
}
"""The fields of the spec whose change is a new version of the pods."""


def template(cluster: SQLiteCluster, image: str, pull_policy: str) -> Object:
    """The pod template with its two hashes: of all, and of what the user can change."""
    spec, ours = cluster.spec, names.labels(cluster.metadata.name)
    given = spec.template.metadata if spec.template else None
    restarted = cluster.metadata.annotations.get(names.ANNOTATION_RESTARTED_AT)
    notes = merged(given.annotations if given else None)
    if restarted:
        notes[names.ANNOTATION_RESTARTED_AT] = restarted
    pod = pod_spec(cluster, image, pull_policy)
    labels = merged(given.labels if given else None, ours)
    notes[names.ANNOTATION_CONFIG] = _config_hash(cluster)
    whole = digest({"labels": labels, "annotations": notes, "spec": pod})
    user = digest([spec.model_dump(mode="json", include=_SHAPES_PODS, exclude_defaults=True), restarted])
    return {
        "metadata": {
            "labels": labels,
            "annotations": {
                **notes,
                names.ANNOTATION_TEMPLATE: whole,
                names.ANNOTATION_USER_TEMPLATE: user,
            },
        },
        "spec": pod,
    }


def pod_spec(cluster: SQLiteCluster, image: str, pull_policy: str) -> Object:
    """The pod."""
    spec = cluster.spec
    pod: Object = spec.template.spec.model_dump(mode="json", by_alias=True, exclude_none=True) if spec.template else {}
    pod.setdefault("containers", [sidecar.keeper(cluster, image, pull_policy)])
    for one in (*pod["containers"], *pod.get("initContainers", ())):
        if not spec.mount.containers or one["name"] in spec.mount.containers:
            one["volumeMounts"] = [*one.get("volumeMounts", ()), sidecar.program_mount(spec.mount.path)]
    ours = [make(cluster, image, pull_policy) for make in (sidecar.guard, sidecar.container)]
    ours += bootstrap.containers(cluster, image, pull_policy)
    pod["initContainers"] = [*ours, *pod.get("initContainers", ())]
    pod["volumes"] = [*sidecar.volumes(cluster), *bootstrap.volumes(cluster), *pod.get("volumes", ())]
    pod["serviceAccountName"] = cluster.metadata.name
    pod.setdefault("automountServiceAccountToken", False)
    grace = int(duration_seconds(spec.primary.switchover_timeout)) + _GRACE_EXTRA_S
    pod.setdefault("terminationGracePeriodSeconds", grace)
    if spec.affinity is not None:
        pod["affinity"] = spec.affinity
    _spread(cluster, pod)
    return pod


def named_ports(cluster: SQLiteCluster) -> list[Object]:
    """The ports of the program that have a name: those that Services offer. One of each number and protocol."""
    found: dict[tuple[int, str], Object] = {}
    containers: list[Any] = list(cluster.spec.template.spec.containers) if cluster.spec.template else []
    for one in containers:
        for port in one.ports or ():
            protocol = str((port.model_extra or {}).get("protocol", "TCP"))
            if port.name:
                found.setdefault(
                    (port.container_port, protocol),
                    {"name": port.name, "port": port.container_port, "targetPort": port.name, "protocol": protocol},
                )
    return list(found.values())


def _spread(cluster: SQLiteCluster, pod: Object) -> None:
    given = cluster.spec.topology_spread
    match = {"labelSelector": {"matchLabels": names.selector(cluster.metadata.name)}}
    if given is not None:
        rows = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in given]
    elif "topologySpreadConstraints" in pod:
        return
    else:
        wanted = cluster.spec.replication.spread
        keys = dict.fromkeys((*([wanted] if wanted else []), *_SPREAD_OVER))
        rows = [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway"} for key in keys]
    pod["topologySpreadConstraints"] = [{**match, **row} for row in rows]


def _config_hash(cluster: SQLiteCluster) -> str:
    """Sidecars read their configuration when they start. A larger volume alone is no reason to restart them."""
    config = nodeconfig.node_config(cluster)
    if cluster.spec.retention.max_bytes is None:
        del config["retention"]["sizeBytes"]
    return digest(config)
