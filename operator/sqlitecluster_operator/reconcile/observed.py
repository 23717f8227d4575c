"""What is known of a cluster at one moment: frozen values, read from objects of the API. Pure.

``runtime.store`` keeps them (and nothing more: 200 clusters must fit in small memory),
``reconcile`` decides on them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlitecluster_operator import names

Object = Mapping[str, Any]

ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_STARTING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Enough of an object to see whether it is ours and still as it was applied."""

    kind: str
    name: str
    uid: str
    version: str
    """The generation where there is one (it ignores status), else the resourceVersion."""
    controller: str | None
    applied: str
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a cluster."""

    name: str
    uid: str
    ordinal: int
    node: str = ""
    ip: str = ""
    phase: str = ""
    deleting: bool = False
    ready: bool = False
    role: str = ""
    labelled: bool = False
    """Has the label with its ordinal."""
    labels: Mapping[str, str] = field(default_factory=dict)
    template_hash: str = ""
    user_hash: str = ""
    zone: str | None = None
    """What the pod was told about its zone; None: nothing."""
    created: dt.datetime | None = None
    sidecar_running: bool = False
    sidecar_started: bool = False
    """Its startup probe passed: the other containers may start."""
    sidecar_restarts: int = 0
    unmounted_since: dt.datetime | None = None
    """When sidecar or guard was started again after a clean end, which takes the mount away; a kill does not."""
    programs_since: dt.datetime | None = None
    """When the oldest container that runs beside the sidecar was started; None: none runs."""
    programs: tuple[str, ...] = ()
    problem: str = ""
    """Why a container waits or was ended, in the kubelet's words; empty while all is well."""
    unschedulable: str = ""
    """The scheduler's words, when it finds no node."""


@dataclass(frozen=True, slots=True)
class LeaseView:
    """The Lease of a cluster: who is primary, and what was asked and answered."""

    uid: str
    version: str
    holder: str = ""
    """``<pod>_<podUID>``; empty: free."""
    epoch: int = 0
    duration_s: float = 12.0
    renewed: str = ""
    cluster_id: str = ""
    handoff: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    fenced: str = ""
    barred: frozenset[str] = frozenset()
    degraded_since: str = ""
    """Since when commits are answered with fewer acknowledgements; empty: they are not."""
    accepted_loss: Mapping[str, Any] | None = None
    """A person accepts a loss of data, for whoever takes over."""
    accepted_loss_handled: str = ""
    """Id of the newest of these that a candidate used."""
    seen_at: float = 0.0
    """When the record last changed, on our own monotonic clock."""
    acquired: str = ""

    @property
    def pod(self) -> str:
        """The name of the holder's pod."""
        return self.holder.partition("_")[0]

    def expired(self, now: float) -> bool:
        """Whether nobody renews: judged by our own clock, as candidates do."""
        return not self.holder or now - self.seen_at > self.duration_s

    def expired_for(self, now: float) -> float:
        """Seconds since a Lease that was not renewed ended; less than 0 when it has not."""
        return now - self.seen_at - (self.duration_s if self.holder else 0.0)


@dataclass(frozen=True, slots=True)
class ClaimView:
    """One volume claim."""

    name: str
    uid: str
    requested: str = ""
    capacity: str = ""
    cluster_id: str = ""
    phase: str = ""
    resizing: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node of the Kubernetes cluster."""

    name: str
    unschedulable: bool = False
    ready: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)

    def zone(self, label: str = "") -> str:
        """The zone that the node is in, by a label of its own or the usual one; empty when it has no such label."""
        return str(self.labels.get(label or ZONE_LABEL, ""))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a sidecar said about itself at /info; all optional, because it may not be reachable."""

    role: str = ""
    epoch: int | None = None
    connected: bool | None = None
    lag_s: float | None = None
    version: str = ""
    problem: str = ""
    problems: tuple[tuple[str, str], ...] = ()
    """Code and message of each problem that it reports."""
    positions: Mapping[str, tuple[int, int]] | None = None
    """TXID and checksum of the newest transaction in its log, by database."""


