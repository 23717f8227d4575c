"""The rule for candidates: with V members and n acknowledgements V - n of them must answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sqlitecluster.election import messages as m
from sqlitecluster.election.candidacy import judge
from sqlitecluster.election.observation import Claim
from sqlitecluster.election.promise import DataLoss, Promise
from sqlitecluster.election.quorum import lacking, obstacle
from sqlitecluster.election.record import LeaseRecord
from support import quorumtable
from support.electionbench import START, lease

DOCS = Path(__file__).parents[3] / "docs" / "election.md"
A, B, C, D = 0xA, 0xB, 0xC, 0xD


def node(store: int, txid: int = 5, epoch: int = 4, **more: Any) -> m.NodeState:
    """A volume's answer to a candidate of epoch 4; its last transaction is of epoch 3."""
    positions = {"db": (3, txid)} if txid else {}
    values: dict[str, Any] = {"positions": positions, "cluster_id": "LFSC"}
    return m.NodeState(pod=f"c-{store:x}", uid="u", epoch=epoch, store=store, **(values | more))


def promised(acks: int = 1, *members: int, **more: Any) -> LeaseRecord:
    """A Lease of epoch 3, held by the volume A."""
    promise = Promise(members=frozenset(members or (A, B, C)), acks=acks, store=A)
    return lease("c-a_u", 3, promise=replace(promise, **more))


def answers(local: m.NodeState, *peers: m.NodeState, known: int = 2, asked: int = 4) -> m.PeersAnswered:
    return m.PeersAnswered(local, peers, known, START, asked, frozenset({"c-a_u", "c-b_u", "c-c_u"}))


def why(record: LeaseRecord, answer: m.PeersAnswered, acks: int = 1) -> str:
    return obstacle(record, answer, acks)


def test_one_of_three_is_not_enough_and_the_message_says_who_is_missing() -> None:
    text = why(promised(), answers(node(B)))
    assert "2 of the 3 members" in text and "1 answer; missing" in text
    assert "000000000000000A, 000000000000000C" in text and "no answer from c-a, c-c" in text


def test_two_of_three_are_enough() -> None:
    assert why(promised(), answers(node(B), node(C))) == ""


def test_a_candidate_that_is_no_member_needs_as_many_members() -> None:
    assert why(promised(), answers(node(D), node(B))) != ""
    assert why(promised(), answers(node(D), node(B), node(C))) == ""


def test_a_wiped_volume_is_another_one_and_does_not_count() -> None:
    assert why(promised(), answers(node(B), node(D, 0))) != ""


def test_only_the_newest_of_those_that_count_takes_over() -> None:
    assert "c-c holds more of db" in why(promised(), answers(node(B, 5), node(C, 6)))
    assert why(promised(), answers(node(C, 6), node(B, 5))) == ""


def test_a_longer_tail_of_an_older_epoch_is_not_newer() -> None:
    older = node(C, positions={"db": (2, 99)})
    assert why(promised(), answers(node(B, 5), older)) == ""


def test_more_in_one_database_and_less_in_another_has_something_to_fetch_first() -> None:
    one, two = node(B, positions={"x": (3, 5), "y": (3, 1)}), node(C, positions={"x": (3, 4), "y": (3, 2)})
    assert "holds more of y" in why(promised(), answers(one, two))
    assert "holds more of x" in why(promised(), answers(two, one))
    assert lacking(promised(), answers(one, two)) == (m.Lack("c-c", "y", (3, 2)),)
    verdict = judge(Claim.FREE, promised(), answers(one, two), 3, acks=1)
    assert (verdict.epoch, verdict.code, verdict.lacks) == (0, "QuorumLost", (m.Lack("c-c", "y", (3, 2)),))


def test_what_is_to_be_fetched_is_the_newest_of_each_database() -> None:
    one = node(B, positions={"x": (3, 5)})
    two, three = node(C, positions={"x": (3, 6), "y": (3, 1)}), node(D, positions={"x": (3, 7)})
    lacks = lacking(promised(1, A, B, C, D), answers(one, two, three, known=3))
    assert lacks == (m.Lack("c-d", "x", (3, 7)), m.Lack("c-c", "y", (3, 1)))


def test_nothing_is_fetched_from_who_still_takes_older_epochs() -> None:
    assert lacking(promised(), answers(node(B, 5), node(C, 6, epoch=3))) == ()
    assert lacking(promised(), answers(node(B, 5), node(C, 6), asked=3)) == ()


