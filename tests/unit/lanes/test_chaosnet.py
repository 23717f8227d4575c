"""What one direction does with packets, by the clock that it is given."""

from __future__ import annotations

import random

from support.chaosnet import CUT, QUEUE_S, Direction, Link
from support.nemesisfaults import CASES, FAULTS, LENGTHS_S, schedule


def direction(link: Link) -> Direction:
    return Direction(random.Random("1"), link)


def test_a_good_direction_is_at_once() -> None:
    assert direction(Link()).due(1000, 5.0) == 5.0


def test_a_cut_direction_carries_nothing() -> None:
    assert [direction(CUT).due(1000, 5.0) for _ in range(50)] == [None] * 50


def test_loss_is_about_what_was_asked_for_and_the_same_again() -> None:
    runs = []
    for _ in range(2):
        one = direction(Link(drop=0.2))
        runs.append([one.due(1, float(t)) is None for t in range(2000)])
    assert 300 < sum(runs[0]) < 500
    assert runs[0] == runs[1]


def test_a_delay_with_jitter_lets_packets_overtake() -> None:
    one = direction(Link(delay_ms=10, jitter_ms=50))
    due = [one.due(100, n / 1000) or 0.0 for n in range(100)]
    assert due != sorted(due)
    assert all(n / 1000 + 0.01 <= at <= n / 1000 + 0.06 for n, at in enumerate(due))


def test_a_narrow_direction_keeps_a_second_and_loses_the_rest() -> None:
    one = direction(Link(rate=1000.0))
    due = [one.due(100, 0.0) for _ in range(20)]
    assert due[:2] == [0.1, 0.2] and due[-1] is None
    assert max(at for at in due if at is not None) <= QUEUE_S


def test_every_case_names_faults_and_is_scheduled_by_its_seed() -> None:
    for case in CASES:
        assert all(name in FAULTS and LENGTHS_S[name] for name in case)
        assert schedule(case, random.Random(7)) == schedule(case, random.Random(7))
    assert {name for case in CASES for name in case} == set(FAULTS)


def test_the_faults_of_a_pair_overlap() -> None:
    for seed in range(50):
        first, second = schedule(("slow", "kill-primary"), random.Random(seed))
        assert first.begin < second.begin < first.end
