"""Rule 10: hand-offs, from both sides."""

from __future__ import annotations

import pytest

from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import NEVER, SECOND
from sqlitecluster.election.record import HandOff, HandOffResult, LeaseRecord
from support.electionbench import ME, OTHER, Bench, kinds, lease, peer

REQUEST = HandOff("r1", "c-1")


def drained(request: HandOff = REQUEST) -> Bench:
    bench = Bench()
    bench.lead()
    bench.draining(request, peer("c-1", 5, 1))
    bench.wait(0.1).step(m.Drained(bench.now))
    return bench


def test_the_order_of_a_hand_off() -> None:
    bench = Bench()
    bench.lead()
    bench.renew(handoff=REQUEST)
    assert bench.one(m.AskPeers).epoch == 0
    bench.peers(peer("c-1", 5, 1))
    assert (bench.sent().handled, bench.sent().result.phase) == ("r1", "Draining")  # type: ignore[union-attr]
    bench.accept(bench.sent())
    assert bench.one(m.Drain).pod == "c-1"
    assert kinds(bench.step(m.Drained(bench.now))) == ["SetFence", "PutLease"]
    assert (bench.sent().holder, bench.sent().epoch) == (str(OTHER), 2)
    bench.accept(bench.sent())
    assert kinds(bench.actions) == ["Note", "TellTarget", "SetFence", "Demote", "Follow"]


def test_the_fence_is_shut_before_the_swap_is_sent() -> None:
    assert drained().one(m.SetFence).deadline == NEVER


def test_renewals_go_on_while_programs_wait() -> None:
    bench = Bench()
    bench.lead()
    bench.draining(REQUEST, peer("c-1", 5, 1))
    bench.tick(1)
    assert bench.sent().holder == str(ME)
    bench.accept(bench.sent())
    assert bench.left_s() == 6


def test_the_same_id_is_begun_once() -> None:
    bench = Bench()
    bench.lead()
    bench.renew(handoff=REQUEST, handled="r1")
    assert not bench.has(m.AskPeers)


def test_a_target_that_does_not_answer_fails_without_a_pause() -> None:
    bench = Bench()
    bench.lead()
    bench.renew(handoff=REQUEST)
    bench.peers()
    result = bench.sent().result
    assert result is not None
    assert (result.phase, result.message, bench.sent().handled) == ("Failed", "c-1 does not answer", "r1")
    bench.accept(bench.sent())
    assert not bench.has(m.Resume)
    assert bench.elector.transfer is None


def test_a_drain_that_fails_lets_programs_go_on() -> None:
    bench = Bench()
    bench.lead()
    bench.draining(REQUEST, peer("c-1", 5, 1))
    bench.step(m.NotDrained("a transaction did not end", bench.now))
    bench.accept(bench.sent())
    assert bench.has(m.Resume)
    assert bench.left_s() == 6


def lost_target(request: HandOff, *left: m.NodeState) -> Bench:
    """Programs wait, the target does not acknowledge; ``left`` are those that answer then."""
    bench = Bench()
    bench.lead()
    bench.draining(request, peer("c-1", 5, 1))
    bench.wait(0.5).step(m.NotDrained("c-1 went away", bench.now))
    if bench.has(m.AskPeers):
        bench.peers(*left)
    return bench


@pytest.mark.parametrize("request_", [HandOff("r1", "*"), HandOff("r1", "c-0", kind="demote")])
def test_when_the_target_goes_away_another_one_is_taken(request_: HandOff) -> None:
    bench = lost_target(request_, peer("c-1", 5, 1), peer("c-2", 4, 1))
    drained_at = bench.elector.transfer.drained_at  # type: ignore[union-attr]
    bench.accept(bench.sent())
    assert bench.one(m.Drain).pod == "c-2"
    assert bench.elector.transfer.drained_at == drained_at  # type: ignore[union-attr]
    bench.step(m.Drained(bench.now))
    assert bench.sent().pod == "c-2"


def test_when_no_other_target_is_left_programs_go_on() -> None:
    bench = lost_target(HandOff("r1", "*"), peer("c-1", 5, 1))
    result = bench.sent().result
    assert result is not None and (result.phase, result.message) == ("Failed", "c-1 went away")
    bench.accept(bench.sent())
    assert bench.has(m.Resume)


def test_when_a_named_target_goes_away_no_other_one_is_taken() -> None:
    bench = lost_target(REQUEST)
    assert not bench.has(m.AskPeers)
    result = bench.sent().result
    assert result is not None and result.phase == "Failed"


def test_a_stopping_primary_whose_target_stops_too_takes_another_one_or_lets_the_lease_go() -> None:
    for left, then in (((peer("c-2", 5, 1),), "c-2"), ((), "")):
        bench = Bench()
        bench.lead()
        bench.step(m.Terminate(bench.now))
        bench.peers(peer("c-1", 5, 1))
        bench.accept(bench.sent())
        bench.wait(0.5).step(m.NotDrained("c-1 went away", bench.now))
        bench.peers(*left)
        if then:
            bench.accept(bench.sent())
            bench.step(m.Drained(bench.now))
        assert (bench.sent().pod, bench.sent().released) == (then, not then)
        bench.accept(bench.sent())
        assert kinds(bench.actions)[-1] == "Released"


def test_nothing_is_resumed_while_a_swap_could_still_land() -> None:
    bench = drained()
    swap = bench.sent()
    bench.step(m.LeaseFailed("time-out", bench.now, bench.wait(1).now))
    bench.read(lease_of(bench))
    assert not bench.has(m.Resume)
    assert bench.sent().holder == swap.holder  # once more, over the same version