def test_where_nothing_was_promised_what_is_lacking_is_fetched_but_holds_nobody_up() -> None:
    one, two = node(B, positions={"x": (3, 5), "y": (3, 1)}), node(C, positions={"x": (3, 3), "y": (3, 2)})
    verdict = judge(Claim.FREE, promised(0), answers(one, two), 3)
    assert (verdict.epoch, verdict.lacks) == (5, (m.Lack("c-c", "y", (3, 2)),))


def test_an_answer_that_is_no_promise_does_not_count() -> None:
    assert why(promised(), answers(node(B), node(C, epoch=3))) != ""


def test_answers_from_before_the_newest_holder_do_not_count() -> None:
    assert why(promised(), answers(node(B, epoch=4), node(C, epoch=4), asked=3)) != ""


def test_the_last_holders_own_volume_needs_nobody() -> None:
    assert why(promised(), answers(node(A))) == ""


def test_nothing_promised_binds_nobody() -> None:
    assert why(promised(0), answers(node(B))) == ""
    assert why(lease("c-a_u", 3), answers(node(B))) == ""


def test_the_lease_counts_and_not_the_own_configuration() -> None:
    assert why(promised(1), answers(node(B)), acks=0) != ""
    assert why(promised(1), answers(node(B), node(C)), acks=2) == ""


def test_a_degraded_lease_binds_nobody() -> None:
    assert why(promised(degraded_ns=1_800_000_000_000_000_000), answers(node(B))) == ""


@pytest.mark.parametrize(
    "record",
    [
        lease("", 3, renew_real_ns=None),
        promised(spoiled=True),
        replace(promised(), epoch=2),
    ],
    ids=["made-again", "spoiled", "set-back"],
)
def test_a_lease_that_does_not_say_needs_every_pod(record: LeaseRecord) -> None:
    assert "every other pod must answer" in why(record, answers(node(B), node(C), known=3))
    assert why(record, answers(node(B), node(C), known=1)) == ""
    assert "holds more" in why(record, answers(node(B), node(C, 6), known=1))


def test_a_degraded_lease_that_was_set_back_still_needs_every_pod() -> None:
    record = replace(promised(degraded_ns=5000), epoch=2)
    assert "every other pod" in why(record, answers(node(B)))


def test_a_cluster_without_acknowledgements_is_not_asked_for_them() -> None:
    assert why(lease("", 3, renew_real_ns=None), answers(node(B)), acks=0) == ""


def test_the_verdict_is_quorum_lost_with_what_to_do() -> None:
    verdict = judge(Claim.EXPIRED, promised(), answers(node(B)), 3, acks=1)
    assert (verdict.epoch, verdict.code) == (0, "QuorumLost")
    assert "sqlitecluster.dev/promote=accept-data-loss" in verdict.reason


def test_a_hand_off_needs_no_quorum() -> None:
    record = replace(promised(), holder="c-b_u")
    assert judge(Claim.OFFERED, record, answers(node(B)), 3, acks=1).epoch == 5


@pytest.mark.parametrize(
    ("loss", "handled", "takes"),
    [
        (DataLoss("1", ""), "", True),
        (DataLoss("1", "*"), "", True),
        (DataLoss("1", "c-b"), "0", True),
        (DataLoss("1", "c-c"), "", False),
        (DataLoss("1", ""), "1", False),
        (None, "", False),
    ],
)
def test_a_person_may_accept_the_loss_once(loss: DataLoss | None, handled: str, takes: bool) -> None:
    record = replace(promised(), loss=loss, loss_handled=handled)
    verdict = judge(Claim.EXPIRED, record, answers(node(B)), 3, acks=1)
    assert (verdict.epoch > 0, verdict.loss) == (takes, takes)


def test_a_permission_that_is_not_needed_changes_nothing() -> None:
    record = replace(promised(), loss=DataLoss("1"))
    verdict = judge(Claim.EXPIRED, record, answers(node(B), node(C)), 3, acks=1)
    assert (verdict.epoch, verdict.loss) == (5, False)


@pytest.mark.parametrize(
    ("replicas", "acks", "take_over", "by_itself"),
    [(1, 1, 1, 0), (2, 1, 1, 1), (2, 2, 2, 0), (4, 2, 2, 2), (4, 1, 1, 1)],
)
def test_losses_survived(replicas: int, acks: int, take_over: int, by_itself: int) -> None:
    found = quorumtable.survived(replicas, acks)
    assert (found.take_over, found.by_itself) == (take_over, by_itself)


def test_the_table_of_the_document_is_what_trying_all_losses_gives() -> None:
    assert quorumtable.table() in DOCS.read_text()
