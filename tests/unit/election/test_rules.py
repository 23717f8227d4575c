"""The rules of docs/election.md, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import NEVER, SECOND, Instant
from sqlitecluster.election.machine import ElectorSettings
from sqlitecluster.election.record import Holder
from support.electionbench import ME, OTHER, START, Bench, lease, peer


def follower(record: object = None, known: int = 3, **settings: object) -> Bench:
    bench = Bench(known, **settings)
    bench.tick()
    bench.read(lease(OTHER, 3) if record is None else record)  # type: ignore[arg-type]
    return bench


def test_an_elector_first_reads_the_lease() -> None:
    assert Bench().tick() == [m.ReadLease()]


def test_rule_2_the_fence_counts_from_the_sending_of_the_renewal() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    sent = bench.now
    bench.accept(bench.sent(), took_s=0.9)
    assert bench.one(m.SetFence).deadline == sent.plus(6 * SECOND)


def test_rule_2_an_answer_that_comes_after_the_fence_opens_nothing() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    record = bench.sent()
    bench.accept(record, took_s=6)
    assert not bench.elector.is_primary
    assert bench.one(m.Demote).reason == "the lease could not be renewed in time"
    assert bench.one(m.SetFence).deadline == NEVER


def test_rule_1_a_suspended_machine_finds_its_fence_shut() -> None:
    bench = Bench()
    bench.lead()
    bench.now = Instant(bench.now.boot_ns + 7 * SECOND, bench.now.real_ns)
    assert bench.has(m.Demote) or m.Demote in [type(a) for a in bench.tick()]


def test_rule_1_a_machine_that_stood_still_finds_its_fence_shut() -> None:
    bench = Bench()
    bench.lead()
    bench.now = Instant(bench.now.boot_ns, bench.now.real_ns + 7 * SECOND)
    bench.tick()
    assert bench.has(m.Demote)


def test_rule_4_a_held_lease_is_taken_only_after_its_own_duration_and_the_margin() -> None:
    bench = follower(lease(OTHER, 3, duration_s=20))
    for _ in range(20):
        bench.tick(1)
        bench.read(lease(OTHER, 3, duration_s=20))
        assert not bench.has(m.AskPeers)
    bench.tick(1)
    assert bench.one(m.AskPeers).epoch == 4


def test_rule_4_each_sign_of_life_starts_the_wait_anew() -> None:
    bench = follower()
    bench.tick(12)
    bench.read(lease(OTHER, 3, renew_real_ns=START.real_ns, resource_version="11"))
    bench.tick(12)
    bench.read(lease(OTHER, 3, renew_real_ns=START.real_ns, resource_version="11"))
    assert not bench.has(m.AskPeers)


def test_rule_4_an_annotation_of_the_operator_is_no_sign_of_life() -> None:
    bench = follower()
    bench.tick(12)
    bench.read(lease(OTHER, 3, resource_version="11", handled="x"))
    bench.tick(1.1)
    assert bench.has(m.AskPeers)


@pytest.mark.parametrize(
    ("record", "known", "at_once"),
    [
        (lease("", 0), 0, True),
        (lease("", 3, released=True, renew_real_ns=1), 3, True),
        (lease("", 3, renew_real_ns=1), 3, False),
        (lease("", 0), 3, False),
        (lease("", 3, released=True), 4, False),
        (lease(OTHER, 3), 3, False),
        (lease(Holder(ME.pod, "another"), 3), 3, False),
    ],
    ids=["never held", "released", "emptied by hand", "made again", "set back", "held", "namesake"],
)
def test_which_lease_may_be_taken_at_once(record: object, known: int, at_once: bool) -> None:
    bench = follower(record, known)
    assert bench.has(m.AskPeers) == at_once
    bench.tick(13)
    bench.read(record)  # type: ignore[arg-type]
    assert at_once or bench.has(m.AskPeers)


def test_an_empty_lease_after_a_deletion_is_not_free() -> None:
    bench = follower()
    bench.tick(2)
    bench.read(None)
    bench.tick(1.1)
    bench.read(lease("", 3, uid="lease-2", released=True))
    assert not bench.has(m.AskPeers)


def test_rule_5_every_write_carries_the_version_that_was_read() -> None:
    bench = Bench()
    record = bench.lead()
    bench.tick(1)
    assert bench.sent().resource_version == record.resource_version


def test_rule_5_a_conflict_is_resolved_by_reading_at_once() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    assert bench.step(m.LeaseConflict(bench.now)) == [m.ReadLease()]


def test_rule_5_a_lost_answer_is_found_again_and_counts_from_its_sending() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    sent, record = bench.now, bench.sent()
    bench.wait(1)
    bench.step(m.LeaseFailed("time-out", sent, bench.now))
    assert bench.has(m.ReadLease)
    bench.read(bench.stored(record))
    assert bench.one(m.SetFence).deadline == sent.plus(6 * SECOND)


def test_rule_5_a_take_over_with_a_lost_answer_is_never_assumed() -> None:
    bench = Bench()
    bench.tick()
    bench.read(lease())
    bench.peers()
    bench.step(m.LeaseFailed("time-out", bench.now, bench.wait(1).now))
    assert not bench.elector.is_primary


def test_rule_6_the_epoch_is_above_the_lease_this_node_and_what_peers_say() -> None:
    bench = follower(lease("", 3, released=True), known=3)
    bench.local = peer(ME.pod, 9, 5, uid=ME.uid)
    bench.peers(peer("c-1", 0, 7), peer("c-2", 4, 2))
    assert bench.sent().epoch == 8
    assert bench.sent().holder == str(ME)


def test_rule_6_a_lower_epoch_in_the_lease_makes_the_primary_write_a_higher_one() -> None:
    bench = Bench(known_epoch=6)
    bench.lead(7)
    bench.tick(1)
    bench.step(m.LeaseConflict(bench.now))
    bench.read(lease(OTHER, 4, resource_version="200"))
    assert (bench.sent().epoch, bench.sent().holder) == (8, str(ME))
    bench.accept(bench.sent())
    assert bench.one(m.BecomePrimary).epoch == 8


def test_a_higher_epoch_of_another_holder_ends_the_role_at_once() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    bench.step(m.LeaseConflict(bench.now))
    bench.read(lease(OTHER, 2, resource_version="200"))
    assert bench.one(m.Demote).reason == "c-1 holds the Lease in epoch 2"
    assert bench.one(m.Follow).pod == "c-1"


def test_rule_7_a_new_epoch_is_made_durable() -> None:
    bench = follower(lease(OTHER, 9), known=3)
    assert bench.one(m.Note).epoch == 9
    assert bench.one(m.Follow) == m.Follow("c-1", "10.0.0.1:20202", 9)


def test_rule_8_a_holder_in_an_older_epoch_is_followed_when_it_lives() -> None:
    bench = Bench(known_epoch=9)
    bench.tick()
    bench.read(lease(OTHER, 3))
    assert not bench.has(m.Follow)
    bench.tick(2)
    bench.read(lease(OTHER, 3, renew_real_ns=START.real_ns, resource_version="11"))
    assert bench.one(m.Follow).epoch == 3


def test_rule_8_a_primary_that_hears_of_a_newer_epoch_begins_one_above() -> None:
    bench = Bench()
    bench.lead()
    bench.step(m.NewerEpoch(7, bench.now))
    assert (bench.sent().epoch, bench.sent().holder) == (8, str(ME))


def test_rule_7_an_epoch_that_this_node_promised_to_another_is_not_begun() -> None:
    bench = Bench()
    bench.tick()
    bench.read(lease())
    bench.peers()
    bench.elector.promised(1)
    bench.accept(bench.sent())
    assert not bench.has(m.BecomePrimary)


def test_rule_9_a_candidate_behind_a_reachable_better_one_waits_a_bounded_time() -> None:
    bench = follower(lease("", 3, released=True))
    for _ in range(6):
        bench.peers(peer("c-1", 9, 3))
        assert not bench.has(m.PutLease)
        bench.tick(0.51)
    bench.read(lease("", 3, released=True))
    bench.peers(peer("c-1", 9, 3))
    assert bench.sent().epoch == 4


def test_rule_9_a_better_one_that_may_not_lead_is_not_waited_for() -> None:
    bench = follower(lease("", 3, released=True))
    bench.peers(peer("c-1", 9, 3, candidate=False))
    assert bench.has(m.PutLease)


def test_a_peer_with_an_open_fence_is_the_primary_whatever_the_lease_says() -> None:
    bench = follower(lease("", 3, released=True))
    bench.peers(peer("c-1", 1, 3, fence_ms=2000))
    assert not bench.has(m.PutLease)


def test_an_empty_node_does_not_begin_a_new_history() -> None:
    bench = follower(lease("", 3, released=True))
    bench.local = m.NodeState(pod=ME.pod, uid=ME.uid)
    bench.peers(known=1)
    assert bench.one(m.Report).code == "EmptyNode"
    assert not bench.has(m.PutLease)


def test_data_of_another_cluster_never_take_the_lease() -> None:
    bench = follower(lease("", 3, released=True, cluster_id="LFSC1"))
    bench.peers()
    assert bench.one(m.Report).code == "ClusterMismatch"


def test_rule_11_a_process_that_was_started_anew_takes_a_new_epoch() -> None:
    bench = follower(lease(ME, 3), known=3)
    bench.peers()
    assert bench.sent().epoch == 4


def test_rule_11_a_pod_that_was_made_anew_is_somebody_else() -> None:
    bench = follower(lease(Holder(ME.pod, "old"), 3), known=3)
    assert not bench.has(m.AskPeers)


def test_rule_11_ones_own_name_in_an_old_copy_is_no_right() -> None:
    bench = follower(lease(ME, 3, renew_real_ns=START.real_ns - 3600 * SECOND), known=3)
    assert not bench.has(m.AskPeers)


def test_a_renewal_that_a_frozen_server_carries_out_late_does_not_keep_its_sender_away() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    record, sent = bench.sent(), bench.now
    bench.wait(1)
    bench.step(m.LeaseFailed("time-out", sent, bench.now))
    bench.tick(20)
    assert not bench.elector.is_primary
    bench.read(bench.stored(record))
    assert bench.one(m.AskPeers).epoch == 2


def test_rule_12_a_missing_lease_is_never_made_and_writing_ends_at_the_fence() -> None:
    bench = Bench()
    bench.lead()
    for _ in range(5):
        bench.tick(1)
        bench.step(m.LeaseConflict(bench.now)) if bench.has(m.PutLease) else None
        bench.read(None)
        assert bench.elector.is_primary
        assert not bench.has(m.PutLease)
    bench.tick(1.1)
    assert bench.has(m.Demote)


def test_a_lease_that_was_made_again_is_taken_back_within_the_fence() -> None:
    bench = Bench()
    bench.lead()
    bench.tick(1)
    bench.step(m.LeaseConflict(bench.now))
    bench.read(None)
    bench.tick(1.1)
    bench.read(lease("", 1, uid="lease-2", resource_version="300"))
    assert (bench.sent().epoch, bench.sent().uid) == (2, "lease-2")


def test_the_failover_delay_is_added_for_a_holder_that_was_lost() -> None:
    bench = follower(failover_delay_s=5.0)
    bench.tick(14)
    bench.read(lease(OTHER, 3))
    assert not bench.has(m.AskPeers)
    bench.tick(4.1)
    bench.read(lease(OTHER, 3))
    assert bench.has(m.AskPeers)


def test_who_is_no_candidate_takes_nothing() -> None:
    assert not follower(lease(), 0, candidate=False).has(m.AskPeers)


def test_an_ineligible_node_waits_until_its_time_is_over() -> None:
    record = lease("", 3, released=True, ineligible={ME.pod: START.real_ns + 10 * SECOND})
    bench = follower(record)
    assert not bench.has(m.AskPeers)
    bench.tick(10.1)
    bench.read(record)
    assert bench.has(m.AskPeers)


def test_a_node_that_cannot_open_gives_the_lease_back() -> None:
    bench = Bench()
    bench.tick()
    bench.read(lease())
    bench.peers()
    bench.accept(bench.sent())
    bench.step(m.NotOpened(1, "disk", bench.now))
    assert bench.has(m.Demote)
    assert (bench.sent().holder, bench.sent().released) == ("", True)


def test_an_older_answer_does_not_undo_a_newer_one() -> None:
    bench = Bench()
    bench.lead()
    old = replace(bench.current, holder=str(OTHER), epoch=9, resource_version="1")
    bench.step(m.LeaseRead(old, NEVER, bench.now))
    assert bench.elector.is_primary


def test_a_renewal_never_repeats_the_moment_of_the_record_before() -> None:
    bench = Bench()
    record = bench.lead()
    bench.now = Instant(bench.now.boot_ns + SECOND, record.renew_real_ns or 0)
    bench.step(m.Tick(bench.now))
    assert bench.sent().renew_real_ns != record.renew_real_ns


@pytest.mark.parametrize(
    ("times", "word"),
    [
        (LeaseTimes(), ""),
        (LeaseTimes(duration_s=7, renew_deadline_s=7), "durationS"),
        (LeaseTimes(renew_deadline_s=2.5), "renewDeadlineS"),
    ],
)
def test_unsafe_times_are_named(times: LeaseTimes, word: str) -> None:
    assert ElectorSettings(me=ME, times=times).problem().startswith(word)
    assert bool(word) == bool(ElectorSettings(me=ME, times=times).problem())
