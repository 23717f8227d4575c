"""Lane: three elected nodes in networks of their own, real programs, a real API server, and a nemesis.

Each run is one case of ``support.nemesisfaults.CASES`` (a fault or a pair): programs on all
nodes transfer money, append to lists and set registers, others read; faults come and go;
afterwards everything must be writable again, the same everywhere, and the recorded history
must pass ``support.checkers``. Case and all choices of run k are those of seed + k, so that
``--seed S --count 1`` is the same run. What a violation needs to be understood is kept in
``build/nemesis/<seed>``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from support import checkers, history, images, lane, ledger, nemesisclient, nemesisfaults, nemesislogs, processes
from support.cluster import SyncError
from support.history import History
from support.lane import Run
from support.nemesiscluster import NemesisCluster, NemesisNode
from support.nemesisfaults import CASES

RATE: Final = 75.0
RUN_S, LONG_RUN_S, MANY = 14.0, 20.0, 10
"""Shortest length of a run; the second one where there are many."""
WRITABLE_MAX_S: Final = 20.0
LAG_MAX_S: Final = 10.0
CALM_S: Final = 1.5
"""Programs go on for so long after the cluster is writable again."""
MODES: Final = ("Quorum", "Async")
KEPT: Final = processes.root() / "build" / "nemesis"


@dataclass
class Figures:
    """What the runs measured."""

    writes: int = 0
    reads: int = 0
    unknown: int = 0
    lost: int = 0
    ghosts: int = 0
    epochs: int = 0
    back_s: list[float] = field(default_factory=list)
    silence_s: list[float] = field(default_factory=list)


class Trial:
    """One run: a database of its own, programs, faults, and the verdict."""

    def __init__(self, run: Run, cluster: NemesisCluster, seed: int) -> None:
        self.run, self.cluster, self.seed = run, cluster, seed
        self.case = case_of(run, seed)
        rng = random.Random(f"nemesis/{seed}")
        self.steps = nemesisfaults.schedule(self.case, rng)
        self.rng = rng
        self.database = f"r{seed}.db"
        self.journal = "DELETE" if seed % 5 == 4 else "WAL"
        self.records = cluster.folder / f"records-{seed}"
        self.records.mkdir()
        self.history = History(mode=mode_of(run, seed), accounts=nemesisclient.ACCOUNTS, opening=nemesisclient.OPENING)
        self.began = 0.0

    def do(self, figures: Figures) -> list[str]:
        """Everything; returns what is wrong."""
        cluster = self.cluster
        cluster.net.begin(str(self.seed))
        self._prepare()
        self.began = time.monotonic()
        away, terms = len(cluster.away), max(0, len(cluster.terms) - 1)
        for node in cluster.nodes:
            record = self.records / f"{node.name}-0"
            node.start_programs(self.database, record, f"{self.seed}", RATE)
        wrong = []
        try:
            self._await_write(self.began)
            mended = nemesisfaults.carry_out(cluster, self.steps, self.rng)
            self._start_again()
            back = self._await_write(mended)
            figures.back_s.append(back)
            if back > WRITABLE_MAX_S:
                wrong.append(f"liveness: writable {back:.1f} s after the last fault")
            time.sleep(max(CALM_S, self.began + self.run.options.seconds - time.monotonic()))
        finally:
            for node in cluster.nodes:
                node.end_programs()
        wrong += self._compare()
        self._read_history(cluster.terms[terms:])
        self.history.away = cluster.away[away:]
        wrong += checkers.check(self.history)
        wrong += self._kept_aside()
        self._count(figures)
        return wrong

    def _prepare(self) -> None:
        """The tables, on all nodes."""
        cluster = self.cluster
        deadline = time.monotonic() + WRITABLE_MAX_S
        while True:
            try:
                nemesisclient.prepare(cluster.primary.mount / self.database, self.journal)
                break
            except (sqlite3.Error, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        cluster.wait_synced(self.database)

    def _start_again(self) -> None:
        """Programs that died with their pod."""
        for node in self.cluster.nodes:
            if node.programs is None or node.programs.poll() is not None:
                record = self.records / f"{node.name}-{len(list(self.records.glob(f'{node.name}-*')))}"
                node.start_programs(self.database, record, f"{self.seed}/again", RATE)

    def _files(self) -> list[Path]:
        return [path for path in sorted(self.records.iterdir()) if path.suffix != ".log"]

    def _await_write(self, since: float) -> float:
        """Seconds until a write that began after a moment is acknowledged."""
        deadline = time.monotonic() + 3 * WRITABLE_MAX_S
        while time.monotonic() < deadline:
            found = History()
            history.read_files(found, self._files())
            ends = [w.end for w in found.acknowledged if w.begin >= since and w.end is not None]
            if ends:
                return min(ends) - since
            time.sleep(0.1)
        raise AssertionError(f"liveness: nobody could write for {3 * WRITABLE_MAX_S:.0f} s")

    # The end.

    def _compare(self) -> list[str]:
        """All nodes are the same in every byte, and sound."""
        cluster, scratch = self.cluster, self.cluster.folder / "compare"
        try:
            cluster.settled()
            began = time.monotonic()
            cluster.wait_synced(self.database, 3 * LAG_MAX_S)
        except (SyncError, AssertionError) as error:
            return [f"liveness: {error}"]
        wrong = []
        if (took := time.monotonic() - began) > LAG_MAX_S:
            wrong.append(f"liveness: nodes were the same only {took:.1f} s after the last write")
        primary, found = cluster.primary, ""
        for node in cluster.followers:
            for _ in range(images.ATTEMPTS):  # a replica may write its WAL back while it is copied
                found = self._difference(primary, node, scratch)
                if not found:
                    break
                time.sleep(0.5)
            if found:
                wrong.append(f"images: {node.name} differs from {primary.name}: {found}")
        self.history.final = nemesisclient.read_log(primary.mount / self.database)
        for node in cluster.nodes:
            if (said := images.integrity(node.mount / self.database)) != "ok":
                wrong.append(f"images: integrity_check on {node.name}: {said[:300]}")
            if nemesisclient.read_log(node.mount / self.database) != self.history.final:
                wrong.append(f"images: programs on {node.name} read another log")
        return wrong

    def _difference(self, primary: NemesisNode, node: NemesisNode, scratch: Path) -> str:
        try:
            left = images.settled(primary, self.database, scratch)
            return images.first_difference(left, images.settled(node, self.database, scratch)) or ""
        except (sqlite3.Error, OSError) as error:
            return f"{type(error).__name__}: {error}"

    def _read_history(self, terms: list[history.Term]) -> None:
        history.read_files(self.history, self._files())
        self.history.terms = terms

    def _kept_aside(self) -> list[str]:
        """What a lost epoch acknowledged is in lost+found of the node that acknowledged it."""
        nodes = {write.node for write in self.history.lost()}
        return [
            f"lost+found: {name} kept nothing of what it lost"
            for name in sorted(nodes)
            if not any((self.cluster.node(name).data / "lost+found").glob(f"*{self.database}*"))
        ]

    def _count(self, figures: Figures) -> None:
        told = self.history
        figures.writes += len(told.acknowledged)
        figures.reads += len(told.reads)
        figures.unknown += sum(w.outcome == history.UNKNOWN for w in told.writes.values())
        figures.lost += len(told.lost())
        figures.ghosts += sum(not checkers.is_of_history(told, read) for read in told.reads)
        figures.epochs += max((t.epoch for t in told.terms), default=0) - min((t.epoch for t in told.terms), default=0)
        last = max((w.end or 0.0 for w in told.acknowledged), default=0.0)
        figures.silence_s.append(checkers.longest_silence(told, self.began, last))

    def keep(self, wrong: list[str]) -> Path:
        """Everything that explains what is wrong."""
        folder = KEPT / str(self.seed)
        shutil.rmtree(folder, ignore_errors=True)
        self.cluster.keep(folder)
        shutil.copytree(self.records, folder / "records")
        (folder / "violations.txt").write_text("\n".join(wrong) + "\n")
        story = {
            "case": self.case,
            "journal": self.journal,
            "began": self.began,
            "steps": [asdict(step) for step in self.steps],
            "away": [asdict(a) for a in self.history.away or self.cluster.away],
            "terms": [asdict(t) for t in self.history.terms or self.cluster.terms],
            "final": self.history.final,
        }
        (folder / "story.json").write_text(json.dumps(story, indent=1))
        return folder

    def describe(self) -> str:
        """The faults with their times."""
        faults = ", ".join(f"{s.name} {s.begin:.1f}-{s.end:.1f} s" for s in self.steps)
        return f"{faults} ({self.history.mode}, {self.journal})"


def case_of(run: Run, seed: int) -> tuple[str, ...]:
    """The case of a seed, or the one that was asked for."""
    return tuple(run.options.only.split("+")) if run.options.only else CASES[seed % len(CASES)]


def mode_of(run: Run, seed: int) -> str:
    """When commits are answered."""
    return run.options.mode or MODES[(seed // len(CASES) + seed) % len(MODES)]


def one(run: Run, cluster: NemesisCluster, seed: int, figures: Figures) -> bool:
    """One run; False when the cluster should not be used again."""
    trial = Trial(run, cluster, seed)
    before = (figures.writes, figures.lost)
    try:
        wrong = trial.do(figures)
    except Exception as error:  # a run that ends otherwise is a finding, too, and is kept like one
        wrong = [f"{type(error).__name__}: {error}", *traceback.format_exc().splitlines()[-6:-1]]
    if wrong:
        folder = trial.keep(wrong)
        listed = "\n    ".join(wrong)
        again = f"make replay SEED=nemesis:{seed}"
        run.violation(f"{trial.describe()}:\n    {listed}\n    kept in {folder}; again: {again}")
        return False
    run.count()
    done = f"{run.done} of {run.wanted}: {trial.describe()}"
    lost = f", {figures.lost - before[1]} lost with an epoch" if figures.lost > before[1] else ""
    run.say(f"{done}: {figures.writes - before[0]} writes{lost}, back in {figures.back_s[-1]:.1f} s")
    shutil.rmtree(trial.records)
    return True


def body(run: Run) -> None:
    """Runs up to the count, each group of one mode on a cluster of its own."""
    figures = Figures()
    seeds = list(range(run.seed, run.seed + run.wanted))
    while seeds:
        mode = mode_of(run, seeds[0])
        seeds = _group(run, mode, seeds, figures)
        if len(run.violations) >= 5:
            break
    report(run, figures)


def _group(run: Run, mode: str, seeds: list[int], figures: Figures) -> list[int]:
    """Do what one cluster can do; returns the seeds that are left."""
    left, undisturbed = list(seeds), False
    folder = run.new_folder("cluster")
    with NemesisCluster(folder, f"{seeds[0]}", run.say, replication={"mode": mode}, logLevel="info") as cluster:
        for seed in seeds:
            if mode_of(run, seed) != mode:
                continue
            left.remove(seed)
            if not one(run, cluster, seed, figures):
                break
        else:
            check_logs(run, cluster, seeds[0])
            undisturbed = True
    if undisturbed and cluster.left:
        run.violation("not everything ended by itself: " + "; ".join(cluster.left))
    return left


def check_logs(run: Run, cluster: NemesisCluster, seed: int) -> None:
    """At the end all stores hold the same transactions, whole and without a gap."""
    clean = [node.stop() for node in reversed(cluster.nodes)]
    if not all(clean):
        run.violation(f"a node did not stop cleanly\n{cluster.log_tails()}")
        return
    wrong = nemesislogs.compare({node.name: node.data for node in cluster.nodes})
    if wrong:
        folder = KEPT / f"{seed}-stores"
        shutil.rmtree(folder, ignore_errors=True)
        cluster.keep(folder)
        run.violation("\n    ".join(["stores:", *wrong, f"kept in {folder}"]))


def report(run: Run, figures: Figures) -> None:
    """The figures of all runs."""
    run.say(f"{figures.writes} writes acknowledged, {figures.unknown} in doubt, {figures.reads} reads")
    run.say(f"{figures.epochs} changes of the primary; {figures.lost} writes were lost with one (Async)")
    if figures.back_s:
        p50, longest = ledger.percentile(figures.back_s, 0.5), max(figures.back_s)
        run.say(f"writable after the last fault: p50 {p50:.1f} s, longest {longest:.1f} s")
        run.say(f"longest silence in a run: {max(figures.silence_s, default=0.0):.1f} s")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=None, help="shortest length of a run")
    parser.add_argument("--mode", choices=("Async", "Quorum"), help="one mode only")


def main() -> int:
    """Entry of ``python -m lanes.nemesis``."""
    run = lane.parse("nemesis", "runs", len(CASES), _arguments)
    if run.options.list:
        print("\n".join("+".join(case) for case in CASES))
        return 0
    if run.options.seconds is None:
        run.options.seconds = LONG_RUN_S if run.wanted > MANY else RUN_S
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
