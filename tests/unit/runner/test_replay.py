"""``--replay LANE:SEED`` is the command that a violation prints."""

from __future__ import annotations

import pytest

from runner import plan


def test_one_run_of_the_lane_with_that_seed() -> None:
    job = plan.replay("nemesis:17")
    assert job.command[-4:] == ("--count", "1", "--seed", "17")
    assert "lanes.nemesis" in job.command


def test_arguments_of_the_lane_stay() -> None:
    job = plan.replay("kills-no-resend:3")
    assert job.command[-5:] == ("--count", "1", "--no-resend", "--seed", "3")


@pytest.mark.parametrize("text", ["nemesis", "nemesis:", "nemesis:x", ":5", "nowhere:5", "nemesis:-1"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"LANE:SEED|no lane"):
        plan.replay(text)
