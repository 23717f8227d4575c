"""What all lanes share: their command line, counting, violations, folder and ending.

A lane is a module with ``LANE`` and a ``main``. It prints progress and ends with the
line ``<lane>: <n> of <wanted> <unit>, <v> violations``. Exit codes: 0 complete and no
violation, 1 otherwise, 75 could not start (may be run again), 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from support import processes
from support.cluster import Cluster, ClusterStartError

EXIT_VIOLATION = 1
EXIT_NOT_STARTED = 75
EXIT_INTERRUPTED = 130
FOLDER_VARIABLE = "SQLITECLUSTER_LANE_DIR"

Case = Callable[["Run"], None]
Given = TypeVar("Given")


@dataclass(slots=True)
class Run:
    """One run of a lane."""

    name: str
    unit: str
    wanted: int
    seed: int
    folder: Path
    done: int = 0
    violations: list[str] = field(default_factory=list)
    options: argparse.Namespace = field(default_factory=argparse.Namespace)
    _shared: Cluster | None = None
    _folders: int = 0

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"[{self.name}] {text}", flush=True)

    def count(self, amount: int = 1) -> None:
        """Count work that was done and checked."""
        self.done += amount

    def violation(self, text: str) -> None:
        """Something that must never be was seen."""
        self.violations.append(text)
        print(f"[{self.name}] VIOLATION: {text}", flush=True)

    def rng(self, salt: object = "") -> random.Random:
        """Randomness that depends on the seed only."""
        return random.Random(f"{self.seed}/{salt}")

    def new_folder(self, label: str) -> Path:
        """An empty folder below the run's."""
        self._folders += 1
        path = self.folder / f"{self._folders}-{label}"[:40]
        path.mkdir(parents=True)
        return path

    @contextmanager
    def cluster(self, label: str = "cluster", nodes: int = 2, **options: object) -> Iterator[Cluster]:
        """A cluster of this case alone."""
        with Cluster(self.new_folder(label), nodes, **options) as made:
            yield made

    def shared(self) -> Cluster:
        """The two-node cluster that ordinary cases share (each with databases of its own)."""
        if self._shared is None:
            cluster = Cluster(self.new_folder("shared"))
            self._shared = cluster
            cluster.start()
        return self._shared

    def drop_shared(self) -> None:
        """Stop the shared cluster; the next case gets a fresh one."""
        if self._shared is not None:
            cluster, self._shared = self._shared, None
            if not cluster.stop():
                self.violation(f"the cluster did not stop cleanly:\n{cluster.log_tails()}")


def parse(name: str, unit: str, default: int, more: Callable[[argparse.ArgumentParser], None] | None) -> Run:
    """Read the command line of a lane."""
    parser = argparse.ArgumentParser(prog=f"python -m lanes.{name}")
    parser.add_argument("--count", type=int, default=default, help=f"{unit} to do (default: %(default)s)")
    parser.add_argument("--skip", type=int, default=0, help="cases that were done before: begin behind them")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run")
    parser.add_argument("--only", metavar="CASE", help="one case")
    parser.add_argument("--list", action="store_true", help="print the cases")
    if more is not None:
        more(parser)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    return Run(name, unit, options.count, seed, Path(), options=options)


def run_lane(run: Run, body: Callable[[Run], None]) -> int:
    """Run a lane's body with a folder, and always clean up; returns the exit code."""
    if run.options.list:
        print(f"{run.name} has no named cases")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    run.folder = _make_folder(run.name)
    began = time.monotonic()
    print(f"[{run.name}] seed {run.seed}, folder {run.folder}", flush=True)
    code = 0
    try:
        body(run)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except ClusterStartError as error:
        print(f"[{run.name}] could not start: {error}", flush=True)
        code = EXIT_NOT_STARTED
    except Exception:
        run.violation(f"the lane failed:\n{traceback.format_exc()}")
    finally:
        run.drop_shared()
        _clear(run)
    if not code and (run.violations or run.done < run.wanted):
        code = EXIT_VIOLATION
    print(f"[{run.name}] took {time.monotonic() - began:.1f} s", flush=True)
    print(f"{run.name}: {run.done} of {run.wanted} {run.unit}, {len(run.violations)} violations", flush=True)
    return code


