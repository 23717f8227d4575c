"""``python -m runner``: all tests, and one verdict as the last line.

    python -m runner                 unit tests and every lane, with the counts of tests/budget.toml
    python -m runner --check         format, lint, types, contracts and unit tests without mounts
    python -m runner --only NAME …   some of them
    python -m runner --replay LANE:SEED   one run of a lane again, as a violation names it
    python -m runner --soak MINUTES  go on with the lanes towards the release counts; docs/results/

The exit code is not zero if anything failed or did not run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from runner import plan, results
from runner.jobs import Outcome, run_job, say, what_failed
from runner.plan import Job
from runner.shared import SharedCluster, local_cluster

LOGS = plan.ROOT / "build" / "test-logs"
SLICE = {False: 3, True: 5}
"""How many budgets of a lane a soak runs at once; more on the shared cluster, which takes time to start."""


def choose(options: argparse.Namespace) -> list[Job]:
    """The jobs of this run."""
    if options.check:
        jobs = [*plan.static_checks(), *plan.unit_groups(quick=True)]
    else:
        jobs = [*plan.unit_groups(), *plan.lanes()]
    if options.only:
        everything = {job.name: job for job in [*plan.static_checks(), *plan.unit_groups(), *plan.lanes()]}
        unknown = [name for name in options.only if name not in everything]
        if unknown:
            sys.exit(f"no such test: {', '.join(unknown)}; there are: {', '.join(everything)}")
        jobs = [everything[name] for name in options.only]
    return jobs


def table(outcomes: list[Outcome], missing: list[Job]) -> str:
    """The final table: both counts of each lane."""
    rows = [("", "done", "release", "seconds", "")]
    for outcome in outcomes:
        done = f"{outcome.done:,} {outcome.unit}" if outcome.job.kind == "lane" else ""
        release = f"{outcome.job.release:,}" if outcome.job.kind == "lane" else ""
        mark = outcome.end.value + (f", {outcome.violations} violations" if outcome.violations else "")
        mark += " (ran again after a time-out)" if outcome.again else ""
        rows.append((outcome.job.name, done, release, f"{outcome.seconds:.0f}", mark))
    rows += [(job.name, "", "", "", "DID NOT RUN") for job in missing]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{name:<{widths[0]}}  {done:<{widths[1]}}  {release:>{widths[2]}}  {seconds:>{widths[3]}}  {mark}".rstrip()
        for name, done, release, seconds, mark in rows
    )


def run_all(jobs: list[Job]) -> int:
    """Run jobs one after the other; the verdict is the last line."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    shared = SharedCluster(local_cluster, say)
    try:
        for number, job in enumerate(jobs, 1):
            say(f"— {number} of {len(jobs)}: {job.name}")
            shared.before(job)
            outcomes.append(run_job(job, LOGS))
            shared.after(jobs[number:])
    except KeyboardInterrupt:
        say("interrupted")
    finally:
        shared.after([])
    missing = jobs[len(outcomes) :]
    failed = sum(not outcome.passed for outcome in outcomes) + len(missing)
    print(f"\n{table(outcomes, missing)}\n")
    for outcome in outcomes:
        if not outcome.passed:
            print(f"{outcome.job.name}:", *what_failed(outcome.job, LOGS), sep="\n    ")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes; logs in {LOGS}")
    print(f"{len(jobs) - failed} passed, {failed} failed", flush=True)
    return 1 if failed or not jobs else 0


def soak(minutes: float, jobs: list[Job]) -> int:
    """Go on with lanes, the least finished first, until the time is over or all counts are reached."""
    until = time.monotonic() + minutes * 60
    broken: set[str] = set()
    shared = SharedCluster(local_cluster, say)
    while time.monotonic() < until:
        open_jobs = [job for job in jobs if job.name not in broken and results.read(job)["done"] < job.release]
        if not open_jobs:
            say("every lane has its release count")
            break
        job = min(open_jobs, key=lambda j: results.read(j)["done"] / j.release)
        done = results.read(job)["done"]
        shared.before(job)
        outcome = run_job(job.with_count(min(job.release - done, job.budget * SLICE[job.cluster]), done), LOGS)
        known = results.add(job, outcome)
        say(f"{job.name}: {known['done']:,} of {job.release:,}, {known['violations']} violations in all")
        if not outcome.passed:
            broken.add(job.name)
    shared.after([])
    print()
    failed = 0
    for job in jobs:
        known = results.read(job)
        failed += bool(known["violations"]) or job.name in broken
        counts = f"{known['done']:,} of {job.release:,} {known.get('unit', '')}"
        print(f"{job.name}: {counts}, {known['violations']} violations")
    print(f"{len(jobs) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main() -> int:
    """Entry of ``python -m runner``."""
    parser = argparse.ArgumentParser(prog="python -m runner", description="Run the tests.")
    parser.add_argument("--check", action="store_true", help="the quick part")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some lanes or groups")
    parser.add_argument("--list", action="store_true", help="print what there is")
    parser.add_argument("--replay", metavar="LANE:SEED", help="one run of a lane again")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="go on towards the release counts")
    options = parser.parse_args()
    try:
        jobs = [plan.replay(options.replay)] if options.replay else choose(options)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{job.kind:6} {job.name}" for job in jobs))
        return 0
    shutil.rmtree(LOGS, ignore_errors=True)
    Path(LOGS).mkdir(parents=True)
    if options.soak is not None:
        return soak(options.soak, [job for job in jobs if job.kind == "lane"])
    return run_all(jobs)


if __name__ == "__main__":
    sys.exit(main())
