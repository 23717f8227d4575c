"""The primary's side of acknowledgements: what it writes into the Lease, and what it tells its data path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster.election import messages as m
from sqlitecluster.election.membership import Wanted, in_force, inherited, next_promise
from sqlitecluster.election.promise import DataLoss, Promise
from sqlitecluster.election.record import HandOff, Holder, LeaseRecord
from support.electionbench import ME, OTHER, START, Bench, lease, peer

A, B, C, D = 0xA, 0xB, 0xC, 0xD
ONE = Wanted(A, 1)
PREFERRED = Wanted(A, 1, preferred=True)
NOW_NS = 1_800_000_000_000_000_000


def promise(acks: int, *members: int, **more: Any) -> Promise:
    return Promise(acks=acks, members=frozenset(members), store=A, **more)


def path(*in_sync: int, **more: Any) -> m.DataPath:
    values: dict[str, Any] = {"spare": frozenset(), "pods": frozenset({A, B, C, D}), "gone": frozenset(), "now": START}
    values |= {key: frozenset(stores) for key, stores in more.items()}
    return m.DataPath(in_sync=frozenset(in_sync), enough=bool(in_sync), **values)


@pytest.mark.parametrize(
    ("before", "wanted", "seen", "after"),
    [
        (promise(0, A), ONE, path(), None),
        (promise(0, A), ONE, path(B, C), promise(0, A, B)),
        (promise(0, A, B), ONE, path(B), promise(1, A, B)),
        (promise(0, A, B), ONE, path(), None),
        (promise(0, A, B), Wanted(A, 2), path(B), None),
        (promise(0, A, B, C), Wanted(A, 2), path(B, C), promise(2, A, B, C)),
        (promise(1, A, B), ONE, path(B, C), promise(1, A, B, C)),
        (promise(1, A, B), ONE, path(B, C, pods={A, B}), None),
        (promise(1, A, B, C), Wanted(A, 2), path(B), None),
        (promise(1, A, B, C), Wanted(A, 2), path(B, C), promise(2, A, B, C)),
        (promise(1, A, B, C), ONE, path(B, gone={C}, pods={A, B}), None),
        (promise(1, A, B, C), ONE, path(B, gone={C}, pods={A, B}, spare={C}), promise(1, A, B)),
        (promise(1, A, B), ONE, path(gone={B}, pods={A}, spare={B}), None),
        (promise(0, A, B), ONE, path(gone={B}, pods={A}), promise(0, A)),
        (promise(1, A, B), ONE, path(gone={A}, spare={A}), None),
        (promise(1, A, B), Wanted(A), path(B, C), None),
    ],
)
def test_one_change_after_the_other(before: Promise, wanted: Wanted, seen: m.DataPath, after: Promise | None) -> None:
    assert next_promise(before, wanted, seen, short=False, real_ns=NOW_NS) == after


def test_preferred_says_that_it_is_degraded_and_required_never() -> None:
    before = promise(1, A, B)
    assert next_promise(before, PREFERRED, path(), short=True, real_ns=NOW_NS) == replace(before, degraded_ns=NOW_NS)
    assert next_promise(before, PREFERRED, path(B), short=True, real_ns=NOW_NS) is None
    assert next_promise(before, ONE, path(), short=True, real_ns=NOW_NS) is None


def test_degraded_ends_when_enough_have_everything() -> None:
    before = promise(1, A, B, degraded_ns=NOW_NS)
    assert next_promise(before, PREFERRED, path(), short=False, real_ns=0) is None
    assert next_promise(before, PREFERRED, path(B), short=False, real_ns=0) == promise(1, A, B)


@pytest.mark.parametrize(
    ("before", "wanted", "loss", "after"),
    [
        (Promise(), Wanted(B), False, Promise()),
        (promise(1, A, B), Wanted(B), False, Promise()),
        (Promise(), Wanted(B, 1), False, Promise(members=frozenset({B}), store=B)),
        (promise(0, A, C), Wanted(B, 1), False, Promise(members=frozenset({B}), store=B)),
        (promise(1, A, C), Wanted(B, 1), False, Promise(members=frozenset({A, B, C}), acks=1, store=B)),
        (promise(2, A, B, C), Wanted(B, 1), False, Promise(members=frozenset({A, B, C}), acks=1, store=B)),
        (promise(1, A, B, C), Wanted(B, 2), False, Promise(members=frozenset({A, B, C}), acks=1, store=B)),
        (promise(1, A, B, C), Wanted(B, 1), True, Promise(members=frozenset({B}), store=B)),
    ],
)
def test_what_a_take_over_promises(before: Promise, wanted: Wanted, loss: bool, after: Promise) -> None:
    assert inherited(before, wanted, loss=loss) == after


def test_a_take_over_keeps_that_commits_had_fewer_acknowledgements() -> None:
    assert inherited(promise(1, A, B, degraded_ns=NOW_NS), Wanted(B, 1)).degraded_ns == NOW_NS


def test_only_what_every_possible_lease_says_counts() -> None:
    small, large = promise(1, A, B), promise(1, A, B, C)
    assert in_force([small, large], ONE) == (frozenset({A, B}), False)
    assert in_force([large, promise(0, A, B, C)], ONE) == (frozenset({A}), False)
    thin = replace(small, degraded_ns=NOW_NS)
    assert in_force([thin, small], PREFERRED)[1] is False
    assert in_force([thin, thin], PREFERRED)[1] is True
    assert in_force([thin, thin], ONE)[1] is False


def test_a_zone_that_is_missing_keeps_a_lease_degraded() -> None:
    seen = replace(path(B), enough=False)
    before = promise(1, A, B)
    assert next_promise(before, PREFERRED, seen, short=True, real_ns=NOW_NS) == replace(before, degraded_ns=NOW_NS)
    assert next_promise(replace(before, degraded_ns=5000), PREFERRED, seen, short=False, real_ns=NOW_NS) is None


# -- the elector -----------------------------------------------------------------------


class Primary:
    """An elector that leads, and the Lease as it wrote it."""

    def __init__(self, start: Promise | None = None, **wanted: Any) -> None:
        self.bench = Bench(wanted=Wanted(A, **({"acks": 1} | wanted)))
        bench = self.bench
        bench.local = peer(ME.pod, uid=ME.uid, store=A)
        bench.tick()
        begun = {"promise": start} if start is not None else {}
        bench.read(lease("", 2 if start else 0, released=start is not None, **begun))
        bench.peers(peer(store=B, epoch=3), peer("c-2", store=C, epoch=3), known=2)
        bench.accept(bench.sent())
        self.told = bench.one(m.SetMembers)
        bench.step(m.Opened(bench.elector.epoch, bench.now))

    def look(self, *in_sync: int, short: bool = False, **more: Any) -> list[m.Action]:
        self.bench.wait(0.1)
        seen = replace(path(*in_sync, **more), now=self.bench.now, short=short)
        actions = self.bench.step(seen)
        if self.bench.has(m.SetMembers):
            self.told = self.bench.one(m.SetMembers)
        return actions

    def written(self, *in_sync: int, **more: Any) -> Promise:
        """A look that leads to a request, and its success."""
        self.look(*in_sync, **more)
        sent = self.bench.sent()
        self.bench.accept(sent)
        if self.bench.has(m.SetMembers):
            self.told = self.bench.one(m.SetMembers)
        return sent.promise


def test_a_new_cluster_begins_with_its_primary_and_promises_when_enough_are_there() -> None:
    primary = Primary()
    assert primary.told == m.SetMembers(frozenset({A}), False)
    assert primary.written(B) == promise(0, A, B)
    assert primary.told == m.SetMembers(frozenset({A}), False)
    assert primary.written(B) == promise(1, A, B)
    assert primary.told == m.SetMembers(frozenset({A, B}), False)
    primary.look(B)
    assert not primary.bench.has(m.PutLease)


def test_a_promise_that_may_not_have_been_written_does_not_count() -> None:
    primary = Primary()
    primary.written(B)
    primary.look(B)
    bench, sent = primary.bench, primary.bench.sent()
    bench.step(m.LeaseFailed("no answer", bench.now, bench.now))
    assert sent.promise == promise(1, A, B) and primary.told.members == frozenset({A})
    bench.tick(1)
    bench.read(bench.stored(sent))
    assert bench.one(m.SetMembers).members == frozenset({A, B})


def test_a_member_counts_no_more_before_the_look_that_lets_it_go() -> None:
    primary = Primary(promise(1, A, B, C))
    gone: dict[str, Any] = {"gone": {C}, "spare": {C}, "pods": {A, B}}
    primary.look(B, **gone)
    assert not primary.bench.has(m.PutLease) and primary.told.members == frozenset({A, B})
    assert primary.written(B, **gone) == promise(1, A, B)
    assert primary.told.members == frozenset({A, B})


def test_a_member_counts_again_when_it_cannot_be_let_go() -> None:
    primary = Primary(promise(1, A, B, C))
    primary.look(B, gone={C}, spare={C}, pods={A, B})
    for _ in range(25):
        primary.look(pods={A, B}, gone={C})
        assert not any(
            put.record.promise.members == {A, B} for put in primary.bench.actions if isinstance(put, m.PutLease)
        )
        if primary.bench.has(m.PutLease):
            primary.bench.accept(primary.bench.sent())
    assert primary.told.members == frozenset({A, B, C})


def test_fewer_acknowledgements_will_do_only_after_the_lease_says_so() -> None:
    primary = Primary(promise(1, A, B), preferred=True)
    primary.look(short=True)
    assert primary.bench.sent().promise.degraded_ns is not None and not primary.told.degraded
    primary.bench.accept(primary.bench.sent())
    assert primary.bench.one(m.SetMembers).degraded
    assert primary.bench.one(m.Report).code == "Degraded"


def test_commits_wait_again_before_the_lease_says_so() -> None:
    primary = Primary(promise(1, A, B, degraded_ns=NOW_NS), preferred=True)
    assert primary.told.degraded
    primary.look(B)
    assert not primary.bench.has(m.PutLease) and not primary.told.degraded
    assert primary.written(B) == promise(1, A, B)
    assert m.Report("Degraded", "") in primary.bench.actions


def test_a_lease_that_was_changed_by_somebody_else_gets_the_members_again() -> None:
    primary = Primary(promise(1, A, B))
    bench = primary.bench
    bench.tick(1)
    bench.step(m.LeaseConflict(bench.now))
    bench.read(replace(bench.current, promise=Promise(), resource_version="900"))
    assert bench.one(m.SetMembers).members == frozenset({A})
    assert bench.sent().promise == promise(1, A, B)


def test_nothing_changes_during_a_hand_off() -> None:
    primary = Primary()
    bench = primary.bench
    bench.draining(HandOff("r1", "*"), peer(store=B, txid=3))
    primary.look(B)
    assert not bench.has(m.PutLease)


def test_a_hand_off_makes_its_target_a_member() -> None:
    primary = Primary(promise(1, A, C))
    bench = primary.bench
    bench.draining(HandOff("r1", "c-1"), peer(store=B, txid=3))
    bench.step(m.Drained(bench.now))
    sent = bench.sent()
    assert sent.holder == str(OTHER)
    assert sent.promise == Promise(members=frozenset({A, B, C}), acks=1, store=B)


def test_asynchronous_clusters_have_nothing_of_it_in_their_lease() -> None:
    bench = Bench(wanted=Wanted(A))
    notes = bench.lead().to_object()["metadata"]["annotations"]
    assert not [key for key in notes if key.rpartition("/")[2] in ("members", "acks", "store", "degraded-since")]
    bench.renew()
    assert not bench.has(m.SetMembers)


def test_a_loss_that_was_accepted_is_handled_once_and_members_begin_anew() -> None:
    bench = Bench(3, wanted=Wanted(A, 1))
    bench.local = peer(ME.pod, uid=ME.uid, store=A)
    bound = promise(1, B, C, D)
    bench.tick()
    bench.read(lease("", 3, released=True, promise=bound))
    bench.peers(known=2)
    assert bench.one(m.Report).code == "QuorumLost" and not bench.has(m.PutLease)
    bench.read(lease("", 3, released=True, promise=bound, loss=DataLoss("l1"), resource_version="11"))
    bench.tick(1)
    bench.peers(known=2)
    sent = bench.sent()
    assert (sent.promise, sent.loss_handled, sent.loss) == (promise(0, A), "l1", None)
    bench.accept(sent)
    assert m.Report("QuorumLost", "") in bench.actions


def test_a_permission_that_nobody_needed_is_dropped_unused() -> None:
    primary = Primary(promise(1, A, B))
    primary.bench.renew(loss=DataLoss("l1"))
    primary.bench.tick(1)
    sent = primary.bench.sent()
    assert (sent.loss, sent.loss_handled) == (None, "")


# -- the Lease's texts -------------------------------------------------------------------


def test_a_promise_is_written_as_it_is_read() -> None:
    record = LeaseRecord(promise=promise(2, A, B, C, degraded_ns=NOW_NS), loss=DataLoss("x", "c-1"), loss_handled="w")
    value = record.to_object()
    notes = value["metadata"]["annotations"]
    assert notes["sqlitecluster.dev/members"] == '["000000000000000A","000000000000000B","000000000000000C"]'
    assert notes["sqlitecluster.dev/acks"] == "2"
    assert LeaseRecord.from_object(value) == record


@pytest.mark.parametrize(
    "notes",
    [
        {"members": "x", "acks": "1"},
        {"members": '["xyz"]'},
        {"members": "{}"},
        {"members": "[5]"},
        {"acks": "1"},
        {"members": '["000000000000000A"]', "acks": "1"},
        {"members": '["000000000000000A","000000000000000B"]', "acks": "-1"},
        {"members": '["000000000000000A","000000000000000B"]', "acks": "9999"},
    ],
)
def test_what_is_no_legal_promise_frees_nobody(notes: dict[str, str]) -> None:
    found = Promise.read({f"sqlitecluster.dev/{key}": text for key, text in notes.items()})
    assert found.spoiled


def test_holders_are_told_apart_from_volumes() -> None:
    assert Promise.read({"sqlitecluster.dev/store": str(Holder("c-0", "u"))}).store == 0
