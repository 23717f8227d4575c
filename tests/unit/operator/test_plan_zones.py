"""Zones: each pod is told the value of its node's label that ``spec.replication.spread`` names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlitecluster.kubeapi import client
from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.actions import TellZone
from sqlitecluster_operator.reconcile.observed import NodeView, PodView, read_pod
from support.operator_cases import changed, cluster, decide, pods_of

SPREAD = {"replication": {"mode": "Quorum", "spread": "rack"}}
RACKS = {f"node{number}": NodeView(f"node{number}", labels={"rack": f"r{number % 2}"}) for number in (1, 2, 3)}


def told(made: Any) -> dict[str, str]:
    return {action.name: action.zone for action in made.actions if isinstance(action, TellZone)}


def with_zones(pods: tuple[PodView, ...], *zones: str | None) -> tuple[PodView, ...]:
    return tuple(replace(pod, zone=zone) for pod, zone in zip(pods, zones, strict=True))


def test_each_pod_is_told_its_zone_once() -> None:
    raw = cluster(SPREAD)
    pods = pods_of(raw)

    assert told(decide(raw, pods, around={"nodes": RACKS})) == {"notes-0": "r1", "notes-1": "r0", "notes-2": "r1"}
    settled = decide(raw, with_zones(pods, "r1", "r0", "r1"), around={"nodes": RACKS})
    assert settled.actions == ()
    assert settled.status is not None
    assert [row["zone"] for row in settled.status["instancesStatus"]] == ["r1", "r0", "r1"]


def test_a_pod_on_another_node_is_told_another_zone() -> None:
    raw = cluster(SPREAD)
    pods = changed(with_zones(pods_of(raw), "r1", "r0", "r1"), 2, node="node2")

    assert told(decide(raw, pods, around={"nodes": RACKS})) == {"notes-2": "r0"}


def test_a_node_without_the_label_is_in_the_unknown_zone_and_reported_once() -> None:
    raw = cluster(SPREAD)
    nodes = {**RACKS, "node3": NodeView("node3")}
    pods = with_zones(pods_of(raw), "r1", "r0", None)
    made = decide(raw, pods, around={"nodes": nodes})

    assert told(made) == {"notes-2": names.ZONE_UNKNOWN}
    assert [note.reason for note in made.notes if note.warning] == ["ZoneUnknown"]
    again = decide(raw, with_zones(pods, "r1", "r0", names.ZONE_UNKNOWN), around={"nodes": nodes})
    assert (told(again), [note for note in again.notes if note.warning]) == ({}, [])


def test_a_pod_that_is_on_no_known_node_yet_waits() -> None:
    raw = cluster(SPREAD)
    pods = changed(pods_of(raw), 1, node="")

    assert set(told(decide(raw, pods, around={"nodes": RACKS}))) == {"notes-0", "notes-2"}


def test_a_pod_that_ends_is_left_alone() -> None:
    raw = cluster(SPREAD)

    assert "notes-1" not in told(decide(raw, changed(pods_of(raw), 1, deleting=True), around={"nodes": RACKS}))


def test_without_spread_pods_keep_what_they_were_told_until_they_are_replaced() -> None:
    raw = cluster()
    pods = with_zones(pods_of(raw), None, "r0", None)

    assert told(decide(raw, pods, around={"nodes": RACKS})) == {}


def test_a_suspended_cluster_is_told_too() -> None:
    raw = cluster({**SPREAD, "suspend": True})

    assert len(told(decide(raw, pods_of(raw), around={"nodes": RACKS}))) == 3


def test_the_zone_of_a_pod_is_read_from_its_annotation() -> None:
    meta = {"name": "notes-1", "labels": {names.LABEL_CLUSTER: "notes"}, "annotations": {names.ANNOTATION_ZONE: "r1"}}
    pod = read_pod({"metadata": meta})

    assert pod is not None
    assert pod.zone == "r1"
    assert names.ANNOTATION_ZONE == client.ZONE  # where sidecars read it
