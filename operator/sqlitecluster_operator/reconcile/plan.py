"""The plan for one cluster: everything that is observed in, actions and the new status out. Pure.

Level-triggered: the plan depends on what is, never on what happened, so it may be made at any
time and any number of times. The order of decisions:
    1. a cluster that is being deleted only ends its pods, for a bounded time
    2. an illegal spec changes nothing
    3. the Lease exists, and the operator's part of it is right
    4. hand-offs that are under way; then those that users ask for; then our own
    5. objects are as the spec says (unless suspended)
    6. at most one pod is deleted
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sqlitecluster_operator import names, objects
from sqlitecluster_operator.reconcile import data, handoff, hibernation, pods, promotion
from sqlitecluster_operator.reconcile import status as statuses
from sqlitecluster_operator.reconcile.actions import (
    ABSENT,
    AnnotateLease,
    Apply,
    CreateLease,
    DeletePod,
    MarkClaim,
    Plan,
    Remove,
    RemoveUnwatched,
    ResizeClaim,
    Scale,
    SetFinalizers,
)
from sqlitecluster_operator.reconcile.case import Case, Draft, Intent
from sqlitecluster_operator.reconcile.handoff import Handoffs, Request
from sqlitecluster_operator.reconcile.observed import ClaimView, moment_of
from sqlitecluster_operator.reconcile.sizes import larger

RESYNC_S: Final = 30.0
DELETION_LIMIT_S: Final = 120.0
"""A deletion waits no longer for pods than this, then the finalizer goes all the same."""
REPORTED: Final = "status"
REPORT_EVERY_S: Final = 10.0
"""Other words and figures for the same state are written at most so often."""
OPTIONAL: Final = ("Service", "PodDisruptionBudget")
"""Kinds of which the spec may want one less than before."""
UNWATCHED: Final = "PodMonitor"
"""The same, but the kind need not exist, so nobody watches it. It has the SQLiteCluster's name."""


def plan(case: Case) -> Plan:
    """Decide."""
    draft = Draft(case, look_again_s=RESYNC_S)
    if case.cluster["metadata"].get("deletionTimestamp"):
        return _end(draft)
    if case.intent is None:
        _tell_once(draft, "InvalidSpec", case.problem)
        handoffs = handoff.advance(draft, None)
        return _finish(draft, handoffs, len(case.around.pods))
    return _reconcile(draft, case.intent)


def _reconcile(draft: Draft, intent: Intent) -> Plan:
    case = draft.case
    _own_finalizer(draft)
    _lease(draft, intent)
    pods.label(draft)
    pods.tell_zones(draft, intent)
    own: Request | None = None
    wanted = case.around.stateful_set.replicas if case.around.stateful_set else 0
    if not intent.suspend:
        wanted, own = pods.replicas(draft, intent)
        _objects(draft, intent, wanted)
        _claims(draft, intent)
        own = own if intent.hibernate else own or pods.leave(draft)  # who sleeps soon hands nothing off
        if not pods.replace_broken(draft, intent) and not intent.hibernate:
            own = own or pods.update(draft, intent)
    handoffs = handoff.advance(draft, own)
    if handoffs.active:  # pods stay while the primary moves
        draft.actions = [one for one in draft.actions if not isinstance(one, DeletePod)]
        draft.notes = [one for one in draft.notes if not one.reason.startswith("Replacing")]
    if case.primary is None or any(pod.deleting for pod in case.around.pods):
        draft.soon(5.0)
    return _finish(draft, handoffs, wanted)


def _finish(draft: Draft, handoffs: Handoffs, wanted: int) -> Plan:
    case = draft.case
    ending = bool(case.cluster["metadata"].get("deletionTimestamp"))
    asked = case.status.get("promotion") if ending else promotion.advance(draft)
    new = statuses.status(case, handoffs, asked, wanted)
    _tell_changes(draft, new)
    status = new if statuses.patch(case.status, new) else None
    reported = case.memory.since.get(REPORTED, -REPORT_EVERY_S)
    if status is not None and not statuses.urgent(case.status, new) and case.clock - reported < REPORT_EVERY_S:
        status = None
        draft.soon(reported + REPORT_EVERY_S - case.clock + 0.1)
    draft.since[REPORTED] = reported if status is None else case.clock
    memory = replace(case.memory, since=draft.since)
    return Plan(tuple(draft.actions), status, tuple(draft.notes), memory, draft.look_again_s, draft.rolls)


def _own_finalizer(draft: Draft) -> None:
    meta = draft.case.cluster["metadata"]
    present = tuple(meta.get("finalizers") or ())
    if names.FINALIZER not in present:
        draft.actions.append(SetFinalizers((*present, names.FINALIZER), str(meta.get("resourceVersion", ""))))


def _lease(draft: Draft, intent: Intent) -> None:
    """Sidecars never make the Lease, so that a lost one cannot begin again at epoch 0."""
    case, lease = draft.case, draft.case.around.lease
    fenced = hibernation.as_text(hibernation.fence(draft, intent))
    if lease is None:
        epoch = int(case.status.get("epoch") or 0)
        if epoch and f"Lease {case.name}" not in case.memory.foreign:
            draft.note("LeaseMadeAnew", f"the Lease was gone; it begins after epoch {epoch}", warning=True)
        body = objects.lease(case.cluster, epoch, intent.cluster_id, intent.lease_duration_s)
        if fenced:
            body["metadata"]["annotations"][names.ANNOTATION_FENCED] = fenced
        draft.actions.append(CreateLease(body))
        return
    changes: dict[str, str | None] = {}
    if lease.fenced != fenced:
        changes[names.ANNOTATION_FENCED] = fenced or None
        draft.note("FenceChanged", f"fenced: {fenced or 'nobody'}", warning=bool(fenced))
    if lease.barred != intent.barred:
        changes[names.ANNOTATION_BARRED] = json.dumps(sorted(intent.barred)) if intent.barred else None
    if changes:
        draft.actions.append(AnnotateLease(changes))


