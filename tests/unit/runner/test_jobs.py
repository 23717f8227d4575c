"""The runner: what counts as passed, and what is run a second time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runner.jobs import End, Outcome, run_job, what_failed
from runner.plan import Job

LIMIT_S = 120.0


def lane(script: str, *, limit_s: float = LIMIT_S) -> Job:
    command = (sys.executable, "-u", "-c", script, "--count", "5")
    return Job(name="made-up", kind="lane", command=command, limit_s=limit_s, budget=5, release=10)


def run(script: str, logs: Path, *, limit_s: float = LIMIT_S) -> Outcome:
    return run_job(lane(script, limit_s=limit_s), logs)


def test_a_complete_lane_without_violations_passes(tmp_path: Path) -> None:
    outcome = run("print('made-up: 5 of 5 things, 0 violations')", tmp_path)
    assert (outcome.end, outcome.done, outcome.unit) == (End.PASSED, 5, "things")


@pytest.mark.parametrize(
    "script",
    [
        "print('made-up: 4 of 5 things, 0 violations')",
        "print('made-up: 5 of 5 things, 1 violations')",
        "print('made-up: 5 of 5 things, 0 violations'); raise SystemExit(1)",
        "print('nothing at the end')",
        "raise RuntimeError('broken')",
    ],
)
def test_anything_else_fails_and_is_not_repeated(script: str, tmp_path: Path) -> None:
    outcome = run(script, tmp_path)
    assert (outcome.end, outcome.again) == (End.FAILED, False)


def test_a_violation_is_never_repeated_even_if_the_lane_could_not_go_on(tmp_path: Path) -> None:
    outcome = run("print('made-up: 2 of 5 things, 1 violations'); raise SystemExit(75)", tmp_path)
    assert (outcome.passed, outcome.again) == (False, False)


def test_a_lane_that_could_not_start_is_run_once_more(tmp_path: Path) -> None:
    marker = tmp_path / "second"
    script = (
        f"import pathlib, sys\nmarker = pathlib.Path({str(marker)!r})\n"
        "if not marker.exists():\n    marker.touch()\n    sys.exit(75)\n"
        "print('made-up: 5 of 5 things, 0 violations')\n"
    )
    outcome = run(script, tmp_path)
    assert (outcome.end, outcome.again) == (End.PASSED, True)


def test_a_lane_that_hangs_is_ended_and_run_once_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run("print('made-up begins'); import time; time.sleep(600)", tmp_path, limit_s=1.0)
    assert (outcome.end, outcome.again) == (End.TIMED_OUT, True)
    assert "made-up begins" in capsys.readouterr().out


def test_a_failed_lane_shows_the_end_of_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("print('first'); print('\\n'.join(f'line {i}' for i in range(100))); raise SystemExit(1)", tmp_path)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    | ")]
    assert len(shown) == 60 and shown[-1] == "    | line 99"


def test_a_lane_with_another_count_gets_more_time() -> None:
    longer = lane("").with_count(15)
    assert (longer.command[-1], longer.limit_s, longer.budget) == ("15", 3 * LIMIT_S, 15)


def test_the_verdict_can_name_each_violation_with_the_lines_that_follow_it(tmp_path: Path) -> None:
    script = (
        "print('[made-up] VIOLATION: lost\\nrow 7'); print('x\\n' * 70); print('made-up: 4 of 5 things, 1 violations')"
    )
    run(script, tmp_path)
    assert [text.splitlines()[:2] for text in what_failed(lane(script), tmp_path)] == [
        ["[made-up] VIOLATION: lost", "row 7"]
    ]


def test_without_a_violation_it_names_what_pytest_says(tmp_path: Path) -> None:
    script = "print('FAILED tests/a.py::test_b'); print('1 failed'); raise SystemExit(1)"
    run(script, tmp_path)
    assert what_failed(lane(script), tmp_path) == ["FAILED tests/a.py::test_b"]
