"""Promotion with loss of data: from a person's annotation to its record. Pure.

When too many members are gone for good, no instance may take over: what was acknowledged might be
missing. A person who accepts that says so by an annotation; it goes to the Lease, where a candidate
takes it. Rules:
    1. An id is used once. Without ``promote-id`` the request itself is the id, so an annotation that
       stays accepts nothing a second time.
    2. It is passed on only while nobody leads, and never before the first primary: otherwise it is
       answered at once, and so used up.
    3. It is taken back when somebody leads again, whether he needed it or not, or after a while.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile import data
from sqlitecluster_operator.reconcile.actions import AnnotateLease
from sqlitecluster_operator.reconcile.case import EVERYBODY, Case, Draft
from sqlitecluster_operator.reconcile.handoff import asked_by
from sqlitecluster_operator.reconcile.observed import moment_of

REQUESTED: Final = "Requested"
COMPLETED: Final = "Completed"
FAILED: Final = "Failed"
LIMIT_S: Final = 300.0
"""So long an instance may take it; then the person is asked again."""
POLL_S: Final = 1.0
_TEXT_MAX: Final = 253

Record = Mapping[str, Any]


def advance(draft: Draft) -> Record | None:
    """Follow the promotion that is under way, or begin the one that is asked for; the record after this look."""
    case = draft.case
    record: Record | None = case.status.get("promotion") or None
    if record is not None and record.get("phase") == REQUESTED:
        record = _follow(draft, dict(record))
    wanted = _wanted(case)
    if wanted is not None and (record is None or _is_over(record)) and wanted["id"] != (record or {}).get("id"):
        record = _begin(draft, wanted)
    if record is not None and not _is_over(record):
        draft.soon(POLL_S)
    elif case.around.lease is not None and case.around.lease.accepted_loss is not None:
        draft.actions.append(AnnotateLease({names.ANNOTATION_DATA_LOSS: None}))
    return record


def _is_over(record: Record) -> bool:
    return record.get("phase") != REQUESTED


def _wanted(case: Case) -> dict[str, Any] | None:
    notes = case.annotations
    value = notes.get(names.ANNOTATION_PROMOTE)
    if not value:
        return None
    to = notes.get(names.ANNOTATION_PROMOTE_TO) or EVERYBODY
    return {
        "id": (notes.get(names.ANNOTATION_PROMOTE_ID) or f"{value}:{to}")[:_TEXT_MAX],
        "to": to[:_TEXT_MAX],
        "requestedBy": asked_by(case, names.ANNOTATION_PROMOTE),
        "requestedAt": case.stamp(),
        "phase": REQUESTED,
    }


def _begin(draft: Draft, record: dict[str, Any]) -> Record:
    refused = _refusal(draft.case, record["to"])
    if refused:
        draft.note("PromotionFailed", f"{record['id']}: {refused}", warning=True)
        return record | {"phase": FAILED, "completedAt": draft.case.stamp(), "message": refused}
    whom = "any instance" if record["to"] == EVERYBODY else record["to"]
    text = f"{record['requestedBy']} accepts a loss of data: {whom} may take over with what it has"
    draft.note("PromotionRequested", text, warning=True)
    _tell(draft, record)
    return record


def _refusal(case: Case, to: str) -> str:
    """Why a request is not passed on; empty when it is."""
    value = case.annotations.get(names.ANNOTATION_PROMOTE)
    lease, kept_out = case.around.lease, case.intent.fenced | case.intent.barred if case.intent else frozenset()
    if value != names.ACCEPT_DATA_LOSS:
        return f"{names.ANNOTATION_PROMOTE} takes {names.ACCEPT_DATA_LOSS} only"
    if case.primary is not None:
        return f"{case.primary.name} is the primary: there is nothing to accept"
    held = data.holding_by_agreement(case)
    if held.status:
        return f"the primary goes on without the Lease: there is nothing to accept ({held.message})"
    if max(int(case.status.get("epoch") or 0), lease.epoch if lease else 0) == 0:
        return "there was no primary yet: there is nothing to accept"
    if to != EVERYBODY and case.around.pod(to) is None:
        return f"there is no pod {to}"
    if kept_out & {to, EVERYBODY}:
        return f"{to} is fenced, or no candidate"
    return ""


def _follow(draft: Draft, record: dict[str, Any]) -> Record:
    case, lease = draft.case, draft.case.around.lease
    asked = moment_of(record.get("requestedAt"))
    age = (case.now - asked).total_seconds() if asked else LIMIT_S + 1
    if lease is not None and lease.accepted_loss_handled == record["id"]:
        return _end(draft, record, COMPLETED, f"{lease.pod or 'an instance'} leads; the permission is used up")
    if case.primary is not None:
        return _end(draft, record, COMPLETED, f"{case.primary.name} leads; no loss had to be accepted")
    if age > LIMIT_S:
        return _end(draft, record, FAILED, f"no instance took over within {LIMIT_S:g} s")
    if lease is not None and (lease.accepted_loss or {}).get("id") != record["id"]:
        _tell(draft, record)
    return record


def _end(draft: Draft, record: dict[str, Any], phase: str, message: str) -> Record:
    draft.note(f"Promotion{phase}", message, warning=True)
    return record | {"phase": phase, "completedAt": draft.case.stamp(), "message": message}


def _tell(draft: Draft, record: Record) -> None:
    text = json.dumps({"id": record["id"], "to": record["to"]})
    draft.actions.append(AnnotateLease({names.ANNOTATION_DATA_LOSS: text}))
