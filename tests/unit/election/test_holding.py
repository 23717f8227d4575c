"""Going on without the API server by agreement: rule 15 of docs/election.md."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import messages as m
from sqlitecluster.election.holding import Agreement, Pledge, still_held
from sqlitecluster.election.instants import NEVER, SECOND, Instant
from sqlitecluster.election.observation import Claim
from sqlitecluster.election.record import MUST_AGREE, HandOff, Holder, LeaseRecord
from sqlitecluster.replicator.election_hold import PledgeFile
from sqlitecluster.store.node import NodeStore
from support.electionbench import ME, OTHER, START, Bench, lease, peer

THIRD = Holder("c-2", "u2")
ONE, TWO = str(OTHER), str(THIRD)
LENGTH = 12 * SECOND


class Holding(Bench):
    """The primary, which two others must let go on."""

    def __init__(self, others: frozenset[str] = frozenset({ONE, TWO}), **settings: Any) -> None:
        super().__init__(hold=True, **settings)
        self.step(m.OthersKnown(others, self.now))
        self.lead()

    def away(self, seconds: float) -> None:
        """Requests fail while time passes; nobody answers questions."""
        for _ in range(round(seconds * 10)):
            self.tick(0.1)
            self.fail()

    def fail(self) -> None:
        if self.has(m.PutLease) or self.has(m.ReadLease):
            actions = self.actions
            self.step(m.LeaseFailed("away", self.now, self.now))
            self.actions = actions + self.actions

    def asked(self, seconds: float = 3.0) -> m.AskPledges:
        """Wait for the question."""
        for _ in range(round(seconds * 10)):
            self.tick(0.1)
            self.fail()
            if self.has(m.AskPledges):
                return self.one(m.AskPledges)
        raise AssertionError("nobody was asked")

    def agree(self, *who: str, sent: Instant | None = None, why: str = "") -> None:
        for one in who:
            self.step(m.PledgeAnswered(one, self.elector.epoch, sent or self.now, self.now, why))


def test_who_must_agree_is_in_the_lease_from_the_first_record_on() -> None:
    bench = Holding()
    assert bench.current.must_agree == {ONE, TWO}
    text = bench.current.to_object()["metadata"]["annotations"][MUST_AGREE]
    assert json.loads(text) == [ONE, TWO]


def test_under_fence_the_list_of_a_former_holder_is_taken_out() -> None:
    bench = Bench()
    bench.tick()
    bench.read(replace(lease("", 4, released=True), must_agree=frozenset({ONE})))
    bench.peers()
    assert bench.sent().must_agree is None
    assert MUST_AGREE not in bench.sent().to_object()["metadata"]["annotations"]


@pytest.mark.parametrize("text", ["nonsense", "{}", "[", "[1, 2]", '"c-1"', "9" * 5000])
def test_a_list_that_is_none_names_nobody_and_still_keeps_others_off(text: str) -> None:
    value = lease(OTHER, 3).to_object()
    value["metadata"]["annotations"][MUST_AGREE] = text
    record = LeaseRecord.from_object(value)
    assert record.must_agree == frozenset()


def test_too_many_to_be_written_down_is_no_agreement() -> None:
    bench = Holding(frozenset(f"c-{n}_{'u' * 36}" for n in range(120)))
    assert bench.current.must_agree is None
    bench.away(7)
    assert not bench.elector.is_primary


def test_nobody_is_asked_while_renewals_go_through() -> None:
    bench = Holding()
    for _ in range(20):
        bench.renew()
        assert not bench.has(m.AskPledges)


def test_the_others_are_asked_well_before_the_fence_and_again_each_retry_period() -> None:
    bench = Holding()
    question = bench.asked()
    assert question == m.AskPledges(1, LENGTH, (ONE, TWO))
    assert bench.left_s() > 4
    asked = bench.now
    bench.asked()
    assert 0.9 <= bench.now.since(asked) / SECOND <= 1.2


def test_all_agree_and_the_fence_moves_on_from_when_they_were_asked() -> None:
    bench = Holding()
    bench.asked()
    sent = bench.now
    bench.wait(0.5)
    bench.agree(ONE, sent=sent)
    assert not bench.has(m.SetFence)
    bench.agree(TWO, sent=sent)
    assert bench.one(m.SetFence).deadline == sent.plus(6 * SECOND)


def test_of_several_answers_the_oldest_question_counts() -> None:
    bench = Holding()
    bench.asked()
    first = bench.now
    bench.agree(ONE)
    bench.wait(1)
    bench.agree(TWO)
    assert bench.one(m.SetFence).deadline == first.plus(6 * SECOND)


def test_a_minute_without_the_api_server_is_no_fence_while_all_agree() -> None:
    bench = Holding()
    reported: list[str] = []
    for _ in range(60):
        bench.asked()
        bench.agree(ONE, TWO)
        reported += [a.message for a in bench.actions if isinstance(a, m.Report) and a.code == "HoldingByAgreement"]
    assert bench.elector.is_open
    assert bench.left_s() > 4.5
    assert bench.elector.is_holding


def test_when_the_api_server_is_back_the_unchanged_lease_is_renewed() -> None:
    bench = Holding()
    for _ in range(20):
        bench.asked()
        bench.agree(ONE, TWO)
    held = bench.current
    bench.tick(1)
    assert bench.has(m.ReadLease)
    bench.read(held)
    assert bench.sent().epoch == 1
    bench.accept(bench.sent())
    assert bench.elector.is_open
    assert m.Report("HoldingByAgreement", "") in bench.actions
    assert not bench.elector.is_holding


def test_when_somebody_else_holds_the_lease_by_then_it_steps_down() -> None:
    bench = Holding()
    for _ in range(20):
        bench.asked()
        bench.agree(ONE, TWO)
    bench.tick(1)
    bench.read(lease(OTHER, 2, resource_version="500"))
    assert not bench.elector.is_primary
    assert bench.one(m.SetFence).deadline == NEVER


@pytest.mark.parametrize("why", ["", "it knows a newer epoch than 1"])
def test_one_that_is_silent_or_refuses_is_the_fence(why: str) -> None:
    bench = Holding()
    began = bench.now
    while bench.elector.is_primary:
        bench.tick(0.1)
        bench.fail()
        if bench.has(m.AskPledges):
            bench.agree(ONE)
            bench.agree(TWO, why=why or "it does not answer")
    assert bench.now.since(began) / SECOND == pytest.approx(6.0, abs=0.2)


def test_the_reason_of_the_fence_names_who_did_not_agree() -> None:
    bench = Holding()
    bench.asked()
    bench.agree(TWO, why="it does not answer")
    reasons = []
    for _ in range(60):
        bench.tick(0.1)
        reasons += [a.reason for a in bench.actions if isinstance(a, m.Demote)]
    assert reasons == ["the lease could not be renewed in time, and c-2: it does not answer"]


def test_an_answer_that_comes_after_the_fence_opens_nothing() -> None:
    bench = Holding()
    bench.asked()
    sent = bench.now
    bench.agree(ONE, sent=sent)
    bench.wait(6)
    bench.agree(TWO, sent=sent)
    assert not bench.elector.is_primary


def test_an_answer_of_another_epoch_counts_for_nothing() -> None:
    bench = Holding()
    bench.asked()
    before = bench.left_s()
    for who in (ONE, TWO):
        bench.step(m.PledgeAnswered(who, 7, bench.now, bench.now))
    assert bench.left_s() == before


@pytest.mark.parametrize("clock", ["boot", "real"])
def test_either_clock_ends_what_was_agreed(clock: str) -> None:
    bench = Holding()
    bench.asked()
    bench.agree(ONE, TWO)
    jump = 7 * SECOND
    now = bench.now
    bench.now = Instant(now.boot_ns + jump * (clock == "boot"), now.real_ns + jump * (clock == "real"))
    bench.tick()
    assert not bench.elector.is_primary


def test_alone_in_its_cluster_it_needs_nobody() -> None:
    bench = Holding(frozenset())
    bench.away(60)
    assert bench.elector.is_open


def test_without_the_policy_or_a_list_nobody_is_asked() -> None:
    for bench in (Bench(), Bench(hold=True)):
        bench.lead()
        for _ in range(70):
            bench.tick(0.1)
            assert not bench.has(m.AskPledges)
        assert not bench.elector.is_primary


def test_a_new_list_binds_together_with_the_old_one_until_it_is_known_to_be_stored() -> None:
    bench = Holding()
    bench.step(m.OthersKnown(frozenset({ONE}), bench.now))
    bench.tick(1)
    assert bench.sent().must_agree == {ONE}
    assert bench.asked().who == (ONE, TWO)
    bench.step(m.OthersKnown(frozenset({ONE, "c-3_u3"}), bench.now))
    bench.tick(0.5)
    bench.read(replace(bench.current, resource_version="900"))
    assert bench.sent().must_agree == {ONE}, "a third list has to wait"
    bench.accept(bench.sent())
    bench.tick(1)
    assert bench.sent().must_agree == {ONE, "c-3_u3"}


def test_once_a_swap_was_sent_nothing_is_held() -> None:
    bench = Holding()
    bench.draining(HandOff("h1", OTHER.pod), peer(OTHER.pod, uid=OTHER.uid))
    bench.step(m.Drained(bench.now))
    swap = bench.sent()
    assert swap.must_agree is None
    bench.step(m.LeaseFailed("away", bench.now, bench.now))
    for _ in range(70):
        bench.tick(0.1)
        assert not bench.has(m.AskPledges)
    assert not bench.elector.is_primary


def test_a_lease_that_is_released_holds_nobody_off() -> None:
    bench = Holding()
    bench.step(m.Terminate(bench.now))
    bench.peers()
    assert bench.sent().released
    assert bench.sent().must_agree is None


def test_the_list_of_a_renewal_whose_reclaim_landed_late_is_not_a_lower_epoch() -> None:
    bench = Holding()
    bench.step(m.NewerEpoch(5, bench.now))
    reclaim = bench.sent()
    assert reclaim.epoch == 6
    bench.step(m.LeaseFailed("away", bench.now, bench.now))
    bench.elector.fence = bench.now.plus(60 * SECOND)  # as if all had agreed meanwhile
    bench.tick(10)
    bench.read(bench.stored(reclaim))
    assert bench.sent().epoch == 7


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


def test_agreement_needs_every_single_one() -> None:
    agreement = Agreement()
    agreement.given(ONE, START)
    assert agreement.since({ONE, TWO}) is None
    agreement.given(TWO, START.plus(5))
    assert agreement.since({ONE, TWO}) == START
    agreement.given(ONE, START.plus(9))
    agreement.given(ONE, START)
    assert agreement.since({ONE, TWO}) == START.plus(5)
    agreement.begin(None, START)
    assert agreement.since({ONE}) is None


def test_the_times_of_the_simulation_without_reserve_hold_as_well() -> None:
    bench = Holding(times=LeaseTimes(duration_s=8, renew_deadline_s=8, margin_ms=0))
    bench.asked()
    bench.agree(ONE, TWO)
    assert bench.left_s() == pytest.approx(8.0)


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
