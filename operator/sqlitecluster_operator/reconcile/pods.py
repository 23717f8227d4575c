"""Which pods are labelled, moved away from and replaced: role labels, scaling, updates, cordons. Pure.

Every function looks at one matter and adds to the draft, or returns the hand-off that has to
come first. ``plan`` calls them in the order of their weight and lets at most one pod be
deleted per look, so that a second decision always sees the effect of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile import hibernation
from sqlitecluster_operator.reconcile.actions import DeletePod, LabelPod, TellZone
from sqlitecluster_operator.reconcile.case import EVERYBODY, Case, Draft, Intent
from sqlitecluster_operator.reconcile.handoff import Request
from sqlitecluster_operator.reconcile.observed import PodView

ROLE_PATIENCE_S: Final = 5.0
"""How long sidecars have to set the labels themselves."""
REPLACE_PATIENCE_S: Final = 3.0
"""How long something must last before a pod is replaced for it: the Lease's and the pods' events come apart."""
BROKEN_S: Final = 10.0
"""How long a replica that is out of date must not serve before it is replaced without waiting for others."""
STARTING_S: Final = 60.0
"""How long a pod that is up to date is waited for before a broken one is replaced, too."""
WAIT_TOLD_S: Final = 30.0
"""How long an update must wait for others before it is an Event."""
OPERATOR: Final = names.FIELD_MANAGER


def label(draft: Draft) -> None:
    """The fallback for labels that sidecars did not set: after a kill, or with an old sidecar."""
    case = draft.case
    primary = case.primary
    for pod in case.around.pods:
        if pod.deleting:
            continue
        if not pod.labelled:
            draft.actions.append(LabelPod(pod.name, pod.uid, pod.role))
        if primary is None:
            continue
        wanted = names.ROLE_PRIMARY if pod.uid == primary.uid else names.ROLE_REPLICA
        wrong = pod.role != wanted and (wanted == names.ROLE_PRIMARY or pod.role == names.ROLE_PRIMARY)
        if wrong and draft.lasted(f"role of {pod.uid}", ROLE_PATIENCE_S):
            draft.actions.append(LabelPod(pod.name, pod.uid, wanted))


def tell_zones(draft: Draft, intent: Intent) -> None:
    """Each pod knows its zone: the value of its node's label that ``spec.replication.spread`` names.

    Without ``spread`` nothing is taken away: pods that were made with it would all be in the unknown zone, and no
    acknowledgement would count until they are replaced. Those that replace them are told nothing.
    """
    case = draft.case
    for pod in case.around.pods if intent.spread else ():
        node = case.around.nodes.get(pod.node)
        if node is None or pod.deleting:  # not placed yet, or not seen yet
            continue
        zone = node.zone(intent.spread) or names.ZONE_UNKNOWN
        if pod.zone == zone:
            continue
        draft.actions.append(TellZone(pod.name, pod.uid, zone))
        if zone == names.ZONE_UNKNOWN:
            text = f"{pod.node}, the node of {pod.name}, has no label {intent.spread}: of all such pods one counts"
            draft.note("ZoneUnknown", text, warning=True)


def replicas(draft: Draft, intent: Intent) -> tuple[int, Request | None]:
    """How many pods there should be now, and the hand-off that is needed before there may be fewer."""
    case = draft.case
    existing = case.around.stateful_set
    current = existing.replicas if existing is not None else 0
    if intent.hibernate:
        return (0, None) if current == 0 or hibernation.may_sleep(draft, intent) else (current, None)
    if hibernation.still_leaving(draft):
        return 0, None
    wanted = intent.instances
    primary = case.primary
    if wanted < current and intent.quorum and (waits_for := _behind(case, wanted)):
        text = f"{', '.join(waits_for)} must do their part first: what leaves may be what holds acknowledged commits"
        draft.note("ScaleDownWaits", text)
        draft.soon(2.0)
        return current, None
    if wanted >= current or primary is None or primary.ordinal < wanted:
        return wanted, None
    target = _best(case, lambda pod: pod.ordinal < wanted)
    if target is None:
        draft.note("ScaleDownWaits", f"{primary.name} is the primary and no instance that stays can take over yet")
        draft.soon(2.0)
        return current, None
    return current, _own(case, "scale-down", target)


def _behind(case: Case, wanted: int) -> list[str]:
    """The instances that would stay and do not do their part, or are not there."""
    good = {pod.ordinal for pod in case.around.pods if case.healthy(pod)}
    return [names.pod(case.name, ordinal) for ordinal in range(wanted) if ordinal not in good]


def leave(draft: Draft) -> Request | None:
    """The hand-off that is due because the primary cannot stay, or may not: cordoned, deleted, or no candidate."""
    case = draft.case
    primary = case.primary
    if primary is None:
        return None
    node = case.around.nodes.get(primary.node)
    if primary.deleting:
        reason = "pod-deleted"
    elif node is not None and node.unschedulable:
        reason = "node-cordoned"
    elif case.intent is not None and primary.name in case.intent.barred:
        reason = "not-a-candidate"
    else:
        return None
    target = _best(case, lambda pod: pod.uid != primary.uid and _schedulable(case, pod))
    return _own(case, reason, target) if target is not None else None


def replace_broken(draft: Draft, intent: Intent) -> bool:
    """Pods that cannot go on as they are: their programs lost the mount, or write where they must not.

    A sidecar that was killed covers its dead mount, and running programs see the new one. Only one that was told
    to end takes the mount away from programs that run: somebody sent it a signal, or changed its image in place.
    """
    case = draft.case
    primary = case.primary
    for pod in case.around.pods:
        if pod.deleting:
            continue
        since, programs = pod.unmounted_since, pod.programs_since
        # A program that ends at once because it cannot write runs at few looks: that it was let in is enough.
        let_in = pod.sidecar_started or programs is not None
        demoted = primary is not None and pod.uid != primary.uid and pod.role != "primary"
        if since is not None and programs is not None and since > programs:
            why, reason = "its sidecar ended and was started anew, so its programs see no mount", "MountReplaced"
        elif intent.run_on_primary and let_in and demoted:
            why, reason = "it is not the primary any more, and the program runs on the primary only", "Demoted"
        else:
            continue
        if draft.lasted(f"{reason} of {pod.uid}", REPLACE_PATIENCE_S):
            draft.actions.append(DeletePod(pod.name, pod.uid))
            draft.note(f"Replacing{reason}", f"{pod.name} is replaced: {why}")
            return True
    return False


def outdated(case: Case, intent: Intent) -> list[PodView]:
    """The pods that are not as the spec says."""
    return [pod for pod in case.around.pods if pod.template_hash != intent.template_hash]


def update(draft: Draft, intent: Intent) -> Request | None:
    """The next step of a rolling update: at most one pod deleted, or the hand-off before the last."""
    case = draft.case
    old = outdated(case, intent)
    existing = case.around.stateful_set
    if not old or intent.update != "ReplicasFirstPrimaryLast" or existing is None:
        return None
    if existing.template_hash != intent.template_hash or not existing.settled:
        draft.soon(1.0)
        return None
    if all(pod.user_hash == intent.user_hash for pod in old):  # only the operator's part differs
        if not case.slot_free:
            draft.soon(5.0)
            return None
        draft.rolls = True
    draft.soon(2.0)
    if any(pod.deleting for pod in case.around.pods):
        return None
    primary = case.primary
    followers = [pod for pod in old if primary is None or pod.uid != primary.uid]
    starting = _is_starting(draft, old, existing.replicas)
    broken = _broken(draft, followers)
    if broken and not starting:
        return _replace(draft, broken[-1], "it is out of date and does not serve")
    everybody = len(case.around.pods) >= existing.replicas and all(case.healthy(pod) for pod in case.around.pods)
    if primary is None:
        return None
    if not everybody:
        return _wait(draft, intent, primary, old)
    if followers:
        return _replace(draft, followers[-1], "it is out of date")
    return _update_primary(draft, intent, primary)


def _broken(draft: Draft, followers: list[PodView]) -> list[PodView]:
    """Those out of date that did not serve for a while: one look does not tell a broken pod from one that is late."""
    lame = [pod for pod in followers if not draft.case.healthy(pod)]
    return [pod for pod in lame if draft.lasted(f"{pod.uid} does not serve", BROKEN_S)]


def _is_starting(draft: Draft, old: list[PodView], replicas: int) -> bool:
    """Whether a pod that is up to date may still get ready. Not for ever: it may need those that do not work."""
    pods = draft.case.around.pods
    new = [f"start of {pod.uid}" for pod in pods if pod not in old and not draft.case.healthy(pod)]
    missing = ["start of a pod"] if len(pods) < replicas else []
    patient = [draft.lasted(one, STARTING_S) for one in new + missing]  # all are asked: each has a time of its own
    return not all(patient)


def _update_primary(draft: Draft, intent: Intent, primary: PodView) -> Request | None:
    case = draft.case
    if len(case.around.pods) == 1 or intent.primary_update == "Restart":
        return _replace(draft, primary, "it is the primary and the last one that is out of date")
    if intent.primary_update == "Supervised":
        return None
    target = _best(case, lambda pod: pod.uid != primary.uid and pod.template_hash == intent.template_hash)
    if target is not None:
        return _own(case, "update", target)
    others = {pod.name for pod in case.around.pods if pod.uid != primary.uid}
    if others <= intent.barred and primary.name not in intent.barred:  # it alone may lead, and so may its successor
        why = "it is the last one that is out of date, and primary.candidates lets no other pod take over meanwhile"
        return _replace(draft, primary, why)
    draft.note("UpdateWaits", f"{primary.name} is the last one that is out of date, and no other may take over now")
    return None


def _wait(draft: Draft, intent: Intent, primary: PodView, old: list[PodView]) -> Request | None:
    """What an update does while not all do their part. A single instance has nobody to wait for."""
    case, existing = draft.case, draft.case.around.stateful_set
    if len(case.around.pods) == 1 and existing is not None and existing.replicas == 1:
        return _replace(draft, old[0], "it is out of date and does not serve")
    only_primary = [pod.uid for pod in old] == [primary.uid] and intent.primary_update != "Supervised"
    if only_primary and draft.lasted(f"update of {primary.uid} waits", WAIT_TOLD_S):
        behind = ", ".join(pod.name for pod in case.around.pods if not case.healthy(pod)) or "pods that are not there"
        draft.note("UpdateWaits", f"{primary.name} is the last one that is out of date; it waits for {behind}")
    return None


def _replace(draft: Draft, pod: PodView, why: str) -> Request | None:
    """Delete the pod; nothing has to be handed off first."""
    draft.actions.append(DeletePod(pod.name, pod.uid))
    draft.note("ReplacingPod", f"{pod.name} is replaced: {why}")
    return None


def _best(case: Case, fits: Callable[[PodView], bool]) -> PodView | None:
    """A healthy instance that fits and may lead: the lowest ordinal."""
    none: frozenset[str] = frozenset()
    barred = case.intent.fenced | case.intent.barred if case.intent else none
    usable = (pod for pod in case.around.pods if case.healthy(pod) and not barred & {pod.name, EVERYBODY})
    return next((pod for pod in usable if fits(pod)), None)


def _schedulable(case: Case, pod: PodView) -> bool:
    node = case.around.nodes.get(pod.node)
    return node is None or not node.unschedulable


def _own(case: Case, reason: str, target: PodView) -> Request:
    """A hand-off of the operator itself; each attempt has an id of its own."""
    id_ = f"{reason}-{case.around.lease.epoch if case.around.lease else 0}-{int(case.now.timestamp())}"
    return Request(id_, "handoff", target.name, f"{OPERATOR} ({reason})")
