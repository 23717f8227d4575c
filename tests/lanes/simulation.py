"""Lane: seeds of the deterministic simulation (``support.simulation``), 2,000 operations each.

Three to five nodes with a disk, clocks, a network and an API server that follow the seed;
faults while programs write and read; every oracle of ``support.simulation.oracle`` after
each step and at the end. A seed that fails is a command: ``make replay SEED=simulation:<seed>``.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator

from support import lane
from support.lane import Run
from support.simulation import world
from support.simulation.world import Outcome

OPERATIONS = 2000


def one(seed: int) -> Outcome:
    """One seed, in a process of the pool."""
    logging.disable(logging.CRITICAL)
    try:
        return world.run(seed, operations=OPERATIONS)
    except Exception as error:
        return Outcome(seed, [f"the simulation failed: {error!r}"])


def body(run: Run) -> None:
    """Seeds from ``--seed`` on, one after the other; with ``--count 1`` or ``--only`` one, with its trace."""
    if run.options.only or (run.options.seed is not None and run.wanted == 1):
        run.wanted = 1
        _replay(run, int(run.options.only or run.seed))
        return
    counts: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    with _folder(), multiprocessing.get_context("spawn").Pool(min(2, os.cpu_count() or 1)) as pool:
        for outcome in pool.imap_unordered(one, range(run.seed, run.seed + run.wanted), 2):
            counts += outcome.counts
            modes[outcome.mode] += 1
            _take(run, outcome)
            if len(run.violations) >= 10:
                break
    for mode, seeds in sorted(modes.items()):
        run.say(f"{seeds} seeds {mode}")
    _summary(run, counts)


@contextlib.contextmanager
def _folder() -> Iterator[None]:
    """One place for all simulated disks; it goes when the lane ends, however that is."""
    with tempfile.TemporaryDirectory(prefix="sqlitecluster-sim-", dir=world.in_memory()) as folder:
        os.environ[world.FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[world.FOLDER_VARIABLE]


def _replay(run: Run, seed: int) -> None:
    logging.disable(logging.CRITICAL)
    outcome = world.run(seed, operations=OPERATIONS, trace=True)
    print("\n".join(outcome.trace))
    run.say(f"{outcome.mode}, trace {outcome.digest}")
    _summary(run, outcome.counts)
    _take(run, outcome)


def _summary(run: Run, counts: Counter[str]) -> None:
    for group in ("write", "read", "fault"):
        found = {name: n for name, n in sorted(counts.items()) if name.startswith(group)}
        run.say(f"{sum(found.values())} {group}s: " + ", ".join(f"{name} {n}" for name, n in found.items()))
    others = {n: c for n, c in sorted(counts.items()) if not n.startswith(("write", "read", "fault"))}
    run.say(", ".join(f"{name} {n}" for name, n in others.items()))


def _take(run: Run, outcome: Outcome) -> None:
    for text in outcome.violations[:1]:
        run.violation(f"{text} ({outcome.mode})\nmake replay SEED=simulation:{outcome.seed}")
    run.count()


def main() -> int:
    """Entry of ``python -m lanes.simulation``."""
    return lane.run_lane(lane.parse("simulation", "seeds", 60, None), body)


if __name__ == "__main__":
    sys.exit(main())
