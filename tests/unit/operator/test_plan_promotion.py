"""Promotion with loss of data: passed on once, only while nobody leads, and taken back."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from sqlitecluster.election.promise import DataLoss
from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.actions import AnnotateLease
from sqlitecluster_operator.reconcile.observed import LeaseView, Probe
from support.operator_cases import CLOCK, NOW, STATUS, cluster, condition, decide, lease

ASKED = {names.ANNOTATION_PROMOTE: "accept-data-loss"}
NAMED = {**ASKED, names.ANNOTATION_PROMOTE_ID: "a"}
OPEN = {"id": "a", "to": "*", "requestedBy": "me", "requestedAt": "2026-11-21T11:59:50Z", "phase": "Requested"}
TAKEN_BACK = AnnotateLease({names.ANNOTATION_DATA_LOSS: None})


def nobody(**more: Any) -> LeaseView:
    """A Lease that is not renewed any more."""
    return lease(seen_at=CLOCK - 60, **more)


def look(annotations: dict[str, str], record: dict[str, Any] | None = None, held: Any = None, **spec: Any) -> Any:
    status = {**STATUS, **({"promotion": record} if record else {})}
    return decide(cluster(spec, annotations, status), held=held or nobody())


def passed_on(made: Any) -> dict[str, str] | None:
    for action in made.actions:
        text = action.annotations.get(names.ANNOTATION_DATA_LOSS) if isinstance(action, AnnotateLease) else None
        if text:
            found = json.loads(text)
            assert isinstance(found, dict)
            return found
    return None


def test_a_request_is_passed_on_recorded_and_told() -> None:
    made = look({**NAMED, names.ANNOTATION_PROMOTE_TO: "notes-1"})

    assert passed_on(made) == {"id": "a", "to": "notes-1"}
    assert (made.status["promotion"]["phase"], made.status["promotion"]["id"]) == ("Requested", "a")
    assert "PromotionRequested" in [note.reason for note in made.notes if note.warning]
    assert made.look_again_s <= 1.0


def test_without_a_name_anybody_may() -> None:
    assert passed_on(look(ASKED)) == {"id": "accept-data-loss:*", "to": "*"}


def test_candidates_read_what_is_passed_on() -> None:
    def read(annotations: dict[str, str]) -> DataLoss:
        found = DataLoss.from_json(json.dumps(passed_on(look(annotations))))
        assert found is not None
        return found

    assert read(NAMED).id == "a"
    assert read(NAMED).allows("notes-2")
    named = read({**NAMED, names.ANNOTATION_PROMOTE_TO: "notes-1"})
    assert (named.allows("notes-1"), named.allows("notes-2")) == (True, False)


@pytest.mark.parametrize(
    ("annotations", "id_", "again"),
    [
        (ASKED, "accept-data-loss:*", False),
        (NAMED, "a", False),
        ({**NAMED, names.ANNOTATION_PROMOTE_TO: "notes-1"}, "a", False),
        ({**ASKED, names.ANNOTATION_PROMOTE_ID: "b"}, "a", True),
        ({**ASKED, names.ANNOTATION_PROMOTE_TO: "notes-1"}, "accept-data-loss:*", True),
    ],
)
@pytest.mark.parametrize("phase", ["Completed", "Failed"])
def test_an_id_is_used_once(annotations: dict[str, str], id_: str, again: bool, phase: str) -> None:
    made = look(annotations, {**OPEN, "id": id_, "phase": phase})

    assert (passed_on(made) is not None) is again


def test_hand_offs_do_not_make_an_old_request_new() -> None:
    done = {"id": "h", "kind": "handoff", "to": "notes-1", "phase": "Completed"}
    status = {**STATUS, "promotion": {**OPEN, "id": "accept-data-loss:*", "phase": "Completed"}, "handoff": done}
    made = decide(cluster(annotations=ASKED, status={**status, "history": [done] * 5}), held=nobody())

    assert passed_on(made) is None


@pytest.mark.parametrize(
    ("change", "held", "spec", "words"),
    [
        ({}, lease(), {}, "notes-0 is the primary"),
        ({names.ANNOTATION_PROMOTE: "yes"}, None, {}, "accept-data-loss only"),
        ({names.ANNOTATION_PROMOTE_TO: "notes-9"}, None, {}, "there is no pod notes-9"),
        ({names.ANNOTATION_PROMOTE_TO: "notes-1"}, None, {"fence": ["notes-1"]}, "is fenced"),
    ],
)
def test_what_makes_no_sense_is_refused_and_used_up(change: dict[str, str], held: Any, spec: Any, words: str) -> None:
    made = look(NAMED | change, None, held, **spec)

    assert passed_on(made) is None
    assert made.status["promotion"]["phase"] == "Failed"
    assert words in made.status["promotion"]["message"]
    assert passed_on(look(NAMED | change, made.status["promotion"])) is None


def test_a_primary_that_holds_by_agreement_is_no_loss() -> None:
    probe = Probe(problems=(("HoldingByAgreement", "not renewed for 20 s"),))
    made = decide(cluster(annotations=NAMED), held=nobody(), around={"probes": {"notes-0": probe}})

    assert passed_on(made) is None
    assert made.status is not None
    assert "goes on without the Lease" in made.status["promotion"]["message"]


def test_a_new_cluster_accepts_nothing_in_advance() -> None:
    made = decide(cluster(annotations=ASKED, status={"clusterID": "x"}), held=lease("", epoch=0))

    assert passed_on(made) is None
    assert made.status is not None
    assert "no primary yet" in made.status["promotion"]["message"]


def test_whoever_used_it_ends_it() -> None:
    held = lease("notes-1_uid-1", epoch=2, accepted_loss={"id": "a", "to": "*"}, accepted_loss_handled="a")
    made = look(NAMED, OPEN, held)

    assert made.status["promotion"]["phase"] == "Completed"
    assert "notes-1 leads" in made.status["promotion"]["message"]
    assert TAKEN_BACK in made.actions


def test_when_somebody_leads_without_it_it_is_taken_back() -> None:
    made = look(NAMED, OPEN, lease("notes-1_uid-1", accepted_loss={"id": "a"}))

    assert "no loss had to be accepted" in made.status["promotion"]["message"]
    assert TAKEN_BACK in made.actions


def test_what_nobody_uses_ends() -> None:
    old = (NOW - dt.timedelta(seconds=301)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = look(NAMED, {**OPEN, "requestedAt": old}, nobody(accepted_loss={"id": "a"}))

    assert made.status["promotion"]["phase"] == "Failed"
    assert TAKEN_BACK in made.actions


def test_it_is_written_again_when_the_lease_lost_it_and_once_otherwise() -> None:
    assert passed_on(look(NAMED, OPEN)) == {"id": "a", "to": "*"}
    assert look(NAMED, OPEN, nobody(accepted_loss={"id": "a", "to": "*"})).actions == ()


def test_a_permission_that_nobody_asked_for_is_taken_back() -> None:
    assert TAKEN_BACK in look({}, None, nobody(accepted_loss={"id": "x", "to": "*"})).actions


def test_a_suspended_cluster_and_one_with_an_illegal_spec_can_be_promoted() -> None:
    assert passed_on(look(NAMED, None, suspend=True)) is not None
    assert passed_on(look(NAMED, None, storage={"size": "1Ki"})) is not None


def test_while_it_is_under_way_the_reason_stays() -> None:
    made = look(NAMED, OPEN)

    assert condition(made)["reason"] == "FailingOver"
    assert made.status["promotion"] == OPEN
