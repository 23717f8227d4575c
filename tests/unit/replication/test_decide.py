"""What a primary sends, for every relation of two positions."""

from __future__ import annotations

import pytest

from sqlitecluster.replication.decide import Decision, Next, Ours, Reason, Send, decide
from sqlitecluster.replication.position import ZERO, Position

OURS = Ours(Position(10, 0xAA), 5)
DROPPED = Ours(Position(10, 1 << 63), 0)


@pytest.mark.parametrize(
    ("theirs", "ours", "following", "expected"),
    [
        pytest.param(Position(10, 0xAA), OURS, None, Decision(Send.NOTHING), id="equal"),
        pytest.param(ZERO, None, None, Decision(Send.NOTHING), id="neither-has-it"),
        pytest.param(Position(3, 1), None, None, Decision(Send.UNKNOWN), id="only-the-replica-has-it"),
        pytest.param(Position(3, 1), Ours(ZERO, 0), None, Decision(Send.UNKNOWN), id="primary-has-an-empty-one"),
        pytest.param(Position(8, 0x11), OURS, Next(9, 0x11), Decision(Send.TRANSACTIONS), id="behind"),
        pytest.param(Position(8, 0x11), OURS, Next(5, 0x99), Decision(Send.TRANSACTIONS), id="inside-a-merged-file"),
        pytest.param(ZERO, OURS, Next(1, 0), Decision(Send.TRANSACTIONS), id="new-replica-whole-chain-stored"),
        pytest.param(ZERO, OURS, None, Decision(Send.SNAPSHOT, Reason.NEW), id="new-replica-chain-gone"),
        pytest.param(Position(2, 1), OURS, None, Decision(Send.SNAPSHOT, Reason.MISSING), id="retention-was-faster"),
        pytest.param(Position(2, 1), OURS, Next(5, 1), Decision(Send.SNAPSHOT, Reason.MISSING), id="a-gap"),
        pytest.param(
            Position(8, 0x12), OURS, Next(9, 0x11), Decision(Send.SNAPSHOT, Reason.OTHER_HISTORY), id="other-past"
        ),
        pytest.param(
            Position(10, 0xAB), OURS, None, Decision(Send.SNAPSHOT, Reason.OTHER_HISTORY), id="same-txid-other-content"
        ),
        pytest.param(
            Position(8, 0x11), OURS, Next(9, 0x11, True), Decision(Send.SNAPSHOT, Reason.CHEAPER), id="a-huge-file"
        ),
        pytest.param(Position(11, 1), OURS, None, Decision(Send.SNAPSHOT, Reason.AHEAD), id="ahead"),
        pytest.param(ZERO, DROPPED, Next(1, 0), Decision(Send.NOTHING), id="dropped-before-the-replica-was-born"),
        pytest.param(Position(9, 1), DROPPED, Next(10, 1), Decision(Send.TRANSACTIONS), id="the-drop-is-in-the-chain"),
        pytest.param(Position(3, 1), DROPPED, None, Decision(Send.DROP, Reason.MISSING), id="dropped-long-ago"),
        pytest.param(Position(12, 1), DROPPED, None, Decision(Send.DROP, Reason.AHEAD), id="dropped-and-ahead"),
    ],
)
def test_decision(theirs: Position, ours: Ours | None, following: Next | None, expected: Decision) -> None:
    assert decide(theirs, ours, following) == expected


def test_a_replica_that_asks_gets_a_snapshot_even_at_an_equal_position() -> None:
    assert decide(OURS.position, OURS, None, resync=True) == Decision(Send.SNAPSHOT, Reason.ASKED)


def test_only_a_divergence_makes_a_tail_worth_keeping() -> None:
    assert [r for r in Reason if r.diverged] == [Reason.AHEAD, Reason.OTHER_HISTORY]
