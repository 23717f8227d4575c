"""The status of a SQLiteCluster: conditions, the one Ready reason, and what each instance does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile import data, hibernation, pods, reasons
from sqlitecluster_operator.reconcile.case import EVERYBODY, Case, Intent, Sum
from sqlitecluster_operator.reconcile.handoff import Handoffs, Record
from sqlitecluster_operator.reconcile.observed import PodView, moment_of

MESSAGE_MAX: Final = 2048
_LASTING: Final = ("name", "role", "ready", "standby", "fenced", "candidate", "node", "podIP", "sidecarRestarts")
"""Of an instance; the rest of it are figures and words, which may come a little later."""


def status(case: Case, handoffs: Handoffs, promotion: Record | None, wanted: int) -> dict[str, Any]:
    """The whole status. ``wanted``: how many pods there should be now."""
    intent, lease, primary = case.intent, case.around.lease, case.primary
    healthy = [pod for pod in case.around.pods if case.healthy(pod)]
    asked = intent.instances if intent else len(case.around.pods)
    found: dict[str, Any] = {
        "observedGeneration": case.cluster["metadata"].get("generation", 0),
        "instances": len(case.around.pods),
        "readyInstances": len(healthy),
        "ready": f"{len(healthy)}/{asked}",
        "epoch": case.epoch,
        "clusterID": (intent.cluster_id if intent else "") or case.status.get("clusterID"),
        "selector": ",".join(f"{key}={value}" for key, value in names.selector(case.name).items()),
        "instancesStatus": [_instance(case, pod) for pod in case.around.pods],
        "handoff": handoffs.record,
        "history": list(handoffs.history),
        "handledRequests": list(handoffs.handled),
        "promotion": promotion,
    }
    if primary is not None:
        found["currentPrimary"] = primary.name
        found["targetPrimary"] = handoffs.target if handoffs.active else primary.name
        since = moment_of(lease.acquired if lease else "")
        found["currentPrimarySince"] = since.strftime("%Y-%m-%dT%H:%M:%SZ") if since else None
    found["conditions"] = _conditions(case, _sums(case, handoffs, wanted))
    return {key: value for key, value in found.items() if value not in (None, "")}


def patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes one status the other: what is gone becomes null."""
    gone = {key: None for key in old if key not in new}
    return gone | {key: value for key, value in new.items() if old.get(key) != value}


