"""The Lease as a value, from and to its Kubernetes object."""

from __future__ import annotations

from typing import Any

import pytest

from sqlitecluster.election.notes import micro_time, parse_time
from sqlitecluster.election.record import HandOff, HandOffResult, Holder, LeaseRecord

OBJECT: dict[str, Any] = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {
        "name": "notes",
        "uid": "u1",
        "resourceVersion": "42",
        "labels": {"a": "b"},
        "annotations": {"sqlitecluster.dev/epoch": "7", "other": "kept", "sqlitecluster.dev/released": "7"},
        "ownerReferences": [{"name": "notes"}],
    },
    "spec": {
        "holderIdentity": "notes-0_uid0",
        "leaseDurationSeconds": 12,
        "renewTime": "2026-11-21T12:00:00.000001Z",
        "leaseTransitions": 3,
        "strategy": "kept",
    },
}


def test_what_is_not_ours_is_given_back() -> None:
    value = LeaseRecord.from_object(OBJECT).to_object()
    assert value["metadata"]["labels"] == {"a": "b"}
    assert value["metadata"]["annotations"]["other"] == "kept"
    assert (value["metadata"]["ownerReferences"], value["spec"]["strategy"]) == ([{"name": "notes"}], "kept")


def test_an_unchanged_record_is_the_same_object() -> None:
    assert LeaseRecord.from_object(OBJECT).to_object() == OBJECT


def test_the_object_that_was_read_is_not_changed() -> None:
    record = LeaseRecord.from_object(OBJECT).renewed(1_800_000_000_000_000_000)
    record.to_object()
    assert OBJECT["spec"]["renewTime"] == "2026-11-21T12:00:00.000001Z"


def test_all_fields_round_trip() -> None:
    record = LeaseRecord(
        holder="notes-1_u",
        epoch=9,
        duration_s=15,
        renew_real_ns=1_800_000_000_000_001_000,
        acquire_real_ns=1_800_000_000_000_000_000,
        transitions=2,
        cluster_id="LFSC",
        advertise="10.0.0.1:20202",
        handled="r1",
        result=HandOffResult("r1", "notes-0", "notes-1", "Completed", "a", "b", 12, 5, "fine"),
        ineligible={"notes-0": 1_800_000_000_000_000_000},
        released=True,
        resource_version="5",
    )
    assert LeaseRecord.from_object(record.to_object()) == record


@pytest.mark.parametrize(
    "spoiled",
    [
        {"metadata": None, "spec": None},
        {"metadata": [], "spec": "x"},
        {"metadata": {"annotations": {"sqlitecluster.dev/epoch": "-1"}}},
        {"metadata": {"annotations": {"sqlitecluster.dev/epoch": "٣"}}},
        {"metadata": {"annotations": {"sqlitecluster.dev/epoch": "9" * 40}}},
        {"metadata": {"annotations": {"sqlitecluster.dev/handoff": "[" * 3000}}},
        {"metadata": {"annotations": {"sqlitecluster.dev/handoff": "{}", "sqlitecluster.dev/ineligible": "[]"}}},
        {"spec": {"holderIdentity": 5, "leaseDurationSeconds": -1, "renewTime": "yesterday"}},
        {"spec": {"leaseDurationSeconds": 10**12, "renewTime": "2026-01-01T00:00:00"}},
        {"spec": {"leaseDurationSeconds": True, "leaseTransitions": "x"}},
    ],
)
def test_a_spoiled_lease_is_read_as_one_that_helps_nobody(spoiled: dict[str, Any]) -> None:
    record = LeaseRecord.from_object(spoiled)
    assert (record.holder, record.epoch, record.duration_s) == ("", 0, 12)
    assert (record.handoff, record.renew_real_ns, record.released) == (None, None, False)


def test_released_counts_only_for_its_own_epoch() -> None:
    notes = {"sqlitecluster.dev/epoch": "8", "sqlitecluster.dev/released": "7"}
    assert not LeaseRecord.from_object({"metadata": {"annotations": notes}}).released


def test_a_request_that_was_begun_is_not_pending() -> None:
    record = LeaseRecord(handoff=HandOff("r1", "*"))
    assert record.pending == HandOff("r1", "*")
    assert LeaseRecord(handoff=HandOff("r1", "*"), handled="r1").pending is None


@pytest.mark.parametrize(
    "text", ["", "{}", '{"id":"", "to":"x"}', '{"id":"1","kind":"explode"}', "5", "x" * 5000, '{"id":5}']
)
def test_what_is_no_request_is_ignored(text: str) -> None:
    assert HandOff.from_json(text) is None


def test_moments_have_microseconds() -> None:
    assert micro_time(1_800_000_000_123_456_789) == "2027-01-15T08:00:00.123456Z"
    assert parse_time("2027-01-15T09:00:00.123456+01:00") == 1_800_000_000_123_456_000


def test_a_holder_is_a_pod_and_its_uid() -> None:
    assert Holder.parse("notes-0_a-b") == Holder("notes-0", "a-b")
    assert Holder.parse("") == Holder("", "")
