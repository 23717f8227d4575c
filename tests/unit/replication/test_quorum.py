"""Which acknowledgements count."""

from __future__ import annotations

import pytest

from sqlitecluster.replication.position import Position
from sqlitecluster.replication.quorum import AckTable

P1, P2, OTHER = Position(1, 11), Position(2, 22), Position(1, 99)


def table(acks: int = 1, *replicas: int) -> AckTable:
    made = AckTable(acks)
    for replica in replicas:
        made.join(replica)
    return made


def test_one_acknowledgement_commits() -> None:
    acks = table(1, 7, 8)
    acks.expect("a", P1)
    assert not acks.is_committed("a")
    acks.note(7, "a", P1)
    assert acks.is_committed("a")


def test_two_are_needed_when_two_are_asked_for() -> None:
    acks = table(2, 7, 8)
    acks.expect("a", P1)
    acks.note(7, "a", P1)
    assert not acks.is_committed("a")
    acks.note(8, "a", P1)
    assert acks.is_committed("a")


def test_another_history_does_not_count() -> None:
    acks = table(1, 7)
    acks.expect("a", P1)
    acks.note(7, "a", OTHER)
    assert not acks.is_committed("a")


def test_a_larger_position_of_another_history_does_not_count() -> None:
    acks = table(1, 7)
    acks.note(7, "a", Position(9, 99))
    acks.expect("a", P1)
    assert not acks.is_committed("a")


def test_a_claim_from_before_the_transaction_makes_a_replica_trusted_only_at_our_position() -> None:
    acks = table(1, 7)
    acks.expect("a", P1)
    acks.note(7, "a", P1)
    acks.expect("a", P2)
    assert not acks.is_committed("a")
    acks.note(7, "a", Position(3, 33))
    assert acks.is_committed("a")


def test_what_a_replica_said_before_it_was_asked_counts_when_it_is_our_position() -> None:
    acks = table(1, 7)
    acks.note(7, "a", P1)
    acks.expect("a", P1)
    assert acks.is_committed("a")


def test_a_new_stream_begins_with_nothing() -> None:
    acks = table(1, 7)
    acks.expect("a", P1)
    acks.note(7, "a", P1)
    acks.leave(7)
    acks.join(7)
    assert not acks.is_committed("a")


def test_only_members_count() -> None:
    acks = table(1, 7, 8)
    acks.set_members(frozenset({8, 9}))
    acks.expect("a", P1)
    acks.note(7, "a", P1)
    assert not acks.is_committed("a")
    acks.note(8, "a", P1)
    assert acks.is_committed("a")


@pytest.mark.parametrize(
    ("own", "zones", "enough"),
    [
        ("", ("x", "x"), False),
        ("", ("x", "y"), True),
        ("x", ("x", "y"), False),
        ("", ("", ""), True),
        ("z", ("x", ""), True),
    ],
)
def test_of_one_zone_one_counts(own: str, zones: tuple[str, str], enough: bool) -> None:
    acks = AckTable(2, own)
    for replica, zone in enumerate(zones):
        acks.join(replica, zone)
        acks.note(replica, "a", P1)
    acks.expect("a", P1)
    assert acks.is_committed("a") is enough
    assert acks.can_commit is enough


def test_in_sync_means_every_database() -> None:
    acks = table(1, 7, 8)
    acks.expect("a", P1)
    acks.expect("b", P2)
    acks.note(7, "a", P1)
    acks.note(8, "a", P1)
    acks.note(8, "b", P2)
    assert acks.in_sync() == {8}
    assert not acks.enough_without(8)
    assert acks.enough_without(7)


def test_without_enough_connections_nothing_can_be_committed() -> None:
    acks = table(2, 7)
    assert not acks.can_commit
    acks.join(8)
    assert acks.can_commit


def test_no_acknowledgement_is_needed_when_none_is_asked_for() -> None:
    acks = table(0)
    acks.expect("a", P1)
    assert acks.can_commit and acks.is_committed("a")
