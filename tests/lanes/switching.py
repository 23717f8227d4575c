"""Hand-offs between three nodes under load, driven by hand (no Kubernetes, no election).

On each node a program per journal mode keeps its connection open and tries to write all
the time. The primary's role goes from node to node. Now and then a drain is called off, the
primary is demoted first and another node promoted later, or its replicator or the whole node
is killed and promoted again under a new epoch. Afterwards:

    - every acknowledged row is there once; a row in doubt at most once;
    - the databases are byte-identical on all nodes;
    - the time between the last commit on the old primary and the first on the new is printed.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support import images, lane, ledger, processes
from support.clients import run_sql
from support.lane import Run
from support.rowwriter import Rows, read_rows
from support.switching import SwitchedCluster

LANE = "switching"
MODES = {"wal.db": ("WAL", "NORMAL"), "full.db": ("WAL", "FULL"), "delete.db": ("DELETE", "FULL")}
NODES = 3
KINDS = ("hand-off",) * 6 + ("called off first", "demoted first", "replicator killed", "node killed")
STAY_S = (0.4, 1.5)
BACK_LIMIT_S = 60.0
WRITES_AGAIN_S = 60.0
GAP_P95_MS = 500.0


@dataclass(slots=True)
class Writers:
    """The programs, and what each has to say."""

    records: dict[tuple[str, int], Path] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def rows(self) -> dict[tuple[str, int], Rows]:
        return {key: read_rows(path) for key, path in self.records.items()}

    def count(self, node: int) -> int:
        """Rows that the programs of one node were told of."""
        return sum(len(read_rows(path).acknowledged) for (_, at), path in self.records.items() if at == node)

    def stop(self, run: Run) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            if not processes.end(process, limit_s=60):
                run.violation("a writer hung and had to be killed")
        self.running.clear()


def start_writers(run: Run, cluster: SwitchedCluster) -> Writers:
    """Make the databases on the primary, then a program for each on every node."""
    writers, folder = Writers(), run.new_folder("records")
    for name, (mode, _) in MODES.items():
        db = sqlite3.connect(cluster.primary.mount / name, timeout=30, isolation_level=None)
        db.execute(f"PRAGMA journal_mode={mode}").fetchall()
        db.execute("CREATE TABLE rows(writer INTEGER, n INTEGER, filler TEXT DEFAULT (hex(randomblob(60))))")
        db.close()
    for name, (_, synchronous) in MODES.items():
        for at, node in enumerate(cluster.nodes):
            record = folder / f"{name}-{at}"
            command = [sys.executable, "-m", "support.rowwriter", str(node.mount / name), str(record), str(at)]
            writers.running.append(
                processes.start([*command, "--synchronous", synchronous], log=record.with_suffix(".log"))
            )
            writers.records[name, at] = record
    return writers


def wait_for_writes(run: Run, cluster: SwitchedCluster, writers: Writers, where: str) -> None:
    """The programs of the present primary go on, in every mode."""
    before = {key: len(rows.acknowledged) for key, rows in writers.rows().items() if key[1] == cluster.leader}

    def advanced() -> bool:
        return all(len(read_rows(writers.records[key]).acknowledged) > count for key, count in before.items())

    if not processes.wait_until(advanced, limit_s=WRITES_AGAIN_S):
        run.violation(f"{where}: programs do not write on {cluster.primary.name}\n{cluster.log_tails()}")


def change(run: Run, cluster: SwitchedCluster, rng: random.Random) -> tuple[str, int]:
    """One change of the primary; says how, and who was it before."""
    old = cluster.leader
    to = rng.choice([at for at in range(NODES) if at != old])
    kind = run.options.only or rng.choice(KINDS)
    if kind in ("replicator killed", "node killed"):
        kill(cluster, kind)
        return kind, old
    if kind == "called off first":
        cluster.switched[old].post("/drain", timeoutS=10)
        time.sleep(rng.random() * 0.1)
        cluster.switched[old].post("/resume")
        time.sleep(rng.random() * 0.3)
    if kind == "demoted first":
        positions = cluster.switched[old].post("/role", role="replica", primary=None)["positions"]
        processes.wait_until(lambda: cluster.switched[to].positions() == positions, limit_s=1.0, step_s=0.01)
        if cluster.switched[to].positions() != positions:
            to = old  # only a node that has everything; the stream ended before it had
        cluster.epoch += 1
        cluster.leader = to
        cluster.switched[to].post("/role", role="primary", epoch=cluster.epoch)
        cluster.follow()
    else:
        cluster.hand_over(to)
    return kind, old


def kill(cluster: SwitchedCluster, kind: str) -> None:
    """Kill the primary's replicator, or all of it; it comes back and is the primary again."""
    node = cluster.switched[cluster.leader]
    before = node.pids()
    if kind == "node killed":
        node.kill("supervisor")
        assert node.process is not None
        node.process.wait(BACK_LIMIT_S)
        processes.wait_until(lambda: not any(processes.alive(pid) for pid in before.values()), limit_s=BACK_LIMIT_S)
        node.start()
    else:
        node.kill("replicator")
        changed = processes.wait_until(
            lambda: node.pids().get("replicator", 0) not in (0, before["replicator"]) and node.is_ready(),
            limit_s=BACK_LIMIT_S,
        )
        assert changed, f"{node.name} did not come back\n{node.log_tail()}"
    cluster.epoch += 1
    node.post("/role", role="primary", epoch=cluster.epoch)


