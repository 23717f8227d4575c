"""Hand-off and demote: from the request to its record. Pure.

A request comes from annotations of the SQLiteCluster, or from the operator itself (rolling
update, scale down, cordoned node). It is written to the Lease, where the primary's sidecar
reads it, does it and answers. One at a time; the record is ``status.handoff``. Rules:
    1. A request is done once, however many hand-offs follow: ``status.handledRequests`` has those
       that were begun. Without ``handoff-id`` the request is its kind and value, which count as
       long as the annotation stays as it is; with one it is the id, which counts for good.
    2. What a primary did not answer in time has failed, and is taken back from the Lease.
    3. The record survives everything: it is in the status, not in the operator's memory.
    4. What is asked of a cluster whose first pods are still being made waits for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.api import HANDLED_MAX, HISTORY_MAX
from sqlitecluster_operator.reconcile.actions import AnnotateLease
from sqlitecluster_operator.reconcile.case import EVERYBODY, Case, Draft
from sqlitecluster_operator.reconcile.observed import moment_of

FINISHED: Final = ("Completed", "Failed")
STOPPED: Final = "the pod itself, because it was stopped"
ANSWER_EXTRA_S: Final = 15.0
"""How much longer than the switchover may take an answer is waited for."""
RETRY_S: Final = 15.0
"""Before the operator repeats a hand-off of its own that failed."""
POLL_S: Final = 1.0
_ID_MAX: Final = 253
_WITH_ID: Final = "id:"
_COPIED: Final = ("from", "to", "phase", "startedAt", "completedAt", "durationMillis", "writeGapMillis", "message")

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants another primary."""

    id: str
    kind: str
    to: str
    requested_by: str
    key: str = ""
    """Of a user's request: what it is known by once it was handled. Empty: the operator's own."""


@dataclass(frozen=True, slots=True)
class Handoffs:
    """The record after this look."""

    record: Record | None
    history: tuple[Record, ...]
    handled: tuple[str, ...] = ()
    """Keys of users' requests that were begun, newest first; of those without an id the present one at most."""

    @property
    def active(self) -> bool:
        """Whether a hand-off is under way."""
        return self.record is not None and self.record.get("phase") not in FINISHED

    @property
    def target(self) -> str:
        """Who should be the primary when it is over; empty while nobody knows: the primary chooses."""
        record = self.record or {}
        named = record.get("kind") != "demote" or record.get("phase") == "Transferring"
        to = str(record.get("to") or "")
        return to if self.active and named and to != EVERYBODY else ""

    @property
    def words(self) -> str:
        """What is done, in brief."""
        record = self.record or {}
        to = self.target or "the best other instance"
        demoted = record.get("from") or "the primary"
        return f"{demoted} is demoted: hand-off to {to}" if record.get("kind") == "demote" else f"hand-off to {to}"

    def ended(self, record: Record) -> Handoffs:
        """With the record of a hand-off that ended."""
        others = (one for one in self.history if one.get("id") != record["id"])
        return replace(self, record=record, history=(record, *others)[:HISTORY_MAX])

    def begun(self, key: str) -> Handoffs:
        """With a user's request that is dealt with now."""
        others = (one for one in self.handled if one != key and one.startswith(_WITH_ID))
        return replace(self, handled=(key, *others)[:HANDLED_MAX]) if key else self

    def withdrawn(self) -> Handoffs:
        """Without the request that had no id: its annotation was removed, so it may be made again."""
        return replace(self, handled=tuple(one for one in self.handled if one.startswith(_WITH_ID)))


def known(status: Mapping[str, Any]) -> Handoffs:
    """What the status says before this look."""
    record = status.get("handoff") or None
    history = tuple(status.get("history") or ())
    handled = status.get("handledRequests")
    return Handoffs(record, history, _seen_in((record or {}, *history)) if handled is None else tuple(handled))