def run_cases(run: Run, cases: dict[str, Case]) -> None:
    """Run named cases one after the other, round and round up to the count."""
    if run.options.only:
        if run.options.only not in cases:
            sys.exit(f"no case {run.options.only!r}; see --list")
        run.wanted = 1
        names: Sequence[str] = [run.options.only]
    else:
        names = list(cases)
    while run.done + len(run.violations) < run.wanted:
        run_case(run, names[(run.options.skip + run.done + len(run.violations)) % len(names)], cases)


def run_case(run: Run, name: str, cases: dict[str, Case]) -> None:
    """Run one case; an unexpected end of it is a violation, and the next one starts afresh."""
    began = time.monotonic()
    before = len(run.violations)
    try:
        cases[name](run)
    except ClusterStartError:
        raise
    except Exception as error:
        tails = run._shared.log_tails() if run._shared else ""
        text = str(error) if type(error) is AssertionError and str(error) else traceback.format_exc()
        run.violation(f"case {name}: {text}\n{_where(error)}{tails}")
        run.drop_shared()
    if len(run.violations) == before:
        run.count()
        run.say(f"ok   {name} ({time.monotonic() - began:.1f} s)")
    else:
        del run.violations[before + 1 :]  # one case is one violation; all were printed


def lane_main(name: str, unit: str, cases: dict[str, Case]) -> int:
    """``main`` of a lane that is a list of cases."""
    run = parse(name, unit, len(cases), None)
    if run.options.list:
        print("\n".join(cases))
        return 0
    return run_lane(run, lambda r: run_cases(r, cases))


def rounds_main(run: Run, rounds: Iterable[str], body: Callable[[Run], None]) -> int:
    """``main`` of a lane whose kinds of rounds have names; ``run`` comes from ``parse``."""
    if run.options.list:
        print("\n".join(rounds))
        return 0
    return run_lane(run, body)


@contextmanager
def memory_folder(run: Run) -> Iterator[Path]:
    """A folder on a file system in memory where there is one; nothing is logged meanwhile."""
    logging.disable(logging.CRITICAL)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix=f"sqlitecluster-{run.name}-", dir=memory if memory.is_dir() else run.folder))
    try:
        yield folder
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def scene_main(
    name: str, unit: str, cases: Mapping[str, Callable[[Given, Run], None]],
    scene: Callable[[Run], AbstractContextManager[Given]],
) -> int:  # fmt: skip
    """``main`` of a lane whose cases share one scene, which each of them is given first."""

    def body(run: Run) -> None:
        with scene(run) as given:
            run_cases(run, {title: partial(case, given) for title, case in cases.items()})

    return rounds_main(parse(name, unit, len(cases), None), cases, body)


def registry() -> tuple[dict[str, Case], Callable[[Case], Case]]:
    """A table of cases, and the decorator that fills it (the function's name is the case's)."""
    cases: dict[str, Case] = {}

    def case(function: Case) -> Case:
        cases[function.__name__.replace("_", "-")] = function
        return function

    return cases, case


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(f"    at {Path(f.filename).name}:{f.lineno} {f.line}\n" for f in frames[-4:])


def _make_folder(name: str) -> Path:
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        return Path(given).resolve()
    return Path(tempfile.mkdtemp(prefix=f"sqlitecluster-{name}-")).resolve()


def _clear(run: Run) -> None:
    for line in processes.clear(run.folder):
        print(f"[{run.name}] {line}", flush=True)
    if os.environ.get("KEEP") == "1":
        print(f"[{run.name}] kept {run.folder}", flush=True)
    else:
        shutil.rmtree(run.folder, ignore_errors=True)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
