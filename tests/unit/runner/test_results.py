"""Counts belong to the code that a lane runs: they begin again when that changes, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import results
from runner.jobs import End, Outcome
from runner.plan import Job


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The trees of HEAD, to be changed."""
    known = {f"HEAD:{folder}": f"{number}" * 40 for number, folder in enumerate(results.DEPLOYED)}

    def git(*arguments: str) -> str:
        return known.get(arguments[-1], "another")

    monkeypatch.setattr(results, "_git", git)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return known


def lane(name: str = "some", *, cluster: bool = False) -> Job:
    return Job(name=name, kind="lane", command=("true",), limit_s=1.0, release=10, cluster=cluster)


def count(job: Job) -> int:
    results.add(job, Outcome(job=job, end=End.PASSED, seconds=1.0, done=3, unit="things"))
    return int(results.read(job)["done"])


def test_a_lane_without_a_cluster_is_known_by_the_sidecar(trees: dict[str, str]) -> None:
    assert results.code_id(lane()) == trees["HEAD:sidecar"]


@pytest.mark.parametrize("folder", results.DEPLOYED)
def test_a_lane_with_a_cluster_begins_again_with_anything_that_is_deployed(trees: dict[str, str], folder: str) -> None:
    job = lane(cluster=True)
    assert [count(job), count(job)] == [3, 6]

    trees[f"HEAD:{folder}"] = "f" * 40

    assert results.read(job)["done"] == 0


def test_a_lane_without_a_cluster_goes_on_with_another_operator(trees: dict[str, str]) -> None:
    job = lane()
    count(job)

    trees["HEAD:operator"] = "f" * 40

    assert count(job) == 6


def test_the_folders_are_those_of_this_repository() -> None:
    assert [folder for folder in results.DEPLOYED if not (results.ROOT / folder).is_dir()] == []
