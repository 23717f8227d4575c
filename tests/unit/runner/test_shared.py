"""The cluster that lanes share: started once, ended by whom it was started."""

from __future__ import annotations

import pytest

from runner.plan import Job
from runner.shared import SharedCluster


class Fake:
    def __init__(self, *, up: bool, breaks: bool = False) -> None:
        self.running = up
        self.breaks = breaks
        self.calls: list[str] = []

    def is_up(self) -> bool:
        return self.running

    def up(self) -> None:
        self.calls.append("up")
        if self.breaks:
            raise RuntimeError("no")
        self.running = True

    def down(self) -> None:
        self.calls.append("down")
        self.running = False


def job(cluster: bool) -> Job:
    return Job(name="x", kind="lane", command=("true",), limit_s=1, cluster=cluster)


def run(fake: Fake, needs: list[bool]) -> list[str]:
    """Do what the runner does; "job" marks each job among the calls."""
    shared = SharedCluster(lambda: fake, lambda text: fake.calls.append("said"))
    jobs = [job(need) for need in needs]
    for number, each in enumerate(jobs, 1):
        shared.before(each)
        fake.calls.append("job")
        shared.after(jobs[number:])
    shared.after([])
    return fake.calls


@pytest.mark.parametrize(
    "needs, calls",
    [
        ([False, False], ["job", "job"]),
        ([False, True, True, False], ["job", "up", "job", "job", "down", "job"]),
        ([True, False, True], ["up", "job", "job", "job", "down"]),
    ],
)
def test_it_runs_from_the_first_lane_that_needs_it_to_the_last(needs: list[bool], calls: list[str]) -> None:
    assert run(Fake(up=False), needs) == calls


def test_a_cluster_that_was_running_goes_on() -> None:
    assert run(Fake(up=True), [True, True]) == ["job", "job"]


def test_a_start_that_fails_is_said_and_left_to_the_lanes() -> None:
    assert run(Fake(up=False, breaks=True), [True]) == ["up", "said", "job", "down"]