def test_a_swap_whose_answer_was_lost_is_found_by_reading() -> None:
    bench = drained()
    swap = bench.sent()
    bench.step(m.LeaseFailed("time-out", bench.now, bench.wait(1).now))
    bench.read(bench.stored(swap))
    assert bench.one(m.TellTarget).pod == "c-1"
    assert bench.has(m.Demote)


def test_after_a_conflict_the_swap_is_made_over_the_new_version() -> None:
    bench = drained()
    bench.step(m.LeaseConflict(bench.now))
    bench.read(bench.stored(lease_of(bench)))
    assert bench.sent().resource_version == lease_of(bench).resource_version


def test_a_hand_off_that_takes_too_long_is_given_up_by_a_renewal() -> None:
    bench = Bench(switchover_timeout_s=3.0)
    bench.lead()
    bench.draining(REQUEST, peer("c-1", 5, 1))
    bench.tick(3.1)
    assert bench.sent().result.phase == "Failed"  # type: ignore[union-attr]
    bench.accept(bench.sent())
    assert bench.has(m.Resume)


def test_the_best_replica_is_chosen_when_none_is_named() -> None:
    bench = Bench()
    bench.lead()
    bench.renew(handoff=HandOff("r1", "*"))
    bench.peers(peer("c-1", 4, 1), peer("c-2", 5, 1), peer("c-3", 9, 1, candidate=False))
    assert bench.sent().result.target == "c-2"  # type: ignore[union-attr]


def test_demote_keeps_the_old_primary_away_for_a_while() -> None:
    bench = drained(HandOff("r1", "c-0", "demote"))
    assert bench.sent().ineligible == {ME.pod: bench.now.real_ns + 10 * SECOND}
    assert bench.sent().pod == "c-1"


def test_a_hand_off_to_the_primary_itself_is_done_already() -> None:
    bench = Bench()
    bench.lead()
    bench.renew(handoff=HandOff("r1", "c-0"))
    bench.accept(bench.sent())
    assert not bench.has(m.Drain)
    assert bench.current.result.phase == "Completed"  # type: ignore[union-attr]


def test_the_target_takes_over_without_asking_anybody() -> None:
    bench, record = offered()
    assert (bench.sent().holder, bench.sent().epoch) == (str(ME), 4)
    bench.accept(record)
    assert bench.one(m.BecomePrimary).epoch == 4


def test_the_target_writes_the_result_with_the_gap() -> None:
    bench, _ = offered()
    bench.accept(bench.sent())
    bench.step(m.Opened(4, bench.wait(0.05).now))
    result = bench.sent().result
    assert result is not None
    assert (result.phase, result.write_gap_ms, result.duration_ms) == ("Completed", 80, 150)


def test_a_target_that_was_not_told_finds_out_by_itself() -> None:
    bench = Bench(known_epoch=3)
    bench.tick()
    bench.read(lease(OTHER, 3))
    bench.tick(2)
    bench.read(lease(ME, 4, resource_version="11"))
    assert bench.one(m.AskPeers).epoch == 4
    bench.peers(peer("c-1", 5, 4))
    assert bench.sent().epoch == 4


def test_an_invented_offer_ends_at_the_compare_and_swap() -> None:
    bench, _ = offered()
    bench.step(m.LeaseConflict(bench.now))
    assert not bench.elector.is_primary
    bench.read(lease(OTHER, 3, resource_version="12"))
    assert not bench.has(m.BecomePrimary)


def test_a_stopping_primary_hands_over_to_the_best_replica() -> None:
    bench = Bench()
    bench.lead()
    bench.step(m.Terminate(bench.now))
    bench.peers(peer("c-1", 5, 1))
    bench.accept(bench.sent())
    bench.step(m.Drained(bench.now))
    bench.accept(bench.sent())
    assert kinds(bench.actions)[-1] == "Released"


def test_a_stopping_primary_without_others_releases_the_lease() -> None:
    bench = Bench()
    bench.lead()
    bench.step(m.Terminate(bench.now))
    bench.peers()
    assert (bench.sent().holder, bench.sent().released) == ("", True)
    assert bench.accept(bench.sent()) == [m.Released()]


def test_a_stopping_replica_just_ends() -> None:
    bench = Bench(known_epoch=3)
    bench.tick()
    bench.read(lease(OTHER, 3))
    assert bench.step(m.Terminate(bench.now)) == [m.Released()]


def test_the_next_primary_closes_the_record_of_one_that_was_lost() -> None:
    bench = Bench(known_epoch=3)
    bench.tick()
    interrupted = drained().sent().result
    bench.read(lease("", 3, released=True, result=interrupted))
    bench.peers()
    bench.accept(bench.sent())
    bench.step(m.Opened(4, bench.now))
    assert bench.sent().result.phase == "Failed"  # type: ignore[union-attr]


def offered() -> tuple[Bench, LeaseRecord]:
    bench = Bench(known_epoch=3)
    bench.local = peer(ME.pod, 5, 3, uid=ME.uid)
    bench.tick()
    bench.read(lease(OTHER, 3))
    result = HandOffResult("r1", OTHER.pod, ME.pod, "Transferring")
    record = lease(ME, 4, resource_version="11", result=result)
    bench.step(m.HandOffReady(record, 30, 100, bench.now))
    return bench, bench.sent()


def lease_of(bench: Bench) -> LeaseRecord:
    return bench.current