def gap_ms(writers: Writers, old: int, new: int, since_ns: int) -> float | None:
    """From the last row that the old primary's programs were told of to the first on the new one."""
    rows = writers.rows()
    after = [at for (_, node), found in rows.items() if node == new for at in found.acknowledged.values()]
    first = min((at for at in after if at > since_ns), default=None)
    if first is None or old == new:
        return None
    before = [at for (_, node), found in rows.items() if node == old for at in found.acknowledged.values()]
    last = max((at for at in before if at < first), default=since_ns)
    return (first - last) / 1e6


def check_rows(run: Run, cluster: SwitchedCluster, writers: Writers, where: str) -> int:
    """Nothing acknowledged is lost or doubled; returns the rows that were in doubt."""
    doubtful = 0
    for (name, at), told in writers.rows().items():
        found = run_sql(cluster.primary.mount / name, f"SELECT n FROM rows WHERE writer = {at}")
        have = Counter(row[0] for row in found)
        missing = [n for n in told.acknowledged if not have[n]]
        twice = [n for n, count in have.items() if count > 1]
        strangers = [n for n in have if n not in told.acknowledged and n not in told.doubtful]
        doubtful += len(told.doubtful)
        if missing:
            run.violation(f"{where}: {name}: {len(missing)} acknowledged rows of n{at + 1} are lost: {missing[:5]}")
        if twice:
            run.violation(f"{where}: {name}: rows of n{at + 1} are there twice: {twice[:5]}")
        if strangers and not writers.running:  # while they run, rows come before their records
            run.violation(f"{where}: {name}: rows nobody was told of: {strangers[:5]}")
    return doubtful


def body(run: Run) -> None:
    """Changes up to the count."""
    gaps: list[float] = []
    kinds: Counter[str] = Counter()
    with SwitchedCluster(run.new_folder("switching"), NODES) as cluster:
        cluster.begin()
        writers = start_writers(run, cluster)
        try:
            wait_for_writes(run, cluster, writers, "start")
            while run.done < run.wanted and len(run.violations) < 5:
                one_change(run, cluster, writers, gaps, kinds)
        finally:
            writers.stop(run)
        doubtful = check_rows(run, cluster, writers, "end")
        try:
            images.check_same(cluster, *MODES)
        except AssertionError as error:
            run.violation(f"end: {error}")
        if run.violations:
            run.say(cluster.log_tails(60))
        total = sum(len(rows.acknowledged) for rows in writers.rows().values())
        run.say(f"{dict(kinds)}; {total} rows acknowledged, {doubtful} in doubt")
        report(run, gaps)


def one_change(run: Run, cluster: SwitchedCluster, writers: Writers, gaps: list[float], kinds: Counter[str]) -> None:
    """One change of the primary, and what programs saw of it."""
    rng = run.rng(f"change {run.done}")
    time.sleep(rng.uniform(*STAY_S))
    since = time.monotonic_ns()
    kind, old = change(run, cluster, rng)
    where = f"change {run.done + 1} ({kind}, n{old + 1} to n{cluster.leader + 1}, epoch {cluster.epoch})"
    wait_for_writes(run, cluster, writers, where)
    check_rows(run, cluster, writers, where)
    gap = gap_ms(writers, old, cluster.leader, since)
    if gap is not None and kind == "hand-off":
        gaps.append(gap)
    kinds[kind] += 1
    run.count()
    if run.done % 10 == 0:
        run.say(f"{run.done} of {run.wanted}, {where}")


def report(run: Run, gaps: list[float]) -> None:
    """The write gap of plain hand-offs."""
    if not gaps:
        return
    p50, p95 = ledger.percentile(gaps, 0.5), ledger.percentile(gaps, 0.95)
    run.say(f"write gap of {len(gaps)} hand-offs: p50 {p50:.0f} ms, p95 {p95:.0f} ms, longest {max(gaps):.0f} ms")
    if len(gaps) >= 10 and p95 > GAP_P95_MS:
        run.violation(f"write gap: p95 {p95:.0f} ms is above {GAP_P95_MS:.0f} ms")


def main() -> int:
    """Entry of ``python -m lanes.switching``."""
    run = lane.parse(LANE, "changes of the primary", 20, None)
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
