"""Hibernation: writes stop, all replicas get everything, then the pods go. Pure.

Pods that go all at once do not end at the same moment: what a primary commits after its last
replica went is in its volume alone, and another one may lead at the wake-up. So:
    1. The whole cluster is fenced through the Lease, as ``spec.fence`` does it: its primary keeps
       the Lease and writes nothing. A hand-off is not disturbed, and without a primary nobody is
       kept from becoming it, as long as there is time.
    2. Pods go when all replicas have what the fenced primary has, or when they were waited for
       long enough.
    3. The fence stays until no pod is left, also when the cluster is to wake up meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile import handoff
from sqlitecluster_operator.reconcile.case import EVERYBODY, Case, Draft, Intent
from sqlitecluster_operator.reconcile.observed import Probe

SETTLED_S: Final = 1.5
"""So long the positions stand still: what was committed just before the fence is captured by then."""
SILENCE_S: Final = 5.0
"""Ready pods of which none answers are believed so long after the fence was written."""
WAKING_LIMIT_S: Final = 120.0
"""A cluster that is to wake up waits no longer than this for pods that went."""
POLL_S: Final = 1.0
FENCED: Final = "Fenced"
"""Code of the problem that a fenced sidecar reports."""
_TIMER: Final = "hibernation"


def fence(draft: Draft, intent: Intent) -> frozenset[str]:
    """Whom the Lease has to fence now: those that the spec names, or everybody."""
    case = draft.case
    if not case.around.pods or not (intent.hibernate or _leaving(draft)):
        return intent.fenced
    may_begin = case.primary is not None and not handoff.known(case.status).active
    if may_begin or is_fenced(case) or _told_to_go(case) or _late(draft, intent):
        return intent.fenced | {EVERYBODY}
    return intent.fenced


def as_text(fenced: Iterable[str]) -> str:
    """What the Lease's annotation says; empty when it is not needed."""
    ordered = sorted(fenced)
    return json.dumps(ordered) if ordered else ""


def may_sleep(draft: Draft, intent: Intent) -> bool:
    """Whether all replicas have everything, or were waited for long enough."""
    case = draft.case
    late = _late(draft, intent)
    why = waits_for(case)
    if not why and _stands_still(draft):
        return True
    if _nobody_answers(case) and draft.lasted("hibernation unanswered", SILENCE_S):
        draft.note("HibernationUnchecked", "no sidecar answers the operator; all pods were ready, so they go")
        return True
    draft.soon(POLL_S)
    if late:
        text = f"not waited for any longer: {why or 'the positions do not stand still'}; what is missing may be lost"
        draft.note("HibernationIncomplete", text, warning=True)
    return late or _never_led(case)


def still_leaving(draft: Draft) -> bool:
    """Whether pods that went for a hibernation are waited for, before new ones are made."""
    if not _leaving(draft):
        return False
    draft.soon(POLL_S)
    return True


def waits_for(case: Case) -> str:
    """What is missing before pods may go; empty when all have everything."""
    primary, existing = case.primary, case.around.stateful_set
    if primary is None:
        return "no instance is the primary"
    if not is_fenced(case):
        return (
            "a hand-off is under way"
            if handoff.known(case.status).active
            else "the Lease does not say yet that nobody may write"
        )
    probe = case.around.probes.get(primary.name)
    if probe is None or probe.positions is None:
        return f"{primary.name}, the primary, does not say what it has"
    if probe.role != "fenced" or FENCED not in {code for code, _ in probe.problems}:
        return f"{primary.name}, the primary, still may write"
    there = {pod.name for pod in case.around.pods if not pod.deleting}
    wanted = [names.pod(case.name, ordinal) for ordinal in range(existing.replicas if existing else 0)]
    missing = [name for name in wanted if name not in there]
    if missing:
        return f"{', '.join(missing)} is not there" if len(missing) == 1 else f"{', '.join(missing)} are not there"
    lacking = [name for name in sorted(there) if not _has_all(case.around.probes.get(name), probe)]
    return f"{', '.join(lacking)}: not known to have all that {primary.name} has" if lacking else ""


def is_fenced(case: Case) -> bool:
    """Whether the Lease fences everybody."""
    text = case.around.lease.fenced if case.around.lease else ""
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return False
    return isinstance(found, list) and EVERYBODY in found


def _told_to_go(case: Case) -> bool:
    """Whether no pod is asked for, and some are left."""
    existing = case.around.stateful_set
    return existing is not None and existing.replicas == 0 and bool(case.around.pods)


def _leaving(draft: Draft) -> bool:
    """The same, for as long as it may take: a pod of a lost node never goes by itself."""
    return _told_to_go(draft.case) and not draft.lasted("pods are leaving", WAKING_LIMIT_S)


def _late(draft: Draft, intent: Intent) -> bool:
    return draft.lasted(_TIMER, intent.switchover_timeout_s)


def _never_led(case: Case) -> bool:
    """Whether there is nothing to lose: no instance ever was the primary."""
    return case.primary is None and case.epoch == 0


def _nobody_answers(case: Case) -> bool:
    """Whether the operator cannot reach sidecars at all, and nothing else speaks against going."""
    around = case.around
    answers = any(pod.name in around.probes for pod in around.pods)
    whole = around.stateful_set is not None and len(around.pods) == around.stateful_set.replicas
    return is_fenced(case) and whole and not answers and all(case.healthy(pod) for pod in around.pods)


def _stands_still(draft: Draft) -> bool:
    case = draft.case
    probe = case.around.probes.get(case.primary.name) if case.primary else None
    positions = sorted((probe.positions or {}).items()) if probe else []
    return draft.lasted(f"hibernation at {positions}", SETTLED_S)


def _has_all(replica: Probe | None, primary: Probe) -> bool:
    if replica is None or replica.positions is None:
        return False
    return all(replica.positions.get(name) == position for name, position in (primary.positions or {}).items())