@dataclass(frozen=True, slots=True)
class StatefulSetView:
    """The StatefulSet of a cluster."""

    uid: str
    replicas: int
    current: int
    """How many pods it has."""
    template_hash: str
    settled: bool = True
    """Its controller has seen the newest template: a pod that is deleted now comes back with it."""
    claim_templates: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything about a cluster but its own object."""

    objects: Mapping[tuple[str, str], Fingerprint] = field(default_factory=dict)
    stateful_set: StatefulSetView | None = None
    pods: tuple[PodView, ...] = ()
    lease: LeaseView | None = None
    claims: tuple[ClaimView, ...] = ()
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    pod_refusal: str = ""
    """The API server's words, when it does not accept a pod of the StatefulSet."""

    def pod(self, name: str) -> PodView | None:
        """The pod of this name."""
        return next((pod for pod in self.pods if pod.name == name), None)


def read_fingerprint(raw: Object) -> Fingerprint:
    """Any object."""
    meta = raw["metadata"]
    return Fingerprint(
        kind=str(raw.get("kind", "")),
        name=meta["name"],
        uid=str(meta.get("uid", "")),
        version=str(meta.get("generation") or meta.get("resourceVersion", "")),
        controller=names.controller_uid(meta),
        applied=str((meta.get("annotations") or {}).get(names.ANNOTATION_APPLIED, "")),
        deleting=bool(meta.get("deletionTimestamp")),
    )


def read_pod(raw: Object) -> PodView | None:
    """A pod; None when its name is not one of the cluster's StatefulSet."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    ordinal = names.ordinal(str(labels.get(names.LABEL_CLUSTER, "")), meta["name"])
    if ordinal is None:
        return None
    inits = status.get("initContainerStatuses") or ()
    containers = status.get("containerStatuses") or ()
    sidecar: Object = next((one for one in inits if one.get("name") == names.SIDECAR), {})
    since = [moment for one in containers if (moment := _running_since(one)) is not None]
    return PodView(
        name=meta["name"],
        uid=str(meta.get("uid", "")),
        ordinal=ordinal,
        node=str(spec.get("nodeName") or ""),
        ip=str(status.get("podIP") or ""),
        phase=str(status.get("phase") or ""),
        deleting=bool(meta.get("deletionTimestamp")),
        ready=_condition(status, "Ready").get("status") == "True",
        role=str(labels.get(names.LABEL_ROLE, "")),
        labelled=labels.get(names.LABEL_INSTANCE) == str(ordinal),
        labels=labels,
        template_hash=str(annotations.get(names.ANNOTATION_TEMPLATE, "")),
        user_hash=str(annotations.get(names.ANNOTATION_USER_TEMPLATE, "")),
        zone=annotations.get(names.ANNOTATION_ZONE),
        created=moment_of(meta.get("creationTimestamp")),
        sidecar_running=_running_since(sidecar) is not None,
        sidecar_started=bool(sidecar.get("started")),
        sidecar_restarts=int(sidecar.get("restartCount") or 0),
        unmounted_since=max(filter(None, map(_after_clean_end, inits)), default=None),
        programs_since=min(since) if since else None,
        programs=tuple(str(one.get("name")) for one in spec.get("containers") or ()),
        problem=_problem((*inits, *containers)),
        unschedulable=_unschedulable(status),
    )


def read_lease(raw: Object, seen_at: float) -> LeaseView:
    """The Lease of a cluster."""
    meta, spec = raw["metadata"], raw.get("spec") or {}
    notes = meta.get("annotations") or {}
    epoch = str(notes.get(names.ANNOTATION_EPOCH, "0"))
    return LeaseView(
        uid=str(meta.get("uid", "")),
        version=str(meta.get("resourceVersion", "")),
        holder=str(spec.get("holderIdentity") or ""),
        epoch=int(epoch) if epoch.isdecimal() else 0,
        duration_s=float(spec.get("leaseDurationSeconds") or 12),
        renewed=str(spec.get("renewTime") or ""),
        cluster_id=str(notes.get(names.ANNOTATION_CLUSTER_ID, "")),
        handoff=_record(notes.get(names.ANNOTATION_HANDOFF)),
        result=_record(notes.get(names.ANNOTATION_HANDOFF_RESULT)),
        fenced=str(notes.get(names.ANNOTATION_FENCED, "")),
        barred=_names(notes.get(names.ANNOTATION_BARRED)),
        degraded_since=str(notes.get(names.ANNOTATION_DEGRADED_SINCE, "")),
        accepted_loss=_record(notes.get(names.ANNOTATION_DATA_LOSS)),
        accepted_loss_handled=str(notes.get(names.ANNOTATION_DATA_LOSS_HANDLED, "")),
        seen_at=seen_at,
        acquired=str(spec.get("acquireTime") or ""),
    )


def read_claim(raw: Object) -> ClaimView:
    """A volume claim."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    resizing = [
        str(one.get("message") or one.get("type"))
        for one in status.get("conditions") or ()
        if one.get("status") == "True" and str(one.get("type")) in ("Resizing", "FileSystemResizePending")
    ]
    return ClaimView(
        name=meta["name"],
        uid=str(meta.get("uid", "")),
        requested=str(((spec.get("resources") or {}).get("requests") or {}).get("storage", "")),
        capacity=str((status.get("capacity") or {}).get("storage", "")),
        cluster_id=str((meta.get("annotations") or {}).get(names.ANNOTATION_CLUSTER_ID, "")),
        phase=str(status.get("phase") or ""),
        resizing=resizing[0] if resizing else "",
    )