def _seen_in(records: tuple[Record, ...]) -> tuple[str, ...]:
    """The handled requests by their records alone: in the status of an older operator nothing else has them."""
    found = Handoffs(None, ())
    for one in reversed(records):
        id_, by = str(one.get("id") or ""), str(one.get("requestedBy") or "")
        if id_ and by != STOPPED and not by.startswith(f"{names.FIELD_MANAGER} ("):
            found = found.begun(id_ if id_.startswith(("handoff:", "demote:")) else _WITH_ID + id_)
    return found.handled


def advance(draft: Draft, own: Request | None) -> Handoffs:
    """Follow the hand-off that is under way, or begin the one that is wanted."""
    case = draft.case
    handoffs = known(case.status)
    asked = _from_annotations(case, handoffs)
    handoffs = handoffs if asked else handoffs.withdrawn()
    handoffs = _follow(draft, handoffs) if handoffs.active else _unasked(draft, handoffs)
    if not handoffs.active:
        new = asked if asked is not None and asked.key not in handoffs.handled else None
        wanted = new or _not_too_soon(case, handoffs, own)
        if wanted is not None and _is_being_made(case):
            draft.soon(POLL_S)
        elif wanted is not None:
            handoffs = _begin(draft, wanted, handoffs.begun(wanted.key))
    if handoffs.active:
        draft.soon(POLL_S)
    return handoffs


def _from_annotations(case: Case, handoffs: Handoffs) -> Request | None:
    """What the user asks for, be it handled or not."""
    notes = case.annotations
    given = (notes.get(names.ANNOTATION_HANDOFF_ID) or "")[:_ID_MAX]
    for kind, annotation in (("handoff", names.ANNOTATION_HANDOFF_TO), ("demote", names.ANNOTATION_DEMOTE)):
        value = notes.get(annotation)
        if value:
            key = _WITH_ID + given if given else f"{kind}:{value}"[:_ID_MAX]
            id_ = given or _unused(case, handoffs, key)
            return Request(id_, kind, value[:_ID_MAX], asked_by(case, annotation), key)
    return None


def _unused(case: Case, handoffs: Handoffs, key: str) -> str:
    """The request as an id; with the time when it is made again, because sidecars begin an id once, too."""
    lease = case.around.lease
    used = {one.get("id") for one in (handoffs.record or {}, *handoffs.history)}
    used |= {(one or {}).get("id") for one in ((lease.handoff, lease.result) if lease is not None else ())}
    return f"{key[: _ID_MAX - 12]}@{int(case.now.timestamp())}" if key in used else key


def _not_too_soon(case: Case, handoffs: Handoffs, own: Request | None) -> Request | None:
    last = handoffs.record
    if own is None or last is None or last.get("phase") != "Failed":
        return own
    ended = moment_of(last.get("completedAt"))
    return None if ended is not None and (case.now - ended).total_seconds() < RETRY_S else own


def _is_being_made(case: Case) -> bool:
    """Whether nobody led this cluster yet, and pods of it are still to come."""
    intent = case.intent
    if intent is None or intent.hibernate or case.around.lease is not None:
        return False
    return len(case.around.pods) < intent.instances


def _begin(draft: Draft, request: Request, handoffs: Handoffs) -> Handoffs:
    case = draft.case
    primary = case.primary
    record: dict[str, Any] = {
        "id": request.id,
        "kind": request.kind,
        "to": request.to,
        "requestedBy": request.requested_by,
        "requestedAt": case.stamp(),
        "phase": "Requested",
    }
    if primary is not None:
        record["from"] = primary.name
    refused = _refusal(case, request)
    if refused is not None:
        phase, message = refused
        record |= {"phase": phase, "message": message, "completedAt": case.stamp()}
        draft.note(f"Handoff{phase}", f"{request.kind} to {request.to}: {message}", warning=phase == "Failed")
        return handoffs.ended(record)
    draft.note("HandoffRequested", f"{request.kind} to {request.to}, asked for by {request.requested_by}")
    draft.actions.append(AnnotateLease({names.ANNOTATION_HANDOFF: _for_lease(record)}))
    return replace(handoffs, record=record)


