"""Hand-offs: what is asked for, what is done once, and what is recorded."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.actions import (
    AnnotateLease,
)
from sqlitecluster_operator.reconcile.plan import plan
from support.operator_cases import (
    ASKED_LONG_AGO,
    ASKED_NOW,
    DONE,
    NOW,
    OPEN,
    asked,
    case,
    cluster,
    condition,
    decide,
    handed,
    lease,
)


def test_a_request_is_written_to_the_lease_and_recorded() -> None:
    made = handed({names.ANNOTATION_HANDOFF_TO: "notes-2", names.ANNOTATION_HANDOFF_ID: "a"})

    written = asked(made)
    assert written is not None
    assert (written["id"], written["to"], written["kind"]) == ("a", "notes-2", "handoff")
    assert made.status["handoff"]["phase"] == "Requested"
    assert made.status["targetPrimary"] == "notes-2"
    assert condition(made)["reason"] == "SwitchoverInProgress"


@pytest.mark.parametrize(
    ("kind", "to", "phase", "target", "words"),
    [
        ("handoff", "notes-2", "Requested", "notes-2", "hand-off to notes-2"),
        ("handoff", "*", "Requested", None, "hand-off to the best other instance"),
        ("handoff", "*", "Draining", None, "hand-off to the best other instance"),
        ("handoff", "notes-1", "Transferring", "notes-1", "hand-off to notes-1"),
        ("demote", "notes-0", "Requested", None, "notes-0 is demoted: hand-off to the best other instance"),
        ("demote", "*", "Draining", None, "notes-0 is demoted: hand-off to the best other instance"),
        ("demote", "notes-1", "Transferring", "notes-1", "notes-0 is demoted: hand-off to notes-1"),
    ],
)
def test_the_target_is_named_when_it_is_known(kind: str, to: str, phase: str, target: str | None, words: str) -> None:
    record = OPEN | ASKED_NOW | {"kind": kind, "to": to, "phase": phase}
    made = handed({}, record, held=lease(handoff={"id": "a"}))

    assert made.status.get("targetPrimary") == target
    assert condition(made)["message"] == words


def test_who_asked_is_recorded() -> None:
    fields = {"f:metadata": {"f:annotations": {f"f:{names.ANNOTATION_DEMOTE}": {}}}}
    raw = cluster(annotations={names.ANNOTATION_DEMOTE: "*"}, managedFields=[{"manager": "argocd", "fieldsV1": fields}])
    made = decide(raw)

    assert made.status is not None
    assert (made.status["handoff"]["kind"], made.status["handoff"]["requestedBy"]) == ("demote", "argocd")


@pytest.mark.parametrize(
    ("annotations", "record", "history", "again"),
    [
        ({"to": "notes-2", "id": "a"}, DONE, [DONE], False),
        ({"to": "notes-1", "id": "a"}, DONE, [DONE], False),
        ({"to": "notes-2", "id": "b"}, DONE, [DONE], True),
        ({"to": "notes-2", "id": "a"}, {**DONE, "id": "b"}, [{**DONE, "id": "b"}, DONE], False),
        ({"to": "notes-2"}, {**DONE, "id": "handoff:notes-2"}, [], False),
        ({"to": "notes-1"}, {**DONE, "id": "handoff:notes-2"}, [], True),
        ({"to": "notes-2"}, {**DONE, "id": "handoff:notes-1"}, [{**DONE, "id": "handoff:notes-2"}], True),
    ],
)
def test_an_id_is_done_once(annotations: dict[str, str], record: Any, history: Any, again: bool) -> None:
    given = {names.ANNOTATION_HANDOFF_TO: annotations["to"]}
    if "id" in annotations:
        given[names.ANNOTATION_HANDOFF_ID] = annotations["id"]

    assert (asked(handed(given, record, history=history)) is not None) is again


def test_the_primarys_answer_ends_it_and_is_kept() -> None:
    answer = {
        "id": "a",
        "from": "notes-0",
        "to": "notes-2",
        "phase": "Completed",
        "durationMillis": 120,
        "writeGapMillis": 80,
    }
    made = handed({}, OPEN | ASKED_NOW, held=lease(holder="notes-2_uid-2", result=answer))

    assert made.status["handoff"]["phase"] == "Completed"
    assert made.status["handoff"]["writeGapMillis"] == 80
    assert made.status["handoff"]["requestedBy"] == "me"
    assert made.status["history"] == [made.status["handoff"]]


def test_what_nobody_answers_fails_and_is_taken_back() -> None:
    made = handed({}, OPEN | ASKED_LONG_AGO, held=lease(handoff={"id": "a"}))

    assert made.status["handoff"]["phase"] == "Failed"
    assert AnnotateLease({names.ANNOTATION_HANDOFF: None}) in made.actions


def test_a_request_that_a_new_lease_does_not_have_is_written_again() -> None:
    assert asked(handed({}, OPEN | ASKED_NOW)) is not None


def test_the_target_leads_although_the_old_primary_died_before_it_said_so() -> None:
    asked_before = {"requestedAt": (NOW - dt.timedelta(seconds=20)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    made = handed({}, OPEN | asked_before, held=lease(holder="notes-2_uid-2", handoff={"id": "a"}))

    assert made.status["handoff"]["phase"] == "Completed"


@pytest.mark.parametrize(
    ("to", "phase"), [("notes-0", "Completed"), ("notes-7", "Failed"), ("notes-2", "Requested"), ("*", "Requested")]
)
def test_what_can_be_answered_without_the_sidecars_is(to: str, phase: str) -> None:
    made = handed({names.ANNOTATION_HANDOFF_TO: to, names.ANNOTATION_HANDOFF_ID: "a"})

    assert made.status["handoff"]["phase"] == phase
    assert (asked(made) is not None) == (phase == "Requested")


@pytest.mark.parametrize("to", ["*", "notes-1"])
def test_what_is_asked_while_the_first_pods_are_made_waits_for_them(to: str) -> None:
    """An object may be applied with the annotations that it will have for ever."""
    raw = cluster(annotations={names.ANNOTATION_HANDOFF_TO: to, names.ANNOTATION_HANDOFF_ID: "a"}, status={})
    first = case(raw)
    begun = replace(first, around=replace(first.around, pods=first.around.pods[:1], lease=None))
    made = plan(begun)

    assert made.status is None or "handoff" not in made.status
    assert made.look_again_s <= 1.0
    assert asked(plan(first)) is not None


def test_the_history_is_bounded() -> None:
    history = [{**DONE, "id": str(number)} for number in range(5)]
    made = handed(
        {names.ANNOTATION_HANDOFF_TO: "notes-9", names.ANNOTATION_HANDOFF_ID: "x"}, history[0], history=history
    )

    assert [one["id"] for one in made.status["history"]] == ["x", "0", "1", "2", "3"]


def test_a_hand_off_that_a_stopped_pod_made_by_itself_is_recorded() -> None:
    answer = {"id": "stop-3", "from": "notes-0", "to": "notes-1", "phase": "Completed", "writeGapMillis": 90}
    made = handed({}, held=lease(holder="notes-1_uid-1", result=answer))

    assert made.status["handoff"]["id"] == "stop-3"
    assert asked(made) is None


# -- a request is done once, whatever follows ------------------------------------------


OWN = {"kind": "handoff", "to": "notes-1", "phase": "Completed", "requestedBy": f"{names.FIELD_MANAGER} (update)"}
STOPPED_POD = OWN | {"id": "stop-4", "requestedBy": "the pod itself, because it was stopped"}


def look_after_look(annotations: dict[str, str], status: dict[str, Any], **more: Any) -> tuple[bool, dict[str, Any]]:
    """Whether something is asked of the primary, and the status that the next look begins with."""
    made = plan(case(cluster(annotations=annotations, status=status), **more))
    return asked(made) is not None, dict(made.status or status)


def done_by_others(status: dict[str, Any], *records: dict[str, Any]) -> dict[str, Any]:
    """As if the hand-off had ended, and then others, oldest first."""
    ended = {**status["handoff"], "phase": "Completed"}
    history = [*reversed(records), ended][:5]
    return {**status, "handoff": history[0], "history": history}


@pytest.mark.parametrize("annotation", [names.ANNOTATION_HANDOFF_TO, names.ANNOTATION_DEMOTE])
@pytest.mark.parametrize("id_", ["", "a"])
@pytest.mark.parametrize("others", [1, 6])
def test_an_annotation_that_stays_is_done_once_however_many_hand_offs_follow(
    annotation: str, id_: str, others: int
) -> None:
    notes = {annotation: "notes-0" if annotation == names.ANNOTATION_DEMOTE else "notes-2"}
    notes |= {names.ANNOTATION_HANDOFF_ID: id_} if id_ else {}
    begun, status = look_after_look(notes, {"epoch": 1})
    later = done_by_others(status, *({**OWN, "id": f"update-1-{number}"} for number in range(others)))

    assert begun
    assert look_after_look(notes, later)[0] is False


@pytest.mark.parametrize("others", [[], [{**OWN, "id": "node-cordoned-1-9"}], [STOPPED_POD]])
def test_without_the_new_field_the_records_say_what_was_handled(others: list[dict[str, Any]]) -> None:
    mine = {**DONE, "id": "handoff:notes-2", "requestedBy": "kubectl"}
    history = [*others, mine]
    made = handed({names.ANNOTATION_HANDOFF_TO: "notes-2"}, history[0], history=history)

    assert asked(made) is None
    assert made.status["handledRequests"] == ["handoff:notes-2"]


@pytest.mark.parametrize("between", [{}, {names.ANNOTATION_HANDOFF_TO: "notes-7"}])
def test_the_same_value_is_new_when_it_was_another_or_away_in_between(between: dict[str, str]) -> None:
    notes = {names.ANNOTATION_HANDOFF_TO: "notes-2"}
    _, status = look_after_look(notes, {"epoch": 1})
    answer = {"id": status["handoff"]["id"], "from": "notes-0", "to": "notes-2", "phase": "Completed"}
    _, status = look_after_look(between, status, held=lease(result=answer))
    _, status = look_after_look(between, status, held=lease(result=answer))
    made = plan(case(cluster(annotations=notes, status=status), held=lease(result=answer)))
    written = asked(made)

    assert written is not None
    assert written["id"] != answer["id"], "what the sidecars answered before is no answer to this"
    assert (
        asked(plan(case(cluster(annotations=notes, status=dict(made.status or {})), held=lease(handoff=written))))
        is None
    )


def test_an_id_that_came_back_is_still_known() -> None:
    def notes(id_: str) -> dict[str, str]:
        return {names.ANNOTATION_HANDOFF_TO: "notes-7", names.ANNOTATION_HANDOFF_ID: id_}

    status: dict[str, Any] = {"epoch": 1}
    for number in range(10):
        _, status = look_after_look(notes(f"id-{number}"), status)
    _, status = look_after_look({}, status)

    assert look_after_look(notes("id-0"), status)[1]["handoff"]["id"] == "id-9"
    assert len(status["history"]) == 5
