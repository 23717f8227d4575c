"""Going on without the API server by agreement: rule 15 of docs/election.md."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import messages as m
from sqlitecluster.election.holding import Agreement
from sqlitecluster.election.instants import NEVER, SECOND, Instant
from sqlitecluster.election.record import MUST_AGREE, HandOff, Holder, LeaseRecord
from support.electionbench import OTHER, START, Bench, lease, peer

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