def _refusal(case: Case, request: Request) -> tuple[str, str] | None:
    """How a request ends that no sidecar has to see; None when it has to be done."""
    primary = case.primary
    pod = case.around.pod(request.to)
    if request.kind == "demote":
        if primary is not None and request.to not in (EVERYBODY, primary.name):
            return "Completed", f"{request.to} is not the primary"
        return None
    if request.to != EVERYBODY and pod is None:
        return "Failed", f"there is no pod {request.to}"
    if primary is not None and request.to == primary.name:
        return "Completed", f"{request.to} is the primary already"
    if len(case.around.pods) < 2:
        return "Failed", "there is no other instance"
    return None


def _follow(draft: Draft, handoffs: Handoffs) -> Handoffs:
    case, record = draft.case, dict(handoffs.record or {})
    lease = case.around.lease
    answer = lease.result if lease is not None else None
    if answer is not None and answer.get("id") == record["id"]:
        record |= {name: answer[name] for name in _COPIED if answer.get(name) is not None}
    elif _silently_done(case, record):
        record |= {"phase": "Completed", "completedAt": case.stamp(), "message": "seen by the Lease's holder"}
    elif _age(case, record) > _limit(case):
        record |= {"phase": "Failed", "completedAt": case.stamp(), "message": "no primary answered in time"}
        draft.actions.append(AnnotateLease({names.ANNOTATION_HANDOFF: None}))
    elif lease is not None and (lease.handoff or {}).get("id") != record["id"]:
        draft.actions.append(AnnotateLease({names.ANNOTATION_HANDOFF: _for_lease(record)}))
    if record["phase"] not in FINISHED:
        return replace(handoffs, record=record)
    record.setdefault("completedAt", case.stamp())
    _tell_end(draft, record)
    return handoffs.ended(record)


def _unasked(draft: Draft, handoffs: Handoffs) -> Handoffs:
    """Record what a primary did by itself: it handed off because its pod was stopped."""
    lease = draft.case.around.lease
    answer = lease.result if lease is not None else None
    known = {one.get("id") for one in (handoffs.record or {}, *handoffs.history)}
    if answer is None or not answer.get("id") or answer.get("id") in known or answer.get("phase") not in FINISHED:
        return handoffs
    record = {name: answer[name] for name in ("id", *_COPIED) if answer.get(name) is not None}
    record |= {"kind": "handoff", "requestedBy": STOPPED}
    _tell_end(draft, record)
    return handoffs.ended(record)


def _silently_done(case: Case, record: Record) -> bool:
    """Whether the target is the primary although nobody reported: the old one died after the swap."""
    primary = case.primary
    grown = _age(case, record) > 2 * POLL_S
    return grown and primary is not None and primary.name == record["to"] and record.get("from") != primary.name


def _tell_end(draft: Draft, record: Record) -> None:
    if record["phase"] == "Completed":
        target = record.get("to") or "nobody"
        gap = record.get("writeGapMillis")
        measured = f", writes paused for {gap} ms" if gap is not None else ""
        draft.note("HandoffCompleted", f"{record.get('from') or 'nobody'} to {target}{measured}")
    else:
        draft.note(
            "HandoffFailed", f"to {record.get('to')}: {record.get('message') or 'no reason given'}", warning=True
        )


def _age(case: Case, record: Record) -> float:
    asked = moment_of(record.get("requestedAt"))
    return (case.now - asked).total_seconds() if asked else float("inf")


def _limit(case: Case) -> float:
    return (case.intent.switchover_timeout_s if case.intent else 60.0) + ANSWER_EXTRA_S


def _for_lease(record: Record) -> str:
    return json.dumps({name: record[name] for name in ("id", "kind", "to", "requestedBy", "requestedAt")})


def asked_by(case: Case, annotation: str) -> str:
    """Who wrote the annotation, as far as the API server knows."""
    for entry in case.cluster["metadata"].get("managedFields") or ():
        fields = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if f"f:{annotation}" in fields:
            return str(entry.get("manager") or "user")
    return "user"
