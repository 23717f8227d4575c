"""The simulation repeats itself, and finds what is planted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.simulation.faults import KINDS
from support.simulation.planted import BUGS
from support.simulation.world import Outcome, World, run

ROOT = Path(__file__).resolve().parents[3]
FAULTS: dict[str, Sequence[str]] = {
    "fence-off": ("pause",),
    "acknowledged-before-fsync": ("power",),
    "epoch-unchecked": KINDS,
    "quorum-miscounted": ("partition", "slow", "kill", "one-way"),
    "committed-to-ignored": ("slow", "one-way", "kill", "partition"),
    "commit-unseen": ("kill",),
}
"""Each bug needs its own kind of trouble to show; these make it show soon."""
SEEDS: dict[str, Sequence[int]] = {
    "fence-off": (2, 4, 5, 13),
    "acknowledged-before-fsync": (3, 5, 8, 9),
    "epoch-unchecked": (1, 2, 4),
    "quorum-miscounted": (9, 30, 31),
    "committed-to-ignored": (5, 13),
    "commit-unseen": (1, 3),
}
"""The first that finds it is enough: what production code draws from chance moves when it changes."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def troubled(bug: str, seed: int) -> Outcome:
    def change(world: World) -> None:
        world.kinds, world.rest_s = FAULTS[bug], 8.0

    return run(seed, operations=600, change=change)


@pytest.mark.parametrize("bug", FAULTS)
def test_a_planted_bug_is_found(bug: str) -> None:
    with BUGS[bug]():
        assert any(troubled(bug, seed).violations for seed in SEEDS[bug])


@pytest.mark.parametrize("bug", FAULTS)
def test_without_it_the_same_seed_shows_nothing(bug: str) -> None:
    outcome = troubled(bug, SEEDS[bug][0])
    assert outcome.violations == []
    assert outcome.counts["write: acked"] > 50


def test_the_same_seed_has_the_same_trace_in_another_process() -> None:
    text = (
        "import logging; logging.disable(50)\n"
        "from support.simulation.world import run; o = run(77, operations=300); print(o.digest, o.counts.total())"
    )

    def digest(salt: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([sys.executable, "-c", text], env=env, cwd=ROOT, check=True, capture_output=True).stdout

    assert digest("1") == digest("2")


def test_other_seeds_have_other_traces() -> None:
    assert len({run(seed, operations=50).digest for seed in (1, 2, 3)}) == 3
