"""Lane ``multiproc``: many programs at once.

Ten writer processes and ten reader processes (half on the primary, half on the
replica) use two databases, one in WAL and one in DELETE mode. No writer may see an
error, no reader a torn or older state, every acknowledged commit must be there, and
the replica must be byte-identical at the end. Counts seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from support import images, lane, processes
from support.clients import fill, run_sql, start_writer
from support.cluster import Cluster
from support.lane import Run
from support.node import Node
from support.writer import TABLE, read_record

WRITERS = 10
READERS = 10
ROUND_S = 600  # a long run is cut into rounds, each compared at its end
MODES = {"wal.db": "WAL", "delete.db": "DELETE"}


@dataclass(frozen=True, slots=True)
class Program:
    """A writer or reader process and its record."""

    process: subprocess.Popen[bytes]
    record: Path
    name: str


def start_writers(cluster: Cluster, folder: Path) -> list[Program]:
    """Seven writers on the WAL database, three on the other (there each commit waits for the disk)."""
    made = []
    for i in range(WRITERS):
        name = "wal.db" if i < 7 else "delete.db"
        record = folder / f"writer{i}"
        options = ["--journal", MODES[name], "--writer", str(i), "--rate", "60"]
        made.append(Program(start_writer(cluster.primary, name, record, *options), record, name))
    return made


def start_readers(cluster: Cluster, folder: Path) -> list[Program]:
    """Readers on all nodes and both databases."""
    made = []
    for i in range(READERS):
        node: Node = cluster.nodes[i % len(cluster.nodes)]
        name = "wal.db" if i < 7 else "delete.db"
        record = folder / f"reader{i}-{node.name}"
        command = [sys.executable, "-m", "support.reader", str(node.mount / name), str(record)]
        made.append(Program(processes.start(command, log=record.with_suffix(".log")), record, name))
    return made


def check_writers(run: Run, cluster: Cluster, writers: list[Program]) -> None:
    """No error was seen, and what was acknowledged is there."""
    acknowledged: dict[str, set[int]] = {name: set() for name in MODES}
    for program in writers:
        record = read_record(program.record)
        acknowledged[program.name].update(record.acknowledged)
        for error in record.errors[:2]:
            run.violation(f"{program.record.name} on {program.name} saw {error}")
        if not record.acknowledged:
            run.violation(
                f"{program.record.name} wrote nothing: {program.record.with_suffix('.log').read_text()[-500:]}"
            )
    for name, wanted in acknowledged.items():
        found = {row[0] for row in run_sql(cluster.primary.mount / name, "SELECT seq FROM t")}
        missing = wanted - found
        if missing:
            run.violation(f"{name}: {len(missing)} acknowledged commits are missing, the first is {min(missing)}")
        run.say(f"{name}: {len(found)} commits")


def check_readers(run: Run, readers: list[Program]) -> None:
    """No look was bad."""
    for program in readers:
        lines = program.record.read_text().splitlines() if program.record.exists() else []
        bad = [line[2:] for line in lines if line.startswith("e ")]
        if bad:
            run.violation(f"{program.record.name} on {program.name}: {len(bad)} bad looks: {bad[:2]}")
        if not any(line.startswith("l ") for line in lines):
            run.violation(f"{program.record.name} never read: {program.record.with_suffix('.log').read_text()[-500:]}")


def one_round(run: Run, seconds: int) -> None:
    """Start everything, let it run, end it, compare."""
    with run.cluster("many") as cluster:
        folder = run.new_folder("records")
        for name, mode in MODES.items():
            fill(cluster.primary.mount / name, 1, journal=mode, table="unused")
            run_sql(cluster.primary.mount / name, TABLE)
        cluster.wait_synced(*MODES)
        programs = start_writers(cluster, folder), start_readers(cluster, folder)
        try:
            for second in range(seconds):
                time.sleep(1)
                run.count()
                if second % 10 == 9:
                    run.say(f"{run.done} of {run.wanted} s")
        finally:
            for program in [*programs[0], *programs[1]]:
                program.process.terminate()
            for program in [*programs[0], *programs[1]]:
                if not processes.end(program.process, limit_s=90):
                    run.violation(f"{program.record.name} did not end")
        check_writers(run, cluster, programs[0])
        check_readers(run, programs[1])
        try:
            images.check_same(cluster, *MODES)
        except AssertionError as error:
            run.violation(str(error))


def body(run: Run) -> None:
    """Rounds up to the count."""
    while run.done < run.wanted and not run.violations:
        one_round(run, min(ROUND_S, run.wanted - run.done))


def main() -> int:
    """Entry of ``python -m lanes.multiproc``."""
    run = lane.parse("multiproc", "seconds", 90, None)
    if run.options.list:
        print("10 writers and 10 readers")
        return 0
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
