"""Rows of the benchmark for commits that wait for acknowledgements: three nodes, one of two replicas."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import Row
from support import processes
from support.cluster import Cluster

WRITERS = 4
ONE_PER_S, FOUR_PER_S, P50_MS = 2_000, 4_000, 0.5


def quorum(_cluster: Cluster, _plain: Path, seconds: float, rounds: int) -> list[Row]:
    """One writer, then four writers on four databases."""
    folder = Path(tempfile.mkdtemp(prefix="sqlitecluster-bench-quorum-"))
    settings = {"mode": "Quorum", "acks": 1}
    try:
        with Cluster(folder, nodes=3, has_failpoints=False, replication=settings) as nodes:
            one = [_run(nodes, 1, f"one-{i}", seconds) for i in range(rounds)]
            four = [_run(nodes, WRITERS, f"four-{i}", seconds) for i in range(rounds)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rate, p50 = statistics.median(r for r, _ in one), statistics.median(p for _, p in one)
    rate_of_four = statistics.median(r for r, _ in four)
    what = "one-row commits, WAL, synchronous=NORMAL, 1 of 2 replicas acknowledges"
    return [
        Row(name="quorum", what=what, ours=rate, unit="commits/s", limit=f"≥ {ONE_PER_S:,}", good=rate >= ONE_PER_S),
        Row(
            name="quorum p50",
            what="time of one of these commits",
            ours=p50,
            unit="ms",
            limit=f"≤ {P50_MS:g} ms",
            good=p50 <= P50_MS,
        ),
        Row(
            name="quorum-4",
            what=f"the same, {WRITERS} writers on {WRITERS} databases",
            ours=rate_of_four,
            unit="commits/s",
            limit=f"≥ {FOUR_PER_S:,}",
            good=rate_of_four >= FOUR_PER_S,
        ),
    ]


def _run(nodes: Cluster, writers: int, name: str, seconds: float) -> tuple[float, float]:
    """(commits a second of all, median time of a commit in ms)."""
    paths = [nodes.primary.mount / f"{name}-{i}.db" for i in range(writers)]
    command = [sys.executable, "-m", "bench.quorum"]
    running = [
        subprocess.Popen(
            [*command, str(path), str(seconds)], env=processes.environment(), stdout=subprocess.PIPE, text=True
        )
        for path in paths
    ]
    found = [json.loads(process.communicate()[0]) for process in running]
    return sum(each["rate"] for each in found), statistics.median(each["p50"] for each in found)


def main() -> None:
    """A writer: ``python -m bench.quorum DB SECONDS``."""
    path, seconds = sys.argv[1], float(sys.argv[2])
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT)")
        took: list[int] = []
        began = time.perf_counter_ns()
        until = began + int(seconds * 1e9)
        before = began
        while before < until:
            db.execute("INSERT INTO t(v) VALUES('a row of ordinary length, as programs write them')")
            now = time.perf_counter_ns()
            took.append(now - before)
            before = now
    rate = len(took) / ((before - began) / 1e9)
    print(json.dumps({"rate": rate, "p50": statistics.median(took) / 1e6}))


if __name__ == "__main__":
    main()
