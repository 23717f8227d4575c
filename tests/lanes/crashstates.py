"""What a machine that dies may leave of the store: every legal content must be opened, with nothing lost.

A trace is real work of a store, recorded call by call (``support.storetrace``). At places of it
all over, and again and again, contents that a power cut or a kill may leave are made
(``support.crashdisk``), opened with the production recovery and looked at (``support.storeoracle``).
Some recoveries are cut off themselves.

    python -m lanes.crashstates --count 3400
    python -m lanes.crashstates --only replica      one profile
    python -m lanes.crashstates --seed 7            the same traces and the same contents again
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlitecluster.store import database as database_module
from sqlitecluster.store.node import NodeStore
from support.crashdisk import KEPT, KILL, LOST, MIXED, Content, Disk, Op, Recorder
from support.lane import Run, memory_folder, parse, rounds_main
from support.storeoracle import Boot, Check, Expected, Wrong, release, write_content
from support.storetrace import NODE_ID, PROFILES, Base, Note, Profile, Work
from support.syscalls import Calls

LANE: Final = "crashstates"
TRACES: Final = 66
_LARGE: Final = 6000
"""Bytes from which a transaction goes past the log, in profile ``large``."""
_NESTED: Final = 0.1
"""Share of recoveries that are cut off too."""


class Trace:
    """Recorded work and the databases it was done on."""

    def __init__(self, ops: list[Op], bases: dict[str, Base], profile: Profile) -> None:
        self.ops, self.bases, self.profile = ops, bases, profile
        self.begin = next(n for n, op in enumerate(ops) if op.kind == "note")


def record(folder: Path, profile: Profile, rng: random.Random, boot: Boot) -> Trace:
    """Do the work of a profile in an empty folder, and keep what it did."""
    boot.number = 1
    (folder / "node-id").write_text(f"{NODE_ID}\n")
    recorder = Recorder(folder)
    recorder.note(None)
    with Calls(folder, recorder) as calls, _large(profile):
        work = Work(folder, recorder, rng, profile)
        work.calls = calls
        work.run()
        recorder.note(None)
    work.end()
    return Trace(recorder.ops, work.bases, profile)


@contextmanager
def _large(profile: Profile) -> Iterator[None]:
    before = database_module.LARGE_BLOB
    if profile is PROFILES["large"]:
        database_module.LARGE_BLOB = _LARGE  # type: ignore[misc]
    try:
        yield
    finally:
        database_module.LARGE_BLOB = before  # type: ignore[misc]


class Places:
    """Walks a trace and makes contents, ``wanted`` different ones."""

    def __init__(self, trace: Trace, wanted: int, rng: random.Random) -> None:
        self._trace, self._wanted, self._rng = trace, wanted, rng
        self._seen: set[bytes] = set()

    def contents(self) -> Iterator[tuple[int, str, Content, Expected]]:
        """(place, how it ended, what is left, what was promised)."""
        for _round in range(8):
            places = [n for n, op in enumerate(self._trace.ops) if op.kind != "note" and n > self._trace.begin]
            want = self._wanted - len(self._seen)
            if want <= 0:
                return
            chosen = Counter(self._rng.choices(places, k=max(want, 1)))
            yield from self._walk(chosen)

    def _walk(self, chosen: Counter[int]) -> Iterator[tuple[int, str, Content, Expected]]:
        disk, expected = Disk(), Expected()
        reach = _coming(self._trace.ops)
        for place, op in enumerate(self._trace.ops):
            disk.play(op)
            if op.kind == "note":
                if op.note is not None:
                    expected.hear(op.note)
                continue
            for _ in range(chosen.get(place, 0)):
                how = self._rng.choices((KILL, LOST, KEPT, MIXED), (2, 2, 1, 7))[0]
                content = disk.after(how, self._rng)
                if self._is_new(how, content) and len(self._seen) <= self._wanted:
                    yield place, how, content, _with_coming(expected, reach[place])

    def _is_new(self, how: str, content: Content) -> bool:
        digest = hashlib.blake2b(b"killed" if how == KILL else b"cut", digest_size=16)
        for path, data in content.items():
            digest.update(path.encode())
            digest.update(data if data is not None else b"/")
        before = len(self._seen)
        self._seen.add(digest.digest())
        return len(self._seen) > before


def _coming(ops: list[Op]) -> list[dict[str, int]]:
    """At each place: what reach each database has after the step that is being done."""
    found: list[dict[str, int]] = []
    now: dict[str, int] = {}
    for op in reversed(ops):
        if op.kind == "note" and isinstance(op.note, Note) and op.note.kind == "reach":
            now = now | {op.note.name: op.note.value}
        found.append(now)
    return found[::-1]


def _with_coming(expected: Expected, coming: dict[str, int]) -> Expected:
    made = Expected()
    for name, known in expected.known.items():
        copy = type(known)(known.promised, known.kept, known.attempted, [*known.reach])
        if name in coming:
            copy.reach.append(coming[name])
        made.known[name] = copy
    return made


class Lane:
    """The whole run."""

    def __init__(self, run: Run, folder: Path, boot: Boot) -> None:
        self._run, self._folder, self._boot = run, folder, boot
        self._states = 0
        self.emptied = 0
        self.emptied_by_kill = 0
        self.by_kind: Counter[str] = Counter()

    def go(self) -> None:
        run = self._run
        names = [run.options.only] if run.options.only else list(PROFILES)
        for number in range(TRACES):
            wanted = run.wanted * (number + 1) // TRACES - self._states
            if wanted > 0:
                self._trace(number, names[number % len(names)], wanted)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(self.by_kind.items()))
        run.say(f"{told}; page checksums to be made anew: {self.emptied}, after a kill alone: {self.emptied_by_kill}")
        if self.emptied_by_kill > max(5, run.done // 200):  # a kill between two words; it must stay a rarity
            run.violation(f"kills made the page checksums useless {self.emptied_by_kill} times in {run.done} states")

    def _trace(self, number: int, name: str, wanted: int) -> None:
        rng = self._run.rng(f"trace {number}")
        with self._place() as folder:
            trace = record(folder, PROFILES[name], rng, self._boot)
        before = len(self._run.violations)
        for place, how, content, expected in Places(trace, wanted, rng).contents():
            self._state(trace, content, expected, how, rng, f"{name}, trace {number}, place {place}")
            if len(self._run.violations) - before >= 3:
                break  # one fault shows itself in many contents
        self._run.say(f"trace {number} ({name}): {len(trace.ops)} operations")

    def _state(
        self, trace: Trace, content: Content, expected: Expected, how: str, rng: random.Random, where: str
    ) -> None:
        killed = how == KILL
        self._boot.number = 1 if killed else self._boot.number + 1
        if not killed and self._boot.number < 2:
            self._boot.number = 2
        is_replica = trace.profile.replica and rng.random() < 0.6
        nested, go_on = rng.random() < _NESTED, rng.random() < 0.25
        self._states += 1
        try:
            if nested:
                content = self._cut_off(content, is_replica, rng)
                killed, how = False, f"{how}, cut off again"
                self._boot.number += 1
            with self._place() as folder:
                write_content(folder, content)
                check = Check(folder, trace.bases, expected, killed=killed, is_replica=is_replica)
                check.run(go_on=go_on)
            self.emptied += check.emptied
            self.emptied_by_kill += check.emptied_by_kill
        except Wrong as error:
            self._run.violation(f"{where}, {how}: {error}; make replay SEED={LANE}:{self._run.seed}")
        except Exception:
            self._run.violation(f"{where}, {how}:\n{traceback.format_exc()}; make replay SEED={LANE}:{self._run.seed}")
        else:
            self._run.count()
            self.by_kind[how.split(",")[0] if not nested else "cut off again"] += 1

    def _cut_off(self, content: Content, is_replica: bool, rng: random.Random) -> Content:
        """What is left when the machine dies while it recovers."""
        from sqlitecluster.store import recovery

        with self._place() as folder:
            write_content(folder, content)
            recorder = Recorder(folder)
            begin = len(recorder.ops)
            with Calls(folder, recorder):
                store = NodeStore(folder, segment_size=1 << 14)
                for name in store.names():
                    recovery.prepare_database(store, name, is_replica=is_replica)
                recorder.note(None)
            release(store)
        disk, end = Disk(), rng.randint(begin, len(recorder.ops))
        for op in recorder.ops[:end]:
            disk.play(op)
        return disk.after(rng.choice((LOST, MIXED, MIXED)), rng)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def body(run: Run) -> None:
    """All traces, on a file system in memory where there is one."""
    with memory_folder(run) as folder, Boot() as boot:
        Lane(run, folder, boot).go()


def main() -> int:
    """The lane."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.epilog = f"profiles: {', '.join(PROFILES)}"

    run = parse(LANE, "crash states", 20_000, more)
    return rounds_main(run, PROFILES, body)


if __name__ == "__main__":
    sys.exit(main())