def _objects(draft: Draft, intent: Intent, wanted: int) -> None:
    case = draft.case
    bodies = intent.build(wanted)
    for body in bodies:
        if body["kind"] == "StatefulSet" and _frozen(case, intent):
            if case.around.stateful_set and case.around.stateful_set.replicas != wanted:
                draft.actions.append(Scale(wanted))
        elif _differs(case, body):
            draft.actions.append(Apply(body))
    places = {(body["kind"], body["metadata"]["name"]) for body in bodies}
    for place, found in case.around.objects.items():
        if place not in places and place[0] in OPTIONAL and found.controller == case.uid and not found.deleting:
            draft.actions.append(Remove(found.kind, found.name, found.uid))
    unwatched = (UNWATCHED, case.name)
    if unwatched not in places and case.memory.applied.get(unwatched) != ABSENT:  # at first nothing is remembered
        draft.actions.append(RemoveUnwatched(*unwatched))
    existing = case.around.stateful_set
    if existing is not None and existing.replicas != wanted:
        draft.note("Scaling", f"from {existing.replicas} to {wanted} pods")


def _frozen(case: Case, intent: Intent) -> bool:
    return intent.update == "Never" and case.around.stateful_set is not None


def _differs(case: Case, body: Mapping[str, Any]) -> bool:
    """Whether an object is missing, other than it should be, or was changed by somebody since we applied it."""
    place = (body["kind"], body["metadata"]["name"])
    digest = body["metadata"]["annotations"][names.ANNOTATION_APPLIED]
    if body["kind"] == UNWATCHED:
        return bool(case.memory.applied.get(place) != digest)
    found = case.around.objects.get(place)
    if found is None or found.controller != case.uid:
        return True
    return found.applied != digest or case.memory.applied.get(place) != found.version


def _claims(draft: Draft, intent: Intent) -> None:
    """Volumes grow when the spec says so; they never shrink. Each bears the mark of the cluster whose data it holds."""
    for claim in draft.case.around.claims:
        if intent.cluster_id and not claim.cluster_id:
            draft.actions.append(MarkClaim(claim.name, intent.cluster_id))
        if _too_small(claim, intent):
            draft.actions.append(ResizeClaim(claim.name, intent.storage_size))
            draft.note("GrowingVolume", f"{claim.name} from {claim.requested} to {intent.storage_size}")


def _too_small(claim: ClaimView, intent: Intent) -> bool:
    return bool(claim.requested and intent.storage_size) and larger(intent.storage_size, claim.requested)


def _end(draft: Draft) -> Plan:
    """Pods end first, so that what is written last is replicated; then the finalizer goes, at the latest in time."""
    case = draft.case
    meta = case.cluster["metadata"]
    present = tuple(meta.get("finalizers") or ())
    if names.FINALIZER not in present:
        return Plan((), None, (), case.memory, RESYNC_S)
    began = moment_of(meta.get("deletionTimestamp"))
    waited = (case.now - began).total_seconds() if began else DELETION_LIMIT_S
    existing = case.around.stateful_set
    orphaning = "orphan" in present  # kubectl delete --cascade=orphan: pods are to stay
    suspended = case.intent is not None and case.intent.suspend
    done = orphaning or suspended or (not case.around.pods and (existing is None or existing.replicas == 0))
    if done or waited >= DELETION_LIMIT_S:
        if not done:
            text = f"{len(case.around.pods)} pods did not end within {DELETION_LIMIT_S:g} s; deletion goes on"
            draft.note("DeletionNotWaitedFor", text, warning=True)
        rest = tuple(one for one in present if one != names.FINALIZER)
        draft.actions.append(SetFinalizers(rest, str(meta.get("resourceVersion", ""))))
    elif existing is not None and existing.replicas:
        draft.actions.append(Scale(0))
    draft.soon(2.0)
    return _finish(draft, handoff.known(case.status), 0)


def _tell_changes(draft: Draft, new: Mapping[str, Any]) -> None:
    """An Event for each change of the one Ready reason, and for each new primary."""
    old = draft.case.status
    before, after = _ready_of(old), _ready_of(new)
    if after.get("reason") != before.get("reason"):
        bad = after.get("reason") in (
            "PodRejected",
            "InvalidSpec",
            "ForeignObject",
            "Refused",
            "NoPrimary",
            "FailingOver",
            "QuorumLost",
            "HoldingByAgreement",
            "DurabilityDegraded",
        )
        draft.note(str(after.get("reason")), str(after.get("message"))[:1000], warning=bad)
    for kind in data.CONDITIONS:
        found = _condition(new, kind)
        if found.get("status") == "True" != _condition(old, kind).get("status") and kind != after.get("reason"):
            draft.note(kind, str(found.get("message"))[:1000], warning=True)
    certificates = _condition(new, "CertificatesValid")
    if certificates.get("status") == "False" != _condition(old, "CertificatesValid").get("status"):
        draft.note("CertificatesNotInOrder", str(certificates.get("message"))[:1000], warning=True)
    primary = new.get("currentPrimary")
    if primary and primary != old.get("currentPrimary"):
        draft.note("NewPrimary", f"{primary} is the primary in epoch {new.get('epoch')}")


def _tell_once(draft: Draft, reason: str, message: str) -> None:
    if _ready_of(draft.case.status).get("message", "").startswith(message):
        return
    draft.note(reason, message, warning=True)


def _ready_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return _condition(status, "Ready")


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})
