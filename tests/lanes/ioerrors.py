"""Calls of the disk that fail: the n-th, once or from then on, with every error; and disks that are full.

store     traces of a store's work (``support.faultwork``), each call of each trace in turn
capture   commits of a program on a primary (``support.capturefaults``), one fault each
full      a real file system of a few MiB that is full (needs root)

python -m lanes.ioerrors --count 504
python -m lanes.ioerrors --only full
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.capturefaults import CaptureFaults
from support.faultwork import ERRORS, Fault, count_calls, injected
from support.lane import Run, memory_folder, parse, rounds_main
from support.storeoracle import Boot, Wrong
from support.storetrace import Profile

LANE: Final = "ioerrors"
FULL_DISKS: Final = 24
_SHARE_FULL: Final = 126
"""Of so many, one is a full disk: 24 of 3,024."""
_SHARE_CAPTURE: Final = 5
"""Of so many faults, one is in capture."""
_KINDS: Final = (*ERRORS, "short write")
_STEPS: Final = {"append": 10, "sync": 4, "cut": 4, "spare": 2, "flush": 1}
STORE: Final[dict[str, Profile]] = {
    "log": Profile(_STEPS, databases=2, count=8),
    "joins": Profile(_STEPS | {"files": 6, "join": 6}, count=6),
    "retention": Profile(_STEPS | {"files": 6, "join": 4, "retain": 6}, count=6),
    "large": Profile(_STEPS | {"append_file": 8}, count=7),
    "replica": Profile(_STEPS | {"show": 8, "retain": 3}, count=8, replica=True),
}


class Lane:
    """The whole run."""

    def __init__(self, run: Run, memory: Path, boot: Boot) -> None:
        self._run, self._memory, self._boot = run, memory, boot
        self.by_kind: Counter[str] = Counter()

    def go(self) -> None:
        run = self._run
        full = 0 if run.options.only == "store" else max(1, min(FULL_DISKS, run.wanted // _SHARE_FULL))
        if run.options.only == "full":
            full = run.wanted
        captures = 0 if run.options.only == "store" else (run.wanted - full) // _SHARE_CAPTURE
        if run.options.only == "capture":
            full, captures = 0, run.wanted
        self._captures(captures)
        number = 0
        while run.done + len(run.violations) < run.wanted - full and len(run.violations) < 20:
            self._sweep(number, run.wanted - full)
            number += 1
        for each in range(full):
            self._full(each)
        run.say(", ".join(f"{count} {kind}" for kind, count in sorted(self.by_kind.items())))

    # -- the n-th call ----------------------------------------------------------------

    def _sweep(self, number: int, wanted: int) -> None:
        """One trace: every call of it fails once, with an error by chance."""
        name = list(STORE)[number % len(STORE)]
        seed = f"{self._run.seed}/{number}"
        with self._place() as folder:
            calls = count_calls(folder, STORE[name], seed, self._boot)
        rng = random.Random(f"{seed}/order")
        order = rng.sample(range(1, calls + 1), calls)
        share = max(12, wanted // 20)
        for nth in order[:share]:
            if self._run.done + len(self._run.violations) >= wanted:
                return
            kind = rng.choice(_KINDS)
            fault = Fault(nth, ERRORS.get(kind, 0), for_ever=rng.random() < 0.4)
            self._inject(name, seed, kind, fault, f"trace {number}, call {nth} of {calls}")

    def _inject(self, name: str, seed: str, kind: str, fault: Fault, where: str) -> None:
        mode = "for ever" if fault.for_ever else "once"
        try:
            with self._place() as folder, self._place() as scratch:
                came = injected(folder, lambda: _new(scratch), STORE[name], seed, self._boot, fault)
        except Wrong as error:
            self._wrong(f"{name}, {where}, {kind} {mode} ({fault.last}): {error}")
        except Exception:
            self._wrong(f"{name}, {where}, {kind} {mode} ({fault.last}):\n{traceback.format_exc()}")
        else:
            if came:
                self._run.count()
                self.by_kind[kind] += 1

    def _wrong(self, text: str) -> None:
        self._run.violation(f"{text}; make replay SEED={LANE}:{self._run.seed}")

    # -- capture ----------------------------------------------------------------------

    def _captures(self, wanted: int) -> None:
        end = self._run.done + wanted
        number = 0
        while self._run.done < end and len(self._run.violations) < 20:
            rng = self._run.rng(f"capture {number}")
            number += 1
            with self._place() as folder:
                try:
                    self._capture(folder, rng, end)
                except Wrong as error:
                    self._wrong(f"capture, program {number}: {error}")
                except Exception:
                    self._wrong(f"capture, program {number}:\n{traceback.format_exc()}")

    def _capture(self, folder: Path, rng: random.Random, end: int) -> None:
        """One program, a dozen faults; what the chain says is compared at the end."""
        self._boot.number = 1
        faults = CaptureFaults(folder, rng)
        came: Counter[str] = Counter()
        try:
            for _ in range(24):
                kind = rng.choice(_KINDS)
                fault = Fault(rng.randint(1, 8), ERRORS.get(kind, 0), for_ever=rng.random() < 0.4)
                came[kind] += faults.round(fault)
                if came.total() >= min(12, end - self._run.done):
                    break
            faults.compare(killed=rng.random() < 0.5)
        finally:
            faults.close()
        self._run.count(came.total())
        self.by_kind["while capturing"] += came.total()

    # -- full disks -------------------------------------------------------------------

    def _full(self, number: int) -> None:
        from support.fulldisk import fill_and_go_on

        rng = self._run.rng(f"full {number}")
        size = rng.choice((1, 2, 4))
        with self._place() as mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "none", mounted], check=True)
            try:
                fill_and_go_on(mounted, rng, self._boot)
            except Wrong as error:
                self._wrong(f"full disk {number}, {size} MiB: {error}")
            except Exception:
                self._wrong(f"full disk {number}, {size} MiB:\n{traceback.format_exc()}")
            else:
                self._run.count()
                self.by_kind["full disk"] += 1
            finally:
                subprocess.run(["umount", "-l", mounted], check=True)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(dir=self._memory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def body(run: Run) -> None:
    """Everything, on a file system in memory where there is one."""
    with memory_folder(run) as folder, Boot() as boot:
        Lane(run, folder, boot).go()


def main() -> int:
    """The lane."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.epilog = "cases: store, capture, full"

    run = parse(LANE, "faults", 3024, more)
    return rounds_main(run, ("store", "capture", "full"), body)


if __name__ == "__main__":
    sys.exit(main())
