"""What people forbid: fenced pods (``spec.fence``) and pods that are no candidates (``spec.primary.candidates``)."""

from __future__ import annotations

import pytest

from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import NEVER, SECOND
from sqlitecluster.election.record import HandOff, LeaseRecord
from support.electionbench import ME, OTHER, Bench, lease, peer


@pytest.mark.parametrize("names", [{"c-0"}, {"*"}, {"c-0", "c-1"}])
def test_a_fenced_primary_stops_writing_and_keeps_the_lease(names: set[str]) -> None:
    bench = Bench()
    bench.lead()
    bench.renew(fenced=frozenset(names))
    assert bench.one(m.SetFence).deadline == NEVER
    assert bench.elector.is_primary
    bench.renew(fenced=frozenset(names))
    assert bench.one(m.SetFence).deadline == NEVER
    assert not bench.has(m.Demote)


def test_a_lifted_fence_opens_in_a_new_epoch() -> None:
    bench = Bench()
    epoch = bench.lead().epoch
    bench.renew(fenced=frozenset({"c-0"}))
    bench.renew(fenced=frozenset())
    assert not bench.has(m.SetFence)
    assert bench.sent().epoch == epoch + 1
    bench.accept(bench.sent())
    assert bench.one(m.BecomePrimary).epoch == epoch + 1
    assert bench.one(m.SetFence).deadline != NEVER


def test_a_primary_that_is_told_of_its_fence_asks_at_once() -> None:
    bench = Bench()
    bench.lead()
    told = lease(ME, bench.elector.epoch, fenced=frozenset({"c-0"}), resource_version="999")
    bench.tick(1)
    bench.accept(bench.sent())
    bench.step(m.LeaseRead(told, bench.now, bench.now, watched=True))
    bench.tick(1)
    assert bench.has(m.ReadLease)


@pytest.mark.parametrize("forbidden", [{"fenced": frozenset({"c-0"})}, {"barred": frozenset({"*"})}])
def test_who_may_not_lead_does_not_even_ask(forbidden: dict[str, frozenset[str]]) -> None:
    bench = Bench(3)
    bench.tick()
    bench.read(lease("", 3, released=True, **forbidden))
    assert not bench.has(m.AskPeers)
    bench.tick(60)
    assert not bench.has(m.AskPeers)


def test_a_fenced_pod_says_so_until_it_is_over() -> None:
    bench = Bench(3)
    bench.tick()
    bench.read(lease(OTHER, 3, fenced=frozenset({"c-0"})))
    assert [a.code for a in bench.actions if isinstance(a, m.Report) and a.message] == ["Fenced"]
    bench.tick(2)
    bench.read(lease(OTHER, 3, resource_version="11"))
    assert [a.code for a in bench.actions if isinstance(a, m.Report) and not a.message] == ["Fenced"]


@pytest.mark.parametrize("to", ["c-1", "*"])
def test_nobody_hands_over_to_a_pod_that_may_not_lead(to: str) -> None:
    bench = Bench()
    bench.lead()
    bench.renew(handoff=HandOff("h", to), barred=frozenset({"c-1"}))
    bench.peers(peer("c-1", 5))
    assert not bench.has(m.Drain)
    assert bench.sent().result is not None and bench.sent().result.phase == "Failed"  # type: ignore[union-attr]


@pytest.mark.parametrize("left_s", [5, -5], ids=["within-its-delay", "after-its-delay"])
def test_a_pod_that_was_demoted_is_handed_to_when_it_is_named(left_s: int) -> None:
    bench = Bench()
    bench.lead()
    until = bench.now.real_ns + left_s * SECOND
    bench.renew(handoff=HandOff("h", "c-1"), ineligible={"c-1": until})
    bench.peers(peer("c-1", 5))
    bench.accept(bench.sent())
    assert bench.one(m.Drain).pod == "c-1"


def test_a_better_position_of_a_fenced_pod_is_not_waited_for() -> None:
    bench = Bench(3)
    bench.tick()
    bench.read(lease("", 3, released=True, fenced=frozenset({"c-1"})))
    bench.tick()
    bench.peers(peer("c-1", 9, 3))
    assert bench.has(m.PutLease)


@pytest.mark.parametrize("text", ["", "{", "{}", '"c-0"', "[1, null]", "[" * 3000])
def test_lists_that_are_none_name_nobody(text: str) -> None:
    notes = {"sqlitecluster.dev/fenced": text, "sqlitecluster.dev/barred": text}
    record = LeaseRecord.from_object({"metadata": {"annotations": notes}})
    assert record.fenced == record.barred == frozenset()


def test_the_lists_of_the_operator_are_kept() -> None:
    notes = {"sqlitecluster.dev/fenced": '["c-0"]', "sqlitecluster.dev/barred": '["c-1","c-2"]'}
    record = LeaseRecord.from_object({"metadata": {"annotations": notes}})
    assert record.fenced == {"c-0"} and record.barred == {"c-1", "c-2"}
    assert record.to_object()["metadata"]["annotations"].items() >= notes.items()
