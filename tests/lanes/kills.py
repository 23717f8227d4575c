"""Lane ``kills``: processes die by SIGKILL at random moments and at failpoints.

Two writers (WAL and DELETE) keep a record of acknowledged commits, readers watch the
replica. After each kill: the node comes back, the programs go on, the chain of stored
LTX is contiguous, primary and replica become byte-identical, and no acknowledged
commit is missing. Where only ``mount`` or the replicator died, no program may have
seen an error, and the 99th percentile of the pauses is at most 1.5 s. With
``--no-resend`` mounts must be back within 3 s and reopening must work.
Counts kills that were checked.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from support import images, lane, processes
from support.clients import run_sql, start_writer
from support.cluster import Cluster
from support.lane import Run
from support.node import Node
from support.writer import Record, read_record

MODES = {"wal.db": "WAL", "delete.db": "DELETE"}
RATE = "120"
BACK_LIMIT_S = 90.0
GO_ON_LIMIT_S = 90.0
FAILPOINT_LIMIT_S = 12.0
PAUSE_P99_MS = 1500.0
REMOUNT_S = 3.0
KILLS_PER_CLUSTER = 40


@dataclass(slots=True)
class Programs:
    """The writers and readers around one kill."""

    writers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    records: dict[str, Path] = field(default_factory=dict)
    readers: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def progress(self) -> dict[str, int]:
        """Acknowledged commits by database."""
        return {name: len(read_record(path).acknowledged) for name, path in self.records.items()}

    def advanced(self, since: dict[str, int], by: int) -> bool:
        """True when each writer made some more commits."""
        return all(count >= since.get(name, 0) + by for name, count in self.progress().items())


@dataclass(slots=True)
class Story:
    """What a whole run learned."""

    acknowledged: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in MODES})
    pauses_ms: list[float] = field(default_factory=list)
    remounts_s: list[float] = field(default_factory=list)
    killed: dict[str, int] = field(default_factory=dict)
    not_reached: set[str] = field(default_factory=set)


def failpoints() -> list[str]:
    """Names of all failpoints in the code, but those of a start (a node that starts has no programs yet)."""
    found: set[str] = set()
    for file in (processes.root() / "sidecar").rglob("*.py"):
        found.update(re.findall(r'(?:\bhit|failpoint)\(\s*"([\w.-]+)"', file.read_text()))
    return sorted(name for name in found if not name.startswith("recovery"))


def victims(only: str | None, *, resend: bool) -> list[str]:
    """What can be killed: parts by name, and ``fp:<name>`` for failpoints."""
    parts = ["mount", "replicator", "supervisor", "program"]
    if not resend:
        parts = ["mount"]
    points = [f"fp:{name}" for name in failpoints()] if resend else []
    chosen = [*parts * max(1, len(points) // len(parts)), *points]
    return [v for v in chosen if only is None or v == only or v.startswith(only)]


def start_programs(run: Run, cluster: Cluster) -> Programs:
    """Writers on the primary, readers on the replica."""
    folder = run.new_folder("records")
    made = Programs()
    for name, mode in MODES.items():
        made.records[name] = folder / name
        options = ("--journal", mode, "--rate", RATE, "--reopen")
        made.writers[name] = start_writer(cluster.primary, name, folder / name, *options)
    if not processes.wait_until(lambda: made.advanced({}, 5), limit_s=GO_ON_LIMIT_S):
        logs = [path.with_suffix(".log").read_text()[-400:] for path in made.records.values()]
        raise AssertionError(f"the writers do not start: {made.progress()} {logs}")
    for name in MODES:
        path = cluster.replica.mount / name
        processes.wait_until(path.exists, limit_s=60)
        record = folder / f"reader-{name}"
        command = [sys.executable, "-m", "support.reader", str(path), str(record)]
        made.readers.append((processes.start(command, log=record.with_suffix(".log")), record))
    return made


def stop_programs(run: Run, programs: Programs) -> None:
    """End them all."""
    everyone = [*programs.writers.values(), *(process for process, _ in programs.readers)]
    for process in everyone:
        process.terminate()
    for process in everyone:
        if not processes.end(process, limit_s=90):
            run.violation("a program hung and had to be killed")


def strike(run: Run, cluster: Cluster, victim: str, programs: Programs, story: Story) -> tuple[Node, str] | None:
    """Kill; returns (node, what died), or None when a failpoint was not reached."""
    rng = run.rng(f"strike {run.done} {victim}")
    node = cluster.primary if rng.random() < 0.7 else cluster.replica
    if victim == "program":
        name = rng.choice(list(MODES))
        time.sleep(rng.random() * 0.3)
        programs.writers[name].kill()
        programs.writers[name].wait()
        keep = programs.records[name]
        programs.records[name] = keep.with_name(keep.name + "-2")
        options = ("--journal", MODES[name], "--rate", RATE, "--reopen")
        story.acknowledged[name].update(read_record(keep).acknowledged)
        programs.writers[name] = start_writer(cluster.primary, name, programs.records[name], *options)
        return cluster.primary, "program"
    if victim.startswith("fp:"):
        return strike_failpoint(cluster, victim[3:], story)
    time.sleep(rng.random() * 0.5)
    before = node.pids()
    began = time.monotonic()
    node.kill(victim)
    if victim == "supervisor":
        wait_gone(node, before)
        node.launch()
    come_back(node, before, victim)
    if victim == "mount" and node is cluster.primary:
        story.remounts_s.append(time.monotonic() - began)
    return node, victim


def wait_gone(node: Node, before: dict[str, int]) -> None:
    """All processes of a node whose supervisor died must go by themselves."""
    assert node.process is not None
    node.process.wait(30)
    left = [part for part, pid in before.items() if processes.alive(pid)]
    gone = processes.wait_until(lambda: not any(processes.alive(pid) for pid in before.values()), limit_s=60)
    assert gone, f"{node.name}: still running after the supervisor's death: {left}"


def strike_failpoint(cluster: Cluster, name: str, story: Story) -> tuple[Node, str] | None:
    """Arm a failpoint on both nodes and wait until one process died there."""
    before = {node.name: node.pids() for node in cluster.nodes}
    files = {node.name: node.arm(name) for node in cluster.nodes}
    hit = processes.wait_until(lambda: not all(f.exists() for f in files.values()), limit_s=FAILPOINT_LIMIT_S)
    for file in files.values():
        file.unlink(missing_ok=True)
    if not hit:
        story.not_reached.add(name)
        return None
    time.sleep(0.1)
    for node in cluster.nodes:
        for part, pid in before[node.name].items():
            if not processes.alive(pid):
                come_back(node, before[node.name], part)
                return node, part
    raise AssertionError(f"failpoint {name} was taken, but no process died")


def come_back(node: Node, before: dict[str, int], part: str) -> None:
    """The killed part is running again under another pid, and the node answers."""
    back = processes.wait_until(
        lambda: node.pids().get(part, 0) not in (0, before.get(part)) and node.is_ready(),
        limit_s=BACK_LIMIT_S,
        step_s=0.01,
    )
    assert back, f"{node.name} did not come back after the death of its {part}:\n{node.log_tail()}"


def check_programs(run: Run, programs: Programs, died: str, where: str, story: Story) -> None:
    """Errors and pauses that programs saw around one kill."""
    resend = not run.options.no_resend
    quiet = died == "replicator" or (died == "mount" and resend)
    for name, path in programs.records.items():
        record: Record = read_record(path)
        story.acknowledged[name].update(record.acknowledged)
        if quiet and record.errors:
            run.violation(f"{where}: the writer of {name} saw {record.errors[0]}")
        if quiet and record.pauses_ms:
            story.pauses_ms.append(max(record.pauses_ms))
    for _, path in programs.readers:
        bad = [line[2:] for line in path.read_text().splitlines() if line.startswith("e ")] if path.exists() else []
        wrong = [text for text in bad if quiet or "torn" in text or "back" in text]
        if wrong:
            run.violation(f"{where}: {path.name} on the replica: {wrong[0]}")


def check_cluster(run: Run, cluster: Cluster, where: str, story: Story) -> None:
    """Nothing acknowledged is missing; images are equal; the stored chain has no gap."""
    for name, wanted in story.acknowledged.items():
        rows = {row[0] for row in run_sql(cluster.primary.mount / name, "SELECT seq FROM t")}
        missing = wanted - rows
        if missing:
            run.violation(f"{where}: {name}: {len(missing)} acknowledged commits are missing, first {min(missing)}")
    try:
        images.check_same(cluster, *MODES)
    except AssertionError as error:
        run.violation(f"{where}: {error}")
    for node in cluster.nodes:
        for name in MODES:
            gap = images.chain_gap(node, name)
            if gap:
                run.violation(f"{where}: {node.name} {name}: the stored chain has a gap: {gap}")


def one_kill(run: Run, cluster: Cluster, victim: str, story: Story) -> None:
    """Programs, a kill, and all checks."""
    where = f"kill {run.done + 1} ({victim})"
    programs = start_programs(run, cluster)
    died: tuple[Node, str] | None = None
    try:
        died = strike(run, cluster, victim, programs, story)
        if died is not None:
            where = f"kill {run.done + 1} ({victim}: {died[1]} of {died[0].name})"
            since = programs.progress()
            if not processes.wait_until(lambda: programs.advanced(since, 8), limit_s=GO_ON_LIMIT_S):
                run.violation(
                    f"{where}: the programs did not go on: {since} → {programs.progress()}\n{cluster.log_tails()}"
                )
    finally:
        stop_programs(run, programs)
    check_programs(run, programs, died[1] if died else "replicator", where, story)
    check_cluster(run, cluster, where, story)
    if died is not None:
        story.killed[died[1]] = story.killed.get(died[1], 0) + 1
        run.count()


def body(run: Run) -> None:
    """Kills up to the count, with a fresh cluster now and then."""
    resend = not run.options.no_resend
    story = Story()
    plan: list[str] = []
    while run.done < run.wanted and len(run.violations) < 10:
        story.acknowledged = {name: set() for name in MODES}
        with run.cluster("kills", resend=resend) as cluster:
            tries = 0
            while run.done < run.wanted and tries < KILLS_PER_CLUSTER and len(run.violations) < 10:
                tries += 1
                if not plan:
                    plan = victims(run.options.only, resend=resend)
                    run.rng(f"plan {run.done}").shuffle(plan)
                    plan = [v for v in plan if v[3:] not in story.not_reached] or ["mount"]
                before = len(run.violations)
                one_kill(run, cluster, plan.pop(), story)
                if len(run.violations) > before:
                    run.say(cluster.log_tails(40))
                    break
                if run.done % 5 == 0:
                    run.say(f"{run.done} of {run.wanted} kills, {story.killed}")
    report(run, story, resend=resend)


def report(run: Run, story: Story, *, resend: bool) -> None:
    """The figures that have a limit."""
    run.say(f"killed: {story.killed}; failpoints not reached: {', '.join(sorted(story.not_reached)) or 'none'}")
    if resend and story.pauses_ms:
        ordered = sorted(story.pauses_ms)
        p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        run.say(f"pauses: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {ordered[-1]:.0f} ms")
        if p99 > PAUSE_P99_MS:
            run.violation(f"pauses of programs: p99 {p99:.0f} ms is above {PAUSE_P99_MS:.0f} ms")
    if not resend and story.remounts_s:
        slowest = max(story.remounts_s)
        run.say(f"remounted within {slowest:.2f} s at worst")
        if slowest > REMOUNT_S:
            run.violation(f"a mount was back only after {slowest:.2f} s")


def options(parser: argparse.ArgumentParser) -> None:
    """Our own switch."""
    parser.add_argument(
        "--no-resend", action="store_true", help="the kernel's resending is not used: abort and remount"
    )


def main() -> int:
    """Entry of ``python -m lanes.kills``."""
    run = lane.parse("kills", "kills", 200, options)
    if run.options.list:
        print("\n".join(victims(None, resend=not run.options.no_resend)))
        return 0
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
