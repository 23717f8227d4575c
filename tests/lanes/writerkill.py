"""Lane ``writerkill``: a program dies between the last write of its commit and the publication in the wal-index.

Its frames are complete in the log, but no living connection knows of them: the next writer puts
its own in their place, a checkpoint that restarts the log or a last close drops them. Whatever
happens next, replicas must show what the primary shows. A case is a place to die, and what
comes after:

    next-writer      another connection commits
    checkpoint       a passive checkpoint, then a commit that restarts the log
    last-close       every other connection closes; SQLite removes the log
    slow-close       the same, with time between the removal of the wal-index and that of the log
    truncate         a TRUNCATE checkpoint, then a commit
    recovery         nobody else has it open: the next one recovers the log, and may find the commit
    mount-killed     the node's mount process dies, then another connection commits
    replicator-killed, node-killed    the same of the replicator, of the whole node
    both-killed      mount and replicator at once

Judged: no acknowledged row is missing, no row that a reader saw (on the primary or on a replica)
is gone, the row in doubt is there whole or not at all, primary and replicas are byte-identical,
the position is the checksum of the image, the chain has no gap. Counts kills that were checked.
With ``replication.mode: Quorum`` (three nodes) the same.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from support import images, lane, powerjudge, processes
from support.cluster import Cluster
from support.dyingwriter import POINTS, TABLE
from support.lane import Run

KILLS_OF_A_CLUSTER: Final = 12
LAST_BYTES: Final = (10, 3000, 3000, 6 << 20)
"""Of the row in doubt: one page, two, or more than capture looks at in one go."""
LIMIT_S: Final = 60.0
SLOW_CLOSE_S: Final = 0.4
"""Much longer than the moment of quiet after which the sidecar looks at what no wal-index speaks of."""
QUORUM: Final = {"mode": "Quorum", "acks": 1}
BUSY: Final = ("locked", "busy")


@dataclass(slots=True)
class Scene:
    """One kill, and who has the database open around it."""

    run: Run
    cluster: Cluster
    name: str
    record: Path
    others: list[sqlite3.Connection] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """Rows that a reader saw, or that were acknowledged."""
    by: dict[int, str] = field(default_factory=dict)
    """Where a row was seen first, if by a reader."""
    written: int = 100_000

    @property
    def path(self) -> Path:
        return self.cluster.primary.mount / self.name

    def open(self) -> sqlite3.Connection:
        """One more connection on the primary."""
        db = sqlite3.connect(self.path, timeout=LIMIT_S, isolation_level=None)
        db.execute("PRAGMA wal_autocheckpoint=0")
        self.others.append(db)
        return db

    def read(self) -> None:
        """Look at the rows, on the primary and on the replicas."""
        for db in self.others:
            self.see("n1", {row[0] for row in db.execute("SELECT n FROM t")})
        for node in self.cluster.followers:
            self.see(node.name, rows_of(node.mount / self.name))

    def see(self, who: str, rows: set[int]) -> None:
        """A reader saw these rows: nobody may lose them any more."""
        for row in rows - self.seen:
            self.by[row] = who
        self.seen |= rows

    def commit(self) -> None:
        """A row of another program. With Quorum it may fail while replicas come back; then it is tried again."""
        self.written += 1
        db = self.others[-1] if self.others else self.open()
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                db.execute("INSERT INTO t VALUES(?, randomblob(100))", (self.written,))
                break
            except sqlite3.IntegrityError:
                break  # the try before this one was in doubt, and is there
            except sqlite3.OperationalError as error:
                if time.monotonic() > deadline or not any(word in str(error) for word in self.passing):
                    raise
                time.sleep(0.05)
        self.seen.add(self.written)

    @property
    def passing(self) -> tuple[str, ...]:
        """Errors after which a program tries again."""
        return (*BUSY, "disk I/O error") if len(self.cluster.nodes) > 2 else BUSY

    def close(self) -> None:
        """Close every connection."""
        while self.others:
            self.others.pop().close()


def rows_of(path: Path) -> set[int]:
    """The rows of a database; none where it cannot be read yet."""
    with contextlib.suppress(sqlite3.Error):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)
        with contextlib.closing(db):
            return {row[0] for row in db.execute("SELECT n FROM t")}
    return set()


def next_writer(scene: Scene) -> None:
    """Another connection commits, in the place of the frames."""
    scene.commit()


def checkpoint(scene: Scene) -> None:
    """Everything published is written back; the next commit begins the log anew."""
    scene.others[0].execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    scene.commit()
    scene.commit()


def last_close(scene: Scene) -> None:
    """The last connection writes back what is published and removes the log."""
    scene.close()
    scene.open()


def slow_close(scene: Scene) -> None:
    """The last connection is held up after it removed the wal-index; replicas are watched meanwhile."""
    command = [sys.executable, "-m", "support.slowcloser", str(scene.path), str(SLOW_CLOSE_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as last:
        assert last.stdout is not None
        assert last.stdout.readline() == "open\n"
        scene.close()
        assert last.stdin is not None
        last.stdin.close()
        while last.poll() is None:
            for node in scene.cluster.followers:
                scene.see(node.name, rows_of(node.mount / scene.name))
    assert last.returncode == 0
    scene.open()


def truncate(scene: Scene) -> None:
    """The log is emptied."""
    scene.others[0].execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    scene.commit()


def recovery(scene: Scene) -> None:
    """Nobody had it open: the index is made anew from the log."""
    scene.open()


def killed(*parts: str) -> Callable[[Scene], None]:
    """Processes of the node die, too."""

    def kill(scene: Scene) -> None:
        node = scene.cluster.primary
        before = node.pids()
        for part in parts:
            node.kill(part)
        back = processes.wait_until(
            lambda: all(node.pids().get(p, 0) not in (0, before.get(p)) for p in parts) and node.is_ready(),
            limit_s=LIMIT_S,
            step_s=0.02,
        )
        assert back, f"the node did not come back:\n{node.log_tail()}"
        scene.commit()

    return kill


def node_killed(scene: Scene) -> None:
    """The supervisor dies, and everything with it; programs reopen."""
    node = scene.cluster.primary
    before = node.pids()
    node.kill("supervisor")
    assert node.process is not None
    node.process.wait(30)
    assert processes.wait_until(lambda: not any(map(processes.alive, before.values())), limit_s=LIMIT_S)
    for db in scene.others:
        with contextlib.suppress(sqlite3.Error):
            db.close()
    scene.others.clear()
    node.start()
    scene.open()


AFTER: Final[dict[str, Callable[[Scene], None]]] = {
    "next-writer": next_writer,
    "checkpoint": checkpoint,
    "last-close": last_close,
    "slow-close": slow_close,
    "truncate": truncate,
    "recovery": recovery,
    "mount-killed": killed("mount"),
    "replicator-killed": killed("replicator"),
    "both-killed": killed("mount", "replicator"),
    "node-killed": node_killed,
}


def plan(run: Run) -> list[tuple[str, str]]:
    """(place to die, what comes after), all of them in an order that the seed gives."""
    after = list(AFTER)
    run.rng("plan").shuffle(after)
    cases = [(POINTS[(i + turn) % len(POINTS)], name) for turn in range(len(POINTS)) for i, name in enumerate(after)]
    return [case for case in cases if run.options.only in (None, case[0], case[1], "/".join(case))]


def one_kill(run: Run, cluster: Cluster, point: str, after: str, number: int) -> None:
    """A program dies, something happens, all is judged."""
    rng = run.rng(f"kill {number}")
    name = f"f{number}.db"
    scene = Scene(run, cluster, name, cluster.folder / f"record-{number}")
    where = f"kill {number + 1} ({point}, then {after})"
    db = scene.open()
    db.execute("PRAGMA journal_mode=WAL").fetchall()
    db.execute(TABLE)
    scene.commit()
    scene.written += 1_000_000  # the program that dies goes on from the highest row
    if after == "recovery":
        scene.close()
    told, doubtful = let_die(scene, point, rng)
    scene.seen |= told
    scene.read()
    watch(scene, rng)
    AFTER[after](scene)
    scene.read()
    scene.commit()
    judge(scene, where, doubtful, told)
    scene.close()


def watch(scene: Scene, rng: random.Random) -> None:
    """Time passes, in which replicas may show something."""
    deadline = time.monotonic() + rng.choice((0.0, 0.02, 0.3))
    while time.monotonic() < deadline:
        for node in scene.cluster.followers:
            scene.see(node.name, rows_of(node.mount / scene.name))


def let_die(scene: Scene, point: str, rng: random.Random) -> tuple[set[int], int]:
    """Run the program to its end; (rows that it was told of, the row in doubt)."""
    synchronous = "FULL" if point == "synced" else rng.choice(("NORMAL", "FULL"))
    arguments = [point, str(rng.randrange(1, 8)), synchronous, str(int(10 ** rng.uniform(0, 3.7)))]
    arguments.append(str(rng.choice(LAST_BYTES)))
    command = [sys.executable, "-m", "support.dyingwriter", str(scene.path), str(scene.record), *arguments]
    process = processes.start(command, log=scene.record.with_suffix(".log"))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LIMIT_S)
    lines = [line.split() for line in scene.record.read_text().splitlines()]
    told = {int(number) for kind, number in lines if kind == "a"}
    begun = max(int(number) for kind, number in lines if kind == "b")
    died = process.returncode in (-signal.SIGKILL, -signal.SIGALRM) or (point == "around" and process.returncode == 0)
    assert died, (
        f"the program did not die as asked: {process.returncode} {scene.record.with_suffix('.log').read_text()}"
    )
    return told, begun


def judge(scene: Scene, where: str, doubtful: int, told: set[int]) -> None:
    """Nothing acknowledged or seen is missing; all nodes are the same."""
    run, cluster = scene.run, scene.cluster
    rows = {row[0] for row in scene.others[-1].execute("SELECT n FROM t")}
    missing = scene.seen - rows
    if missing:
        by = {row: scene.by.get(row, "its program") for row in sorted(missing)}
        run.violation(f"{where}: rows are gone that were acknowledged or seen: {by}; told {sorted(told)}")
    more = rows - scene.seen - {doubtful}
    if more:
        run.violation(f"{where}: rows that nobody wrote: {sorted(more)}")
    for problem in powerjudge.compare(cluster, [scene.name], scene.run.folder / "compare"):
        run.violation(f"{where}: {problem}")
    for node in cluster.nodes:
        have = rows_of(node.mount / scene.name)
        if have != rows:
            run.violation(f"{where}: {node.name} shows {sorted(have ^ rows)} otherwise than the primary")
        found = integrity(node.mount / scene.name)
        if found != "ok":
            run.violation(f"{where}: integrity_check on {node.name}: {found}")
        gap = images.chain_gap(node, scene.name, 5.0)
        if gap:
            run.violation(f"{where}: {node.name}: gap: {gap}")


def integrity(path: Path) -> str:
    """What integrity_check says, or why it cannot."""
    try:
        return images.integrity(path)
    except sqlite3.Error as error:
        return str(error)


def quorum_is_built() -> bool:
    """Whether this tree knows commits that wait for acknowledgements."""
    return (processes.root() / "sidecar" / "sqlitecluster" / "replicator" / "hold.py").exists()


def body(run: Run) -> None:
    """Kills up to the count; with Quorum every other cluster is one of three nodes."""
    modes = ["Async", "Quorum"] if quorum_is_built() else ["Async"]
    if len(modes) == 1:
        run.say("replication.mode: Quorum is not in this tree: not tested")
    modes = [mode for mode in modes if run.options.mode in (None, mode)]
    cases = plan(run)
    done: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for turn in range(1 << 30):
        if run.done >= run.wanted or len(run.violations) > 5:
            break
        mode = modes[turn % len(modes)]
        options: dict[str, object] = {"replication": QUORUM} if mode == "Quorum" else {}
        before = len(run.violations)
        with run.cluster(mode, 3 if mode == "Quorum" else 2, holdCpusAwake=False, **options) as cluster:
            while run.done < run.wanted and len(run.violations) == before:
                point, after = cases[taken[mode] % len(cases)]
                taken[mode] += 1
                began = time.monotonic()
                one_kill(run, cluster, point, after, run.done)
                if len(run.violations) > before:
                    run.say(cluster.log_tails(15))
                    break
                run.count()
                done[f"{mode}/{after}"] += 1
                run.say(f"{mode}: {point}, then {after}: {time.monotonic() - began:.1f} s")
                if run.done % KILLS_OF_A_CLUSTER == 0 or (len(modes) > 1 and run.done % (run.wanted // 2 or 1) == 0):
                    break
    run.say(f"kills: {dict(sorted(done.items()))}")


def options(parser: argparse.ArgumentParser) -> None:
    """Our own switch; ``--only`` names a place to die, what comes after, or both with a slash."""
    parser.add_argument("--mode", choices=("Async", "Quorum"), help="only this replication mode")


def main() -> int:
    """Entry of ``python -m lanes.writerkill``."""
    run = lane.parse("writerkill", "kills", 100, options)
    if run.options.list:
        print("\n".join(f"{point}/{after}" for after in AFTER for point in POINTS))
        return 0
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
