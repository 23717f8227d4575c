"""Conditions about the data: from the Lease and from what sidecars report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster.election.promise import Promise
from sqlitecluster.election.quorum import ADVICE
from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.observed import Probe, read_lease
from sqlitecluster_operator.runtime import probes
from support.operator_cases import CLOCK, changed, cluster, condition, decide, lease, pods_of

NOBODY = {"held": lease(seen_at=CLOCK - 60)}


def reported(code: str, text: str = "words", pod: str = "notes-1") -> dict[str, Any]:
    return {"around": {"probes": {pod: Probe(problem=text, problems=((code, text),))}}}


@pytest.mark.parametrize("kind", ["QuorumLost", "DurabilityDegraded", "HoldingByAgreement", "DataDiverged"])
def test_a_healthy_cluster_has_none_of_them(kind: str) -> None:
    assert condition(decide(), kind)["status"] == "False"


def test_a_quorum_that_is_lost_without_a_primary_says_what_to_do() -> None:
    made = decide(**NOBODY, **reported("QuorumLost", f"1 of 2 members answered; {ADVICE}"))
    found = condition(made)

    assert (found["status"], found["reason"]) == ("False", "QuorumLost")
    assert found["message"].endswith("notes-1: 1 of 2 members answered")
    assert found["message"].count(f"{names.ANNOTATION_PROMOTE}={names.ACCEPT_DATA_LOSS}") == 1
    assert condition(made, "QuorumLost")["reason"] == "NobodyMayLead"
    assert condition(made, "Stalled")["status"] == "True"


@pytest.mark.parametrize(("ago", "status"), [(15.0, "False"), (21.0, "False"), (23.0, "True")])
def test_an_ordinary_failover_is_no_lost_quorum(ago: float, status: str) -> None:
    made = decide(held=lease(seen_at=CLOCK - ago), **reported("QuorumLost"))

    assert condition(made, "QuorumLost")["status"] == status
    assert condition(made)["reason"] == ("QuorumLost" if status == "True" else "FailingOver")


def test_a_primary_with_too_few_replicas_is_not_to_be_promoted_away_from() -> None:
    made = decide(**reported("QuorumLost", "0 of 1", pod="notes-0"))

    assert condition(made)["reason"] == "QuorumLost"
    assert condition(made, "QuorumLost")["reason"] == "TooFewReplicas"
    assert names.ANNOTATION_PROMOTE not in condition(made)["message"]


def test_fewer_acknowledgements_say_since_when() -> None:
    degraded = lease(degraded_since="2026-11-21T11:00:00.000000Z")
    made = decide(held=degraded)
    found = condition(made, "DurabilityDegraded")

    assert found["status"] == "True"
    assert "since 2026-11-21T11:00:00Z" in found["message"]
    assert condition(made)["reason"] == "DurabilityDegraded"


def test_a_pod_that_is_not_ready_is_named_first() -> None:
    raw = cluster()
    made = decide(raw, changed(pods_of(raw), 2, ready=False), lease(degraded_since="2026-11-21T11:00:00Z"))

    assert condition(made)["reason"] == "Degraded"
    assert condition(made, "DurabilityDegraded")["status"] == "True"


def test_a_primary_that_holds_by_agreement_is_no_failover() -> None:
    made = decide(**NOBODY, **reported("HoldingByAgreement", "not renewed for 20 s", pod="notes-0"))

    assert condition(made)["reason"] == "HoldingByAgreement"
    assert condition(made, "HoldingByAgreement")["status"] == "True"


@pytest.mark.parametrize(
    ("code", "kind"),
    [("TailKept", "DataDiverged"), ("Diverged", "DataDiverged"), ("ImageDamaged", "DataDamaged")],
)
def test_what_a_sidecar_found_is_a_condition_and_the_cluster_stays_ready(code: str, kind: str) -> None:
    made = decide(**reported(code, "app.db"))

    assert condition(made, kind)["status"] == "True"
    assert "notes-1: app.db" in condition(made, kind)["message"]
    assert condition(made)["status"] == "True"


def test_an_event_tells_of_it_once() -> None:
    made = decide(**reported("TailKept"))
    assert made.status is not None
    again = decide(cluster(status=made.status), **reported("TailKept"))

    assert [note.reason for note in made.notes if note.warning] == ["DataDiverged"]
    assert again.notes == ()


def test_the_reason_of_ready_is_no_second_event() -> None:
    made = decide(**NOBODY, **reported("QuorumLost"))

    assert [note.reason for note in made.notes].count("QuorumLost") == 1


def test_codes_are_read_from_info() -> None:
    problems = [{"code": "TailKept", "message": "kept"}, {"code": "WalPinned", "message": "pinned"}, "nonsense"]
    probe = probes.read({"role": "replica", "problems": problems})

    assert probe is not None
    assert probe.problems == (("TailKept", "kept"), ("WalPinned", "pinned"))
    assert probe.problem == "kept; pinned"


def test_the_lease_is_read() -> None:
    notes = {
        names.ANNOTATION_DEGRADED_SINCE: "2026-11-21T11:00:00Z",
        names.ANNOTATION_DATA_LOSS: '{"id":"a","to":"*"}',
        names.ANNOTATION_DATA_LOSS_HANDLED: "b",
    }
    found = read_lease({"metadata": {"name": "notes", "annotations": notes}}, 0.0)

    assert found.degraded_since == "2026-11-21T11:00:00Z"
    assert found.accepted_loss == {"id": "a", "to": "*"}
    assert found.accepted_loss_handled == "b"


def test_what_a_primary_writes_into_the_lease_is_understood() -> None:
    notes: dict[str, str] = {}
    Promise(members=frozenset({1, 2}), acks=1, degraded_ns=1_795_258_800 * 10**9, store=1).write(notes)
    held = read_lease({"metadata": {"name": "notes", "annotations": notes}}, CLOCK)
    made = decide(held=replace(held, holder="notes-0_uid-0", epoch=1))

    assert "since 2026-11-21T11:00:00Z" in condition(made, "DurabilityDegraded")["message"]