def urgent(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a status says something new, beyond other words and figures for the same."""
    return _essence(old) != _essence(new)


def _essence(status: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{key: row.get(key) for key in _LASTING} for row in status.get("instancesStatus") or ()]
    conditions = [{k: v for k, v in one.items() if k != "message"} for one in status.get("conditions") or ()]
    return {**status, "instancesStatus": rows, "conditions": conditions}


def ready(case: Case, handoffs: Handoffs, wanted: int) -> Sum:
    """The one reason that sums everything up: the first that applies."""
    intent = case.intent
    if case.cluster["metadata"].get("deletionTimestamp"):
        return Sum(False, "Deleting", "pods end before their objects do")
    if intent is None:
        return Sum(False, "InvalidSpec", f"{case.problem}; what runs is left as it is")
    trouble = _trouble(case, intent)
    if trouble is not None:
        return trouble
    if intent.hibernate:
        return _asleep(case)
    served = _served(case, intent, handoffs, wanted)
    if intent.suspend:
        return Sum(served.status, "Suspended", f"the operator changes nothing; {served.reason}: {served.message}")
    return served


def _trouble(case: Case, intent: Intent) -> Sum | None:
    """What stops the operator."""
    foreign = [*case.memory.foreign.values()]
    if case.certificates and case.certificates.foreign and not case.epoch:
        foreign.append(case.certificates.text)  # no pod can lead; who led before goes on with the certificates it has
    if foreign:
        text = "; ".join(foreign)
        return Sum(False, "ForeignObject", f"{text}: delete or rename it, or give the SQLiteCluster another name")
    if case.around.pod_refusal and len(case.around.pods) < intent.instances:
        words = case.around.pod_refusal
        return Sum(False, "PodRejected", f"{words}. To cure it: {reasons.cure(words)}")
    refused = {key: text for key, text in case.memory.refusals.items() if not key.startswith("PersistentVolumeClaim")}
    if refused:
        return Sum(False, "Refused", "; ".join(f"{key}: {text}" for key, text in refused.items()))
    return None


def _asleep(case: Case) -> Sum:
    existing = case.around.stateful_set
    if case.around.pods and existing is not None and existing.replicas:
        return Sum(False, "Hibernating", hibernation.waits_for(case) or "all have everything; pods are removed")
    if case.around.pods:
        return Sum(False, "Hibernating", f"{len(case.around.pods)} pods are left")
    return Sum(False, "Hibernated", "all pods are gone, the volumes are kept; set hibernate to false to wake it up")


def _served(case: Case, intent: Intent, handoffs: Handoffs, wanted: int) -> Sum:
    primary, lease = case.primary, case.around.lease
    healthy = sum(case.healthy(pod) for pod in case.around.pods)
    if handoffs.active:
        return Sum(False, "SwitchoverInProgress", handoffs.words)
    if primary is None:
        return _without_primary(case, lease is not None and lease.epoch > 0)
    lost = data.quorum_lost(case)
    if lost.status:
        return Sum(False, "QuorumLost", lost.message)
    if pods.outdated(case, intent) and intent.update == "ReplicasFirstPrimaryLast":
        return _updating(case, intent, healthy)
    if not case.healthy(primary):
        return Sum(False, "Degraded", f"the primary {primary.name} is not ready{_why(primary)}")
    if wanted != intent.instances or len(case.around.pods) != intent.instances:
        return Sum(False, "Scaling", f"{len(case.around.pods)} pods, {intent.instances} are asked for{_missing(case)}")
    if healthy < intent.instances:
        behind = [f"{pod.name}{_why(pod)}" for pod in case.around.pods if not case.healthy(pod)]
        return Sum(False, "Degraded", f"not ready: {', '.join(behind)}")
    degraded = data.durability_degraded(case)
    if degraded.status:
        return Sum(False, "DurabilityDegraded", degraded.message)
    return Sum(True, "ClusterHealthy", f"{primary.name} is the primary, {healthy} of {intent.instances} do their part")


def _without_primary(case: Case, led_before: bool) -> Sum:
    intent = case.intent
    barred = intent.fenced | intent.barred if intent else frozenset()
    able = [pod for pod in case.around.pods if not pod.deleting and not barred & {pod.name, EVERYBODY}]
    states = [f"{pod.name}{_why(pod)}" for pod in case.around.pods if not case.healthy(pod)]
    detail = f"; not ready: {', '.join(states)}" if states else ""
    if not led_before:
        return Sum(False, "Initializing", f"{len(case.around.pods)} pods, no primary yet{detail}")
    lost, held = data.quorum_lost(case), data.holding_by_agreement(case)
    if lost.status:
        return Sum(False, "QuorumLost", lost.message + detail)
    if held.status:
        return Sum(False, "HoldingByAgreement", f"the primary cannot renew the Lease and goes on: {held.message}")
    if not able:
        return Sum(False, "NoPrimary", f"no instance may take over{detail}")
    return Sum(False, "FailingOver", f"no instance renews the Lease; one of {len(able)} takes over{detail}")


def _updating(case: Case, intent: Intent, healthy: int) -> Sum:
    old = pods.outdated(case, intent)
    only_primary = case.primary is not None and [pod.uid for pod in old] == [case.primary.uid]
    if only_primary and intent.primary_update == "Supervised" and healthy == intent.instances:
        text = f"only the primary is out of date: hand off with the annotation {names.ANNOTATION_HANDOFF_TO}"
        return Sum(True, "WaitingForUser", text)
    if not case.slot_free and all(pod.user_hash == intent.user_hash for pod in old):
        whole = healthy == intent.instances
        return Sum(whole, "ImageUpdating", "waits for its turn: other clusters are brought to the new version first")
    rest = f"{len(old)} pods are out of date, {healthy} of {intent.instances} do their part"
    behind = [f"{pod.name}{_why(pod)}" for pod in case.around.pods if not case.healthy(pod)]
    return Sum(False, "ImageUpdating", rest + (f"; not ready: {', '.join(behind)}" if behind else ""))


def _sums(case: Case, handoffs: Handoffs, wanted: int) -> dict[str, Sum]:
    intent = case.intent
    total = ready(case, handoffs, wanted)
    busy = total.reason in {
        "Initializing", "SwitchoverInProgress", "FailingOver", "ImageUpdating", "Scaling", "Hibernating", "Deleting",
    }  # fmt: skip
    stuck = total.reason in {"PodRejected", "InvalidSpec", "ForeignObject", "Refused", "NoPrimary", "QuorumLost"}
    suspended = intent is not None and intent.suspend
    return {
        "Ready": total,
        "Reconciling": Sum(busy, total.reason if busy else "Settled", total.message if busy else ""),
        "Stalled": Sum(stuck, total.reason if stuck else "Progressing", total.message if stuck else ""),
        "PrimaryAvailable": _primary_available(case),
        "ReplicationHealthy": _replication(case),
        "UpToDate": _up_to_date(case),
        "StorageHealthy": _storage(case),
        "CertificatesValid": _certificates(case),
        "Fenced": _fenced(case),
        "Hibernated": Sum(total.reason == "Hibernated", total.reason if total.reason == "Hibernated" else "Awake"),
        "Suspended": Sum(suspended, "BySpec" if suspended else "Active"),
        **{kind: look(case) for kind, look in data.CONDITIONS.items()},
    }


def _certificates(case: Case) -> Sum:
    if case.certificates is not None:
        return Sum(False, "NotInOrder", case.certificates.text)
    return Sum(True, "Valid")


def _primary_available(case: Case) -> Sum:
    primary = case.primary
    if primary is None:
        return Sum(False, "NoHolder", "no pod holds the Lease and renews it")
    if not case.healthy(primary):
        return Sum(False, "NotReady", f"{primary.name} holds the Lease but is not ready{_why(primary)}")
    return Sum(True, "Serving", f"{primary.name} is the primary")


def _replication(case: Case) -> Sum:
    primary = case.primary
    followers = [pod for pod in case.around.pods if primary is None or pod.uid != primary.uid]
    behind = [f"{pod.name}{_why(pod)}" for pod in followers if not case.healthy(pod)]
    if behind:
        return Sum(False, "ReplicaNotReady", f"not ready: {', '.join(behind)}")
    if primary is None:
        return Sum(False, "NoPrimary", "there is nobody to follow")
    return Sum(True, "Following" if followers else "SingleInstance", f"{len(followers)} replicas")


def _up_to_date(case: Case) -> Sum:
    if case.intent is None:
        return Sum(False, "InvalidSpec", case.problem)
    old = [pod.name for pod in pods.outdated(case, case.intent)]
    if not old:
        return Sum(True, "UpToDate")
    if case.intent.update != "ReplicasFirstPrimaryLast":
        return Sum(False, "ByStrategy", f"{', '.join(old)}: updateStrategy.type is {case.intent.update}")
    return Sum(False, "Updating", f"out of date: {', '.join(old)}")


def _storage(case: Case) -> Sum:
    refused = [text for key, text in case.memory.refusals.items() if key.startswith("PersistentVolumeClaim")]
    if refused:
        return Sum(False, "ResizeRefused", "; ".join(refused))
    waiting = [f"{claim.name}: {claim.resizing}" for claim in case.around.claims if claim.resizing]
    if waiting:
        return Sum(False, "Resizing", "; ".join(waiting))
    unbound = [claim.name for claim in case.around.claims if claim.phase == "Lost"]
    if unbound:
        return Sum(False, "VolumeLost", f"{', '.join(unbound)}: the volume is gone; delete the claim and its pod")
    return Sum(True, "Bound", f"{len(case.around.claims)} volumes")


def _fenced(case: Case) -> Sum:
    fenced = sorted(case.intent.fenced) if case.intent else []
    if fenced:
        return Sum(True, "BySpec", f"fenced: {', '.join('all' if one == EVERYBODY else one for one in fenced)}")
    return Sum(False, "NotFenced")


def _conditions(case: Case, sums: Mapping[str, Sum]) -> list[dict[str, Any]]:
    before = {one.get("type"): one for one in case.status.get("conditions") or ()}
    rows = []
    for kind in reasons.CONDITIONS:
        one = sums[kind]
        word = "True" if one.status else "False"
        old = before.get(kind) or {}
        same = old.get("status") == word
        rows.append(
            {
                "type": kind,
                "status": word,
                "reason": one.reason,
                "message": one.message[:MESSAGE_MAX],
                "lastTransitionTime": old.get("lastTransitionTime") if same else case.stamp(),
                "observedGeneration": case.cluster["metadata"].get("generation", 0),
            }
        )
    others = [one for one in case.status.get("conditions") or () if one.get("type") not in reasons.CONDITIONS]
    return [*rows, *others]


def _instance(case: Case, pod: PodView) -> dict[str, Any]:
    probe = case.around.probes.get(pod.name)
    node = case.around.nodes.get(pod.node)
    primary = case.primary
    fenced = case.intent is not None and bool(case.intent.fenced & {pod.name, EVERYBODY})
    barred = case.intent is not None and pod.name in case.intent.barred
    role = "primary" if primary and primary.uid == pod.uid else "replica" if pod.role == "replica" else "unknown"
    row = {
        "name": pod.name,
        "role": role,
        "ready": case.healthy(pod),
        "standby": case.stands_by(pod) or None,
        "fenced": fenced or None,
        "candidate": False if barred else None,
        "connected": probe.connected if probe else None,
        "lagSeconds": round(probe.lag_s, 1) if probe and probe.lag_s is not None else None,
        "epoch": probe.epoch if probe else None,
        "version": probe.version if probe else None,
        "node": pod.node,
        "zone": node.zone(case.intent.spread if case.intent else "") if node else None,
        "podIP": pod.ip,
        "sidecarRestarts": pod.sidecar_restarts or None,
        "message": (_why(pod).strip(" ()") or (probe.problem if probe else ""))[:1024],
    }
    return {key: value for key, value in row.items() if value not in (None, "")}


def _missing(case: Case) -> str:
    return "; a pod is being deleted" if any(pod.deleting for pod in case.around.pods) else ""


def _why(pod: PodView) -> str:
    """In brackets, what is known about a pod that is not ready."""
    if pod.deleting:
        return " (is being deleted)"
    text = pod.problem or pod.unschedulable
    if not text and not pod.ready and pod.phase and pod.phase != "Running":
        text = pod.phase
    return f" ({text[:300]})" if text else ""