def read_node(raw: Object) -> NodeView:
    """A node."""
    unschedulable = bool((raw.get("spec") or {}).get("unschedulable"))
    ready = _condition(raw.get("status") or {}, "Ready").get("status") == "True"
    return NodeView(raw["metadata"]["name"], unschedulable, ready, raw["metadata"].get("labels") or {})


def read_stateful_set(raw: Object) -> StatefulSetView:
    """A StatefulSet."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    notes = ((spec.get("template") or {}).get("metadata") or {}).get("annotations") or {}
    return StatefulSetView(
        uid=str(raw["metadata"].get("uid", "")),
        replicas=int(spec.get("replicas", 1)),
        current=int(status.get("replicas") or 0),
        template_hash=str(notes.get(names.ANNOTATION_TEMPLATE, "")),
        settled=int(status.get("observedGeneration") or 0) >= int(raw["metadata"].get("generation") or 0),
        claim_templates=tuple(spec.get("volumeClaimTemplates") or ()),
    )


def moment_of(text: object) -> dt.datetime | None:
    """A time as the API writes it; None when it is none."""
    try:
        return dt.datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


def _running_since(container: Object) -> dt.datetime | None:
    running = (container.get("state") or {}).get("running")
    return moment_of(running.get("startedAt")) if running else None


def _after_clean_end(container: Object) -> dt.datetime | None:
    """When sidecar or guard runs again after it ended with status 0."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if container.get("name") not in (names.SIDECAR, names.GUARD) or ended.get("exitCode") != 0:
        return None
    return _running_since(container)


def _condition(status: Object, kind: str) -> Object:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def _problem(containers: tuple[Object, ...]) -> str:
    for one in containers:
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        if reason and reason not in _STARTING:
            return f"container {one.get('name')}: {reason}: {waiting.get('message') or ''}".rstrip(": ")
    return ""


def _unschedulable(status: Object) -> str:
    condition = _condition(status, "PodScheduled")
    return str(condition.get("message") or "") if condition.get("reason") == "Unschedulable" else ""


def _names(text: object) -> frozenset[str]:
    try:
        found = json.loads(str(text)) if text else []
    except ValueError:
        return frozenset()
    return frozenset(str(one) for one in found) if isinstance(found, list) else frozenset()


def _record(text: object) -> Mapping[str, Any] | None:
    """A JSON object in an annotation; None when there is none, or it is none."""
    try:
        found = json.loads(str(text)) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
