"""A few seeds of the simulation; the lane ``election`` runs thousands."""

from __future__ import annotations

import pytest

from support.electionsim import simulate


@pytest.mark.parametrize("seed", range(0, 40, 8))
def test_no_run_breaks_a_rule(seed: int) -> None:
    for number in range(seed, seed + 8):
        outcome = simulate(number)
        assert outcome.violations == []
        assert outcome.openings


def test_a_seed_is_the_same_run_again() -> None:
    assert simulate(7, trace=True).trace == simulate(7, trace=True).trace
