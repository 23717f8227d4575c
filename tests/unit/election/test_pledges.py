"""Promises not to take over: who gives one, what it forbids, what others make of it, and restarts."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import pytest

from sqlitecluster.election import messages as m
from sqlitecluster.election.holding import Pledge, still_held
from sqlitecluster.election.instants import SECOND, Instant
from sqlitecluster.election.observation import Claim
from sqlitecluster.election.record import Holder, LeaseRecord
from sqlitecluster.replicator.election_hold import PledgeFile
from sqlitecluster.store.node import NodeStore
from support.electionbench import ME, OTHER, START, Bench, lease, peer

THIRD = Holder("c-2", "u2")
ONE, TWO = str(OTHER), str(THIRD)
LENGTH = 12 * SECOND


# -- who is asked ----------------------------------------------------------------------


def candidate(record: LeaseRecord | None = None, known: int = 3) -> Bench:
    bench = Bench(known)
    bench.tick()
    bench.read(record if record is not None else lease(OTHER, 3))
    return bench


def ask(bench: Bench, holder: Holder = OTHER, epoch: int = 3, length: int = LENGTH) -> Pledge | str:
    bench.elector.promised(bench.elector.seen.known_epoch)
    return bench.elector.asked_to_pledge(str(holder), epoch, length, bench.now)


def test_a_pledge_binds_for_the_duration_and_the_own_margin() -> None:
    bench = candidate()
    given = ask(bench)
    assert given == Pledge(ONE, 3, 13 * SECOND, bench.now.boot_ns + 13 * SECOND)


def test_no_take_over_until_it_has_run_out_however_long_the_lease_was_unchanged() -> None:
    bench = candidate()
    bench.wait(10)
    ask(bench)
    for _ in range(25):
        bench.tick(0.5)
        if bench.has(m.ReadLease):
            bench.read(lease(OTHER, 3))
        assert not bench.has(m.AskPeers)
    bench.tick(0.6)
    if bench.has(m.ReadLease):
        bench.read(lease(OTHER, 3))
    assert bench.has(m.AskPeers)


def test_an_answer_of_the_peers_that_comes_after_the_pledge_takes_nothing() -> None:
    bench = candidate()
    bench.tick(13.5)
    bench.read(lease(OTHER, 3))
    assert bench.has(m.AskPeers)
    assert isinstance(ask(bench), Pledge)
    bench.peers()
    assert not bench.has(m.PutLease)


def test_a_second_pledge_never_shortens_the_first() -> None:
    bench = candidate()
    ask(bench)
    until = bench.now.boot_ns + 13 * SECOND
    bench.wait(1)
    assert ask(bench, THIRD, 4, SECOND) == Pledge(TWO, 4, 2 * SECOND, until)


@pytest.mark.parametrize(
    ("holder", "epoch", "length", "why"),
    [
        (OTHER, 2, LENGTH, "it knows a newer epoch than 2"),
        (THIRD, 3, LENGTH, "the Lease names c-1"),
        (ME, 3, LENGTH, "it is the primary itself"),
        (OTHER, 3, 0, "it is asked for too long a time"),
        (OTHER, 3, 3601 * SECOND, "it is asked for too long a time"),
    ],
)
def test_what_is_refused(holder: Holder, epoch: int, length: int, why: str) -> None:
    assert ask(candidate(), holder, epoch, length) == why


def test_a_released_lease_is_no_reason_to_let_its_holder_go_on() -> None:
    assert ask(candidate(lease("", 3, released=True))) == "the Lease names nobody"


def test_a_node_that_does_not_see_the_lease_agrees() -> None:
    bench = Bench(3)
    assert isinstance(ask(bench), Pledge)


def test_a_take_over_that_is_under_way_or_may_still_land_is_refused() -> None:
    bench = candidate()
    bench.tick(13.5)
    bench.read(lease(OTHER, 3))
    bench.peers()
    assert bench.has(m.PutLease)
    assert ask(bench, epoch=9) == "it is about to take over"
    bench.step(m.LeaseFailed("away", bench.now, bench.now))
    assert ask(bench, epoch=9) == "it is about to take over"
    bench.read(lease(OTHER, 3, resource_version="77"))
    assert isinstance(ask(bench), Pledge)


def outrun() -> Bench:
    """Its take-over was refused: another one was faster."""
    bench = candidate()
    bench.tick(13.5)
    bench.read(lease(OTHER, 3))
    bench.peers()
    assert bench.has(m.PutLease)
    bench.step(m.LeaseConflict(bench.now))
    assert ask(bench, epoch=9) == "it is about to take over"
    bench.read(lease(THIRD, 4, resource_version="78"))
    return bench


def test_who_lost_the_race_for_a_lease_agrees_to_the_winner() -> None:
    assert isinstance(ask(outrun(), THIRD, 4), Pledge)


def test_who_lost_the_race_for_a_lease_can_stop_at_once() -> None:
    assert outrun().step(m.Terminate(START)) == [m.Released()]


def test_a_primary_does_not_agree_to_another_one() -> None:
    bench = Bench()
    bench.lead()
    assert ask(bench, epoch=9) == "it is the primary itself"


PLEDGE = Pledge(ONE, 3, 13 * SECOND, START.boot_ns + 13 * SECOND)


@pytest.mark.parametrize(
    ("claim", "epoch", "me", "after_s", "binds"),
    [
        (Claim.EXPIRED, 3, ME, 12.9, True),
        (Claim.EXPIRED, 3, ME, 13.0, False),
        (Claim.EXPIRED, 9, ME, 1.0, True),
        (Claim.RESTART, 3, ME, 1.0, True),
        (Claim.RESTART, 3, OTHER, 1.0, False),
        (Claim.FREE, 2, ME, 1.0, True),
        (Claim.FREE, 3, ME, 1.0, False),
        (Claim.OFFERED, 4, ME, 1.0, False),
    ],
)
def test_when_a_pledge_binds(claim: Claim, epoch: int, me: Holder, after_s: float, binds: bool) -> None:
    now = START.plus(int(after_s * SECOND))
    assert PLEDGE.binds(str(me), claim, lease(OTHER, epoch), now) is binds


# -- what others need to know ----------------------------------------------------------


def judge(claim: Claim, needed: set[str] | None, *peers: m.NodeState, pods: AbstractSet[str] = frozenset()) -> bool:
    record = replace(lease(OTHER, 3), must_agree=frozenset(needed) if needed is not None else None)
    local = peer(ME.pod, uid=ME.uid)
    return bool(still_held(claim, record, m.PeersAnswered(local, peers, 2, START, 4, frozenset(pods))))


FREE_TWO = peer("c-2", uid="u2", epoch=4)
BOUND_TWO = replace(FREE_TWO, pledged_to=ONE, pledged_ms=1)
LISTED, STRANGERS = {str(ME), TWO}, {TWO}


@pytest.mark.parametrize(
    ("claim", "needed", "peers", "held"),
    [
        (Claim.EXPIRED, None, (), False),
        (Claim.EXPIRED, None, (BOUND_TWO,), True),
        (Claim.EXPIRED, LISTED, (), False),
        (Claim.EXPIRED, LISTED, (BOUND_TWO,), True),
        (Claim.RESTART, LISTED, (BOUND_TWO,), True),
        (Claim.FREE, LISTED, (BOUND_TWO,), False),
        (Claim.OFFERED, STRANGERS, (), False),
        (Claim.EXPIRED, STRANGERS, (), True),
        (Claim.EXPIRED, STRANGERS, (FREE_TWO,), False),
        (Claim.EXPIRED, STRANGERS, (replace(FREE_TWO, epoch=3),), True),
        (Claim.EXPIRED, STRANGERS, (replace(FREE_TWO, uid="u9"),), True),
        (Claim.EXPIRED, STRANGERS, (peer("c-1", uid="u1", epoch=4),), False),
        (Claim.EXPIRED, set(), (FREE_TWO,), True),
        (Claim.EXPIRED, STRANGERS, (replace(FREE_TWO, pledged_to=str(ME), pledged_ms=9),), False),
        (Claim.EXPIRED, LISTED, (replace(FREE_TWO, pledged_to="", pledged_ms=9),), True),
    ],
)
def test_whether_the_holder_may_still_write(
    claim: Claim, needed: set[str] | None, peers: tuple[m.NodeState, ...], held: bool
) -> None:
    assert judge(claim, needed, *peers) is held


@pytest.mark.parametrize(
    ("pods", "held"),
    [
        (set(), True),
        ({str(ME)}, False),
        ({str(ME), TWO}, True),
        ({str(ME), ONE}, True),
        ({"c-1_new", "c-2_new"}, False),
    ],
)
def test_when_nobody_of_the_list_exists_any_more_a_new_pod_may_lead(pods: set[str], held: bool) -> None:
    assert judge(Claim.EXPIRED, {TWO}, pods=pods) is held


def test_a_pod_that_is_not_on_the_list_asks_softly_before_older_epochs_are_refused() -> None:
    record = replace(lease(OTHER, 3), must_agree=frozenset({TWO}))
    bench = candidate(record)
    bench.tick(13.5)
    bench.read(record)
    assert bench.one(m.AskPeers).epoch == 0
    bench.peers(replace(BOUND_TWO, epoch=3))
    assert not bench.has(m.AskPeers)
    bench.tick(1)
    assert bench.one(m.AskPeers).epoch == 0
    bench.peers(replace(FREE_TWO, epoch=3))
    assert bench.one(m.AskPeers).epoch == 4
    bench.peers(FREE_TWO)
    assert bench.sent().epoch == 5


# -- across restarts -------------------------------------------------------------------


def test_a_restarted_node_is_bound_until_the_same_moment(tmp_path: Path) -> None:
    store = NodeStore(tmp_path)
    PledgeFile(store).write(PLEDGE)
    assert PledgeFile(store).read(START.plus(5 * SECOND), SECOND) == PLEDGE
    store.close()


def test_after_a_boot_of_the_machine_it_waits_for_the_whole_time(tmp_path: Path) -> None:
    store = NodeStore(tmp_path)
    PledgeFile(store).write(PLEDGE)
    path = tmp_path / "pledge"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": 1}))
    now = Instant(3 * SECOND, START.real_ns)
    assert PledgeFile(store).read(now, SECOND) == replace(PLEDGE, until_ns=16 * SECOND)
    store.close()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"holder": 1, "lengthNs": "x"}'])
def test_a_file_that_cannot_be_read_binds_to_nobody_in_particular(tmp_path: Path, text: str) -> None:
    store = NodeStore(tmp_path)
    (tmp_path / "pledge").write_text(text)
    found = PledgeFile(store).read(START, 13 * SECOND)
    assert found == Pledge("", 0, 13 * SECOND, START.boot_ns + 13 * SECOND)
    assert found.binds(ONE, Claim.EXPIRED, lease(OTHER, 3), START)
    store.close()


def test_a_node_that_promised_nothing_is_free(tmp_path: Path) -> None:
    store = NodeStore(tmp_path)
    assert PledgeFile(store).read(START, SECOND) is None
    store.close()
