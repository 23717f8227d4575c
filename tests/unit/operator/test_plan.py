"""The plan: what the operator does about what it sees, decision by decision."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster_operator import names
from sqlitecluster_operator.api.base import wire_name
from sqlitecluster_operator.api.status import InstanceStatus
from sqlitecluster_operator.reconcile.actions import (
    AnnotateLease,
    Apply,
    CreateLease,
    LabelPod,
    Memory,
    Remove,
    RemoveUnwatched,
    ResizeClaim,
    Scale,
    SetFinalizers,
)
from sqlitecluster_operator.reconcile.observed import (
    ClaimView,
    Fingerprint,
    NodeView,
    PodView,
    Probe,
    StatefulSetView,
    Surroundings,
    read_pod,
)
from sqlitecluster_operator.reconcile.plan import plan
from support.operator_cases import (
    CLOCK,
    NOW,
    UID,
    asked,
    case,
    changed,
    cluster,
    condition,
    decide,
    deleted,
    kinds_of,
    lasting,
    lease,
    pods_of,
)

MONITOR = ("PodMonitor", "notes")

# -- steady state and objects -----------------------------------------------------------


def test_a_settled_cluster_needs_nothing() -> None:
    made = decide()

    assert made.actions == ()
    assert (condition(made)["status"], condition(made)["reason"]) == ("True", "ClusterHealthy")
    assert made.status is not None
    assert (made.status["ready"], made.status["currentPrimary"]) == ("3/3", "notes-0")


def test_its_own_status_is_not_written_again() -> None:
    made = decide()
    again = decide(cluster(status=made.status))

    assert again.status is None
    assert again.notes == ()


def test_a_new_cluster_gets_its_finalizer_its_lease_and_all_objects() -> None:
    raw = cluster(status={}, finalizers=[])
    value = replace(case(raw, (), stateful_set=None), around=Surroundings())
    made = plan(value)

    assert kinds_of(made)[:2] == ["SetFinalizers", "CreateLease"]
    assert [action.body["kind"] for action in made.actions if isinstance(action, Apply)][-1] == "StatefulSet"
    assert condition(made)["reason"] == "Initializing"


def test_an_object_that_somebody_changed_is_applied_again() -> None:
    value = case()
    drifted = {**value.memory.applied, ("Service", "notes-rw"): "another version"}
    made = decide(memory=Memory(applied=drifted), around={"objects": value.around.objects})

    assert [action.key for action in made.actions] == ["Service notes-rw"]


def test_a_service_that_is_not_wanted_any_more_is_removed_if_it_is_ours() -> None:
    ours = Fingerprint("Service", "notes-x", "u1", "1", UID, "h")
    others = Fingerprint("Service", "notes-y", "u2", "1", "another uid", "h")
    found = {**case().around.objects, ("Service", "notes-x"): ours, ("Service", "notes-y"): others}
    made = decide(around={"objects": found}, memory=case().memory)

    assert made.actions == (Remove("Service", "notes-x", "u1"),)


@pytest.mark.parametrize("applied", [None, "digest"])
def test_a_pod_monitor_that_may_be_there_and_is_not_wanted_is_looked_for(applied: str | None) -> None:
    value = case()
    known = {place: version for place, version in value.memory.applied.items() if place != MONITOR}
    if applied is not None:  # else the operator has just started
        known[MONITOR] = applied
    made = plan(replace(value, memory=Memory(applied=known)))

    assert made.actions == (RemoveUnwatched(*MONITOR),)


def test_a_pod_monitor_that_is_wanted_is_applied_and_not_looked_for() -> None:
    value = case()
    made = decide(
        cluster({"monitoring": {"enabled": True}}), memory=value.memory, around={"objects": value.around.objects}
    )

    assert [(type(one), one.key) for one in made.actions] == [(Apply, "PodMonitor notes")]


def test_a_disruption_budget_from_before_run_on_primary_is_removed() -> None:
    budget = case().around.objects["PodDisruptionBudget", "notes"]
    raw = cluster({"runOn": "Primary"})
    value = case(raw)
    found = {**value.around.objects, ("PodDisruptionBudget", "notes"): budget}
    made = plan(replace(value, around=replace(value.around, objects=found)))

    assert Remove("PodDisruptionBudget", "notes", budget.uid) in made.actions


def test_suspended_nothing_is_applied_but_hand_offs_go_on() -> None:
    raw = cluster({"suspend": True, "instances": 5}, {names.ANNOTATION_HANDOFF_TO: "notes-1"})
    made = decide(raw, pods_of(raw), replicas=3)

    assert kinds_of(made) == ["AnnotateLease"]
    assert condition(made, "Suspended")["status"] == "True"


def test_an_illegal_spec_touches_nothing() -> None:
    raw = cluster({"storage": {"size": "1Ki"}})
    made = decide(raw, pods_of(cluster()))

    assert made.actions == ()
    assert condition(made)["reason"] == "InvalidSpec"
    assert "64Mi" in condition(made)["message"]
    assert condition(made, "Stalled")["status"] == "True"


def test_update_strategy_never_leaves_the_statefulset_alone_but_scales_it() -> None:
    raw = cluster({"updateStrategy": {"type": "Never"}, "instances": 4})
    made = decide(raw, pods_of(raw), stateful_set=StatefulSetView("u", 3, 3, "old"))

    assert Scale(4) in made.actions
    assert not [one for one in made.actions if isinstance(one, Apply) and one.body["kind"] == "StatefulSet"]


# -- the Lease --------------------------------------------------------------------------


def test_a_lost_lease_is_made_anew_after_the_newest_epoch() -> None:
    value = case(cluster(status={"epoch": 7, "clusterID": "LFSC0123456789ABCDEF"}))
    made = plan(replace(value, around=replace(value.around, lease=None)))
    (action,) = [one for one in made.actions if isinstance(one, CreateLease)]

    assert action.body["metadata"]["annotations"] == {
        names.ANNOTATION_EPOCH: "7",
        names.ANNOTATION_CLUSTER_ID: "LFSC0123456789ABCDEF",
    }
    assert action.body["spec"]["holderIdentity"] == ""


def test_the_status_never_forgets_an_epoch() -> None:
    made = decide(cluster(status={"epoch": 9, "clusterID": "LFSC0123456789ABCDEF"}), held=lease(epoch=4))

    assert made.status is not None
    assert made.status["epoch"] == 9


def test_volumes_that_outlived_their_cluster_say_whose_data_they_hold() -> None:
    raw = cluster(status={})
    claims = (ClaimView("data-notes-0", "u", "1Gi", cluster_id="LFSCAAAAAAAAAAAAAAAA"),)
    made = decide(raw, around={"claims": claims})

    assert made.status is not None
    assert made.status["clusterID"] == "LFSCAAAAAAAAAAAAAAAA"


def test_fenced_pods_are_named_in_the_lease() -> None:
    made = decide(cluster({"fence": ["notes-1"]}))

    assert made.actions == (AnnotateLease({names.ANNOTATION_FENCED: '["notes-1"]'}),)
    assert condition(made, "Fenced")["status"] == "True"


# -- who is primary ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (lease(seen_at=CLOCK - 60), "FailingOver"),
        (lease(holder=""), "FailingOver"),
        (lease(holder="notes-0_an-older-uid"), "FailingOver"),
        (lease(holder="", epoch=0), "Initializing"),
    ],
)
def test_without_a_living_holder_there_is_no_primary(held: Any, reason: str) -> None:
    made = decide(held=held)

    assert condition(made)["reason"] == reason
    assert condition(made, "PrimaryAvailable")["status"] == "False"


def test_when_nobody_may_take_over_it_says_so() -> None:
    made = decide(cluster({"fence": ["*"]}), held=lease(holder=""))

    assert condition(made)["reason"] == "NoPrimary"


def test_a_wrong_role_label_is_left_to_the_sidecars_at_first() -> None:
    pods = changed(pods_of(cluster()), 1, role="primary")

    assert kinds_of(decide(pods=pods)) == []
    made = decide(pods=pods, memory=lasting("role of uid-1"))
    assert LabelPod("notes-1", "uid-1", "replica") in made.actions


def test_a_replica_that_is_not_labelled_yet_is_not_called_one() -> None:
    """Its sidecar does that when it follows."""
    pods = changed(pods_of(cluster()), 1, role="")

    assert kinds_of(decide(pods=pods, memory=lasting("role of uid-1"))) == []


# -- scaling, nodes -----------------------------------------------------------------------


def replicas_of(made: Any) -> int | None:
    for action in made.actions:
        if isinstance(action, Apply) and action.body["kind"] == "StatefulSet":
            return int(action.body["spec"]["replicas"])
    return None


def test_scaling_up_and_down_changes_the_statefulset() -> None:
    for wanted in (2, 5):
        raw = cluster({"instances": wanted})
        assert replicas_of(decide(raw, pods_of(raw), replicas=3)) == wanted


def test_the_primary_moves_away_before_its_pod_goes() -> None:
    raw = cluster({"instances": 1})
    held = lease(holder="notes-2_uid-2")
    pods = changed(changed(pods_of(raw), 2, role="primary"), 0, role="replica")
    made = decide(raw, pods, held, replicas=3)
    written = asked(made)

    assert replicas_of(made) in (None, 3)
    assert written is not None
    assert written["to"] == "notes-0"


def test_scaling_down_waits_while_nobody_can_take_over() -> None:
    raw = cluster({"instances": 1})
    pods = changed(changed(pods_of(raw), 2, role="primary"), 0, ready=False, role="replica")
    made = decide(raw, pods, lease(holder="notes-2_uid-2"), replicas=3)

    assert (replicas_of(made) in (None, 3), asked(made)) == (True, None)
    assert "ScaleDownWaits" in [note.reason for note in made.notes]


@pytest.mark.parametrize(("mode", "broken", "count"), [("Quorum", 1, 3), ("Quorum", 2, 2), ("Async", 1, 2)])
def test_with_quorum_what_leaves_may_hold_what_a_broken_one_lacks(mode: str, broken: int, count: int) -> None:
    raw = cluster({"instances": 2, "replication": {"mode": mode}})
    made = decide(raw, changed(pods_of(raw), broken, ready=False), replicas=3)

    assert (replicas_of(made) or 3) == count
    assert ("ScaleDownWaits" in [note.reason for note in made.notes]) is (count == 3)


def test_with_quorum_a_pod_that_is_not_there_is_waited_for_too() -> None:
    raw = cluster({"instances": 2, "replication": {"mode": "Quorum"}})
    made = decide(raw, [pod for pod in pods_of(raw) if pod.ordinal != 1], replicas=3)

    assert (replicas_of(made) or 3) == 3


def test_a_cordoned_node_loses_its_primary_before_the_eviction() -> None:
    nodes = {"node1": NodeView("node1", unschedulable=True), "node2": NodeView("node2", unschedulable=True)}
    written = asked(decide(around={"nodes": nodes}))

    assert written is not None
    assert written["to"] == "notes-2"


def test_a_cordoned_node_without_the_primary_is_no_reason() -> None:
    assert asked(decide(around={"nodes": {"node2": NodeView("node2", unschedulable=True)}})) is None


def test_a_primary_that_is_being_deleted_hands_off() -> None:
    written = asked(decide(pods=changed(pods_of(cluster()), 0, deleting=True)))

    assert written is not None
    assert written["to"] == "notes-1"


def test_a_cluster_that_sleeps_says_so() -> None:
    raw = cluster({"hibernate": True})
    made = decide(raw, (), lease(holder=""), replicas=0)

    assert condition(made)["reason"] == "Hibernated"
    assert condition(made, "Hibernated")["status"] == "True"


# -- runOn: Primary ---------------------------------------------------------------------


def standing_by() -> tuple[PodView, ...]:
    raw = cluster({"runOn": "Primary"})
    held_back = {"ready": False, "sidecar_started": False, "programs_since": None}
    return tuple(replace(pod, **held_back) if pod.ordinal else pod for pod in pods_of(raw))  # type: ignore[arg-type]


def test_replicas_that_stand_by_count_as_ready() -> None:
    made = decide(cluster({"runOn": "Primary"}), standing_by())

    assert condition(made)["reason"] == "ClusterHealthy"
    assert made.status is not None
    assert made.status["ready"] == "3/3"
    assert [row.get("standby") for row in made.status["instancesStatus"]] == [None, True, True]


def test_a_replica_whose_sidecar_fails_does_not_stand_by() -> None:
    pods = changed(standing_by(), 1, problem="container sqlite-sidecar: CrashLoopBackOff")

    assert condition(decide(cluster({"runOn": "Primary"}), pods))["reason"] == "Degraded"


def test_a_demoted_pod_is_replaced() -> None:
    raw = cluster({"runOn": "Primary"})
    pods = changed(changed(standing_by(), 0, role="replica"), 1, role="primary")
    held = lease(holder="notes-1_uid-1")

    assert deleted(decide(raw, pods, held)) == []
    assert deleted(decide(raw, pods, held, memory=lasting("Demoted of uid-0"))) == ["notes-0"]


def test_a_demoted_pod_whose_program_ends_at_once_is_replaced_all_the_same() -> None:
    raw = cluster({"runOn": "Primary"})
    pods = changed(changed(standing_by(), 0, role="replica", programs_since=None), 1, role="primary")
    held = lease(holder="notes-1_uid-1")

    assert "Demoted of uid-0" in decide(raw, pods, held).memory.since
    assert deleted(decide(raw, pods, held, memory=lasting("Demoted of uid-0", "Demoted of uid-2"))) == ["notes-0"]


def test_programs_that_lost_their_mount_are_started_anew() -> None:
    since = NOW - dt.timedelta(minutes=1)
    pods = changed(pods_of(cluster()), 1, sidecar_restarts=1, unmounted_since=since)

    assert deleted(decide(pods=pods)) == []
    assert deleted(decide(pods=pods, memory=lasting("MountReplaced of uid-1"))) == ["notes-1"]


# -- trouble ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ('pods "notes-0" is forbidden: violates PodSecurity "baseline:latest": privileged', "enforce=privileged"),
        ('pods "notes-0" is forbidden: exceeded quota: small, requested: pods=1', "ResourceQuota"),
        ('admission webhook "policy.example" denied the request', "webhook"),
        ("something that nobody knows", "change the template"),
    ],
)
def test_a_refused_pod_is_told_with_the_servers_words_and_a_cure(words: str, advice: str) -> None:
    made = decide(pods=pods_of(cluster())[:1], around={"pod_refusal": words})

    assert condition(made)["reason"] == "PodRejected"
    assert words in condition(made)["message"]
    assert advice in condition(made)["message"]


def test_a_foreign_object_is_told() -> None:
    made = decide(
        memory=Memory(foreign={"Service notes-rw": "Service notes-rw exists and is not this SQLiteCluster's"})
    )

    assert condition(made)["reason"] == "ForeignObject"
    assert condition(made, "Stalled")["status"] == "True"


def test_volumes_grow_and_never_shrink() -> None:
    small, large = ClaimView("data-notes-0", "u", "1Gi"), ClaimView("data-notes-1", "u", "9Gi")
    raw = cluster({"storage": {"size": "5Gi"}})
    made = decide(raw, around={"claims": (small, large)})

    assert [one for one in made.actions if isinstance(one, ResizeClaim)] == [ResizeClaim("data-notes-0", "5Gi")]


def test_a_refused_resize_is_a_matter_of_storage_not_of_ready() -> None:
    made = decide(memory=Memory(refusals={"PersistentVolumeClaim data-notes-0": "not resizable"}))

    assert condition(made, "StorageHealthy")["reason"] == "ResizeRefused"
    assert condition(made)["reason"] == "ClusterHealthy"


# -- the end ----------------------------------------------------------------------------


def ending(seconds: float, pods: int = 3, **metadata: Any) -> Any:
    began = (NOW - dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    raw = cluster(deletionTimestamp=began, **metadata)
    return decide(raw, pods_of(raw, pods), replicas=3 if pods else 0)


def test_pods_end_before_a_deleted_cluster_is_let_go() -> None:
    assert kinds_of(ending(1)) == ["Scale"]
    assert kinds_of(ending(1, pods=0)) == ["SetFinalizers"]


def test_a_deletion_does_not_wait_for_ever() -> None:
    made = ending(121)

    assert [type(one) for one in made.actions] == [SetFinalizers]
    assert made.actions[0].finalizers == ()
    assert "DeletionNotWaitedFor" in [note.reason for note in made.notes]


def test_pods_that_are_to_be_orphaned_are_not_ended() -> None:
    made = ending(1, finalizers=[names.FINALIZER, "orphan"])

    assert list(made.actions) == [SetFinalizers(("orphan",), "5")]


# -- what is told -----------------------------------------------------------------------


def test_each_change_of_the_reason_is_an_event() -> None:
    before = decide(held=lease(seen_at=CLOCK - 60))
    made = decide(cluster(status=before.status))

    assert "ClusterHealthy" in [note.reason for note in made.notes]
    assert "NewPrimary" in [note.reason for note in made.notes]


def test_other_words_for_the_same_state_are_written_only_now_and_then() -> None:
    first = decide(pods=changed(pods_of(cluster()), 1, ready=False, problem="waits 1"))
    pods = changed(pods_of(cluster()), 1, ready=False, problem="waits 2")
    raw = cluster(status=first.status)

    assert decide(raw, pods, memory=Memory(since={"status": CLOCK - 1})).status is None
    assert decide(raw, pods, memory=Memory(since={"status": CLOCK - 11})).status is not None


@pytest.mark.parametrize(
    ("name", "exit_code", "expected"),
    [("sqlite-sidecar", 0, True), ("sqlite-guard", 0, True), ("sqlite-sidecar", 137, False), ("other", 0, False)],
)
def test_only_a_clean_end_takes_the_mount_from_running_programs(name: str, exit_code: int, expected: bool) -> None:
    container = {
        "name": name,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        "lastState": {"terminated": {"exitCode": exit_code}},
    }
    labels = {"sqlitecluster.dev/cluster": "notes"}
    raw = {"metadata": {"name": "notes-0", "labels": labels}, "status": {"initContainerStatuses": [container]}}
    seen = read_pod(raw)

    assert seen is not None
    assert (seen.unmounted_since is not None) == expected


def test_every_field_of_an_instance_is_written_by_somebody() -> None:
    candidates = {"selector": {"matchLabels": {"a": "b"}}}
    raw = cluster({"runOn": "Primary", "fence": ["notes-1"], "primary": {"candidates": candidates}})
    pods = changed(pods_of(raw), 1, ready=False, sidecar_started=False, sidecar_restarts=1)
    pods = changed(pods, 2, unschedulable="no node is large enough")
    nodes = {pod.node: NodeView(pod.node, labels={"topology.kubernetes.io/zone": "a"}) for pod in pods}
    probes = {pod.name: Probe("replica", 1, True, 0.5, "1.0") for pod in pods}
    made = decide(raw, pods, around={"nodes": nodes, "probes": probes})
    assert made.status is not None
    written = {key for row in made.status["instancesStatus"] for key in row}

    assert written == {wire_name(name) for name in InstanceStatus.model_fields}
