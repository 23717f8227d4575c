"""Rolling updates: which pod is next, and what must be true before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster_operator.reconcile.actions import Memory
from sqlitecluster_operator.reconcile.observed import (
    NodeView,
    PodView,
    StatefulSetView,
)
from support.operator_cases import (
    ASKED_NOW,
    CLOCK,
    LATER,
    OPEN,
    asked,
    changed,
    cluster,
    condition,
    decide,
    deleted,
    handed,
    lasting,
    lease,
    pods_of,
)

OLD = {"template_hash": "old", "user_hash": "old"}
OLD_OPERATOR = {"template_hash": "old"}


def outdated(*ordinals: int, **change: str) -> tuple[PodView, ...]:
    pods = pods_of(cluster())
    return tuple(replace(pod, **(change or OLD)) if pod.ordinal in ordinals else pod for pod in pods)  # type: ignore[arg-type]


def test_the_highest_replica_is_updated_first() -> None:
    assert deleted(decide(pods=outdated(0, 1, 2))) == ["notes-2"]


def test_then_the_next_one_but_only_when_all_do_their_part() -> None:
    pods = outdated(0, 1)

    assert deleted(decide(pods=pods)) == ["notes-1"]
    assert deleted(decide(pods=changed(pods, 2, ready=False))) == []
    assert deleted(decide(pods=changed(pods, 2, deleting=True))) == []
    assert deleted(decide(pods=pods[:2])) == []


def test_the_primary_hands_off_before_it_is_updated() -> None:
    made = decide(pods=outdated(0))
    written = asked(made)

    assert deleted(made) == []
    assert written is not None
    assert written["to"] == "notes-1"
    assert "update" in written["requestedBy"]


def test_after_the_hand_off_the_old_primary_is_updated_as_a_replica() -> None:
    pods = changed(changed(outdated(0), 0, role="replica"), 1, role="primary")

    assert deleted(decide(pods=pods, held=lease(holder="notes-1_uid-1"))) == ["notes-0"]


BROKEN = lasting("uid-0 does not serve", "uid-1 does not serve", "uid-2 does not serve")
"""All that do not serve did not for a while."""


def test_a_pod_that_does_not_serve_is_updated_first_whatever_the_others_do() -> None:
    pods = changed(changed(outdated(0, 1, 2), 1, ready=False), 2, ready=False)

    assert deleted(decide(pods=pods, memory=BROKEN)) == ["notes-2"]


def test_pods_that_never_worked_are_updated_without_a_primary() -> None:
    pods = tuple(replace(pod, ready=False, role="") for pod in outdated(0, 1, 2))

    assert deleted(decide(pods=pods, held=lease(holder="", epoch=0), memory=BROKEN)) == ["notes-2"]


def test_a_replica_that_is_not_ready_for_a_moment_is_not_broken() -> None:
    made = decide(pods=changed(outdated(0, 1, 2), 1, ready=False))

    assert deleted(made) == []
    assert made.memory.since["uid-1 does not serve"] == CLOCK
    assert deleted(decide(pods=changed(outdated(0, 1, 2), 1, ready=False), memory=made.memory, clock=CLOCK + 9)) == []
    late = {"memory": made.memory, "clock": CLOCK + 11, "held": lease(seen_at=CLOCK + 11)}
    assert deleted(decide(pods=changed(outdated(0, 1, 2), 1, ready=False), **late)) == ["notes-1"]


def test_a_broken_replica_waits_for_one_that_starts_with_the_new_version_but_not_for_ever() -> None:
    pods = changed(changed(outdated(0, 1), 1, ready=False), 2, ready=False)
    both = Memory(since={**BROKEN.since, "start of uid-2": LATER})

    assert deleted(decide(pods=pods, memory=BROKEN)) == []
    assert deleted(decide(pods=pods, memory=both)) == ["notes-1"]


def test_a_broken_replica_waits_for_a_pod_that_is_still_to_be_made() -> None:
    pods = changed(outdated(0, 1), 1, ready=False)[:2]
    both = Memory(since={**BROKEN.since, "start of a pod": LATER})

    assert deleted(decide(pods=pods, memory=BROKEN)) == []
    assert deleted(decide(pods=pods, memory=both)) == ["notes-1"]


def test_no_pod_is_deleted_before_its_successor_would_be_new() -> None:
    template = pods_of(cluster())[0].template_hash
    unseen = StatefulSetView("u", 3, 3, template, settled=False)

    assert deleted(decide(pods=outdated(0, 1, 2), stateful_set=unseen)) == []
    assert deleted(decide(pods=outdated(0, 1, 2), stateful_set=StatefulSetView("u", 3, 3, "old"))) == []


@pytest.mark.parametrize("kind", ["OnDelete", "Never"])
def test_by_strategy_nothing_is_replaced(kind: str) -> None:
    raw = cluster({"updateStrategy": {"type": kind}})
    made = decide(raw, outdated(0, 1, 2))

    assert deleted(made) == []
    assert condition(made)["reason"] == "ClusterHealthy"
    assert condition(made, "UpToDate")["reason"] == "ByStrategy"


def test_supervised_waits_for_a_person() -> None:
    raw = cluster({"updateStrategy": {"primary": "Supervised"}})
    made = decide(raw, outdated(0))

    assert (deleted(made), asked(made)) == ([], None)
    assert condition(made)["reason"] == "WaitingForUser"


def test_restart_replaces_the_primary_in_place() -> None:
    assert deleted(decide(cluster({"updateStrategy": {"primary": "Restart"}}), outdated(0))) == ["notes-0"]


def with_index(pods: tuple[PodView, ...]) -> tuple[PodView, ...]:
    return tuple(replace(pod, labels={"index": str(pod.ordinal)}) for pod in pods)


def only_some_lead(*names: str, **more: Any) -> dict[str, Any]:
    """A cluster whose pods of these ordinals may lead."""
    chosen = {"matchExpressions": [{"key": "index", "operator": "In", "values": list(names)}]}
    return cluster({"primary": {"candidates": {"selector": chosen}}, **more})


def out_of_date(raw: dict[str, Any], *ordinals: int) -> tuple[PodView, ...]:
    pods = with_index(pods_of(raw))
    return tuple(replace(pod, template_hash="old", user_hash="old") if pod.ordinal in ordinals else pod for pod in pods)


def test_the_only_candidate_is_replaced_in_place() -> None:
    raw = only_some_lead("0")
    made = decide(raw, out_of_date(raw, 0))

    assert (deleted(made), asked(made)) == (["notes-0"], None)
    assert "primary.candidates" in next(note.message for note in made.notes if note.reason == "ReplacingPod")


def test_the_only_candidate_is_not_replaced_when_it_could_not_lead_again() -> None:
    raw = only_some_lead("7")
    made = decide(raw, out_of_date(raw, 0))

    assert (deleted(made), asked(made)) == ([], None)
    assert "UpdateWaits" in [note.reason for note in made.notes]


def test_the_primary_waits_for_a_candidate_that_may_lead_later() -> None:
    fenced = only_some_lead("0", "1", fence=["notes-1"])
    made = decide(fenced, out_of_date(fenced, 0))

    assert (deleted(made), asked(made)) == ([], None)
    assert "UpdateWaits" in [note.reason for note in made.notes]


def test_an_update_that_waits_long_for_a_candidate_says_so() -> None:
    raw = only_some_lead("0", "1")
    pods = changed(out_of_date(raw, 0), 1, ready=False)
    soon, late = decide(raw, pods), decide(raw, pods, memory=lasting("update of uid-0 waits"))

    assert (deleted(soon), deleted(late), asked(late)) == ([], [], None)
    assert "UpdateWaits" not in [note.reason for note in soon.notes]
    assert "notes-1" in next(note.message for note in late.notes if note.reason == "UpdateWaits")


def test_a_primary_that_is_no_candidate_any_more_moves_away() -> None:
    raw = only_some_lead("2")
    written = asked(decide(raw, with_index(pods_of(raw))))

    assert written is not None
    assert (written["to"], "not-a-candidate" in written["requestedBy"]) == ("notes-2", True)


def test_a_primary_whose_node_is_no_place_for_one_moves_away() -> None:
    raw = cluster({"primary": {"candidates": {"nodeSelector": {"matchLabels": {"disk": "fast"}}}}})
    labels = {"node1": {}, "node2": {"disk": "fast"}, "node3": {"disk": "fast"}}
    written = asked(decide(raw, around={"nodes": {name: NodeView(name, labels=has) for name, has in labels.items()}}))

    assert written is not None
    assert written["to"] == "notes-1"


def test_a_single_instance_is_replaced_in_place() -> None:
    raw = cluster({"instances": 1})
    pods = (replace(pods_of(raw, 1)[0], template_hash="old", user_hash="old"),)

    assert deleted(decide(raw, pods)) == ["notes-0"]


def test_a_new_operator_updates_only_when_it_is_this_clusters_turn() -> None:
    waiting = decide(pods=outdated(0, 1, 2, **OLD_OPERATOR), slot_free=False)
    going = decide(pods=outdated(0, 1, 2, **OLD_OPERATOR), slot_free=True)

    assert (deleted(waiting), waiting.rolls) == ([], False)
    assert (deleted(going), going.rolls) == (["notes-2"], True)
    assert condition(waiting)["status"] == "True"


def test_a_users_change_waits_for_nobodys_turn() -> None:
    made = decide(pods=outdated(0, 1, 2), slot_free=False)

    assert (deleted(made), made.rolls) == (["notes-2"], False)


def test_no_pod_is_replaced_during_a_hand_off() -> None:
    made = handed({}, OPEN | ASKED_NOW, pods=outdated(0, 1, 2), held=lease(handoff={"id": "a"}))

    assert deleted(made) == []
