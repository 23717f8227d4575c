"""Lane ``powercut``: the power goes, again and again, on file systems that lose what was not fsynced.

Two nodes, each data directory a loop-mounted file system of its own (ext4 data=ordered and
data=journal with a commit interval of 1000 s, XFS). Programs write in several journal modes
and ``synchronous`` settings; at a random moment one node's disk, or both, is shut down without
flushing its log, the node's processes are killed, the file system is mounted again (log
replay), checked, and the node started as after a reboot. Judged after each cut:

    the file system's own check and ``integrity_check`` find nothing
    whole transactions only, 1 … n, and n is at least what SQLite promises under that setting;
    with ``replication.localDurability: Always`` every answered transaction (in rollback modes
    not with OFF: such a commit is not announced to the file system before it is done)
    primary and replica become byte-identical, their position is the checksum of the image
    what the replica had and the primary has not is in its chain or in lost+found
    the stored chain has no gap

A series of cuts on one pair of nodes follows one seed. Counts cuts that were checked.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from support import images, lane, power, powerjudge, processes
from support.cluster import Cluster, ClusterStartError
from support.lane import Run
from support.powerwriter import Told, read_state, read_told

CUTS_OF_A_SERIES: Final = 5
WORKERS: Final = 2
PROGRAMS: Final = 3
ORDERLY_STOPS: Final = 0.2
ALL, BUT_LAST, PREFIX, NOTHING = "all", "all but the last", "what was there at the last look", "nothing"

PROMISES: Final = {
    # What SQLite says of an answered commit. In DELETE mode the unlink of the journal is the commit, and
    # only EXTRA syncs the folder: without, the next commit makes it durable. TRUNCATE syncs with FULL only.
    ("WAL", "EXTRA"): ALL,
    ("WAL", "FULL"): ALL,
    ("WAL", "NORMAL"): PREFIX,
    ("DELETE", "EXTRA"): ALL,
    ("DELETE", "FULL"): BUT_LAST,
    ("DELETE", "NORMAL"): BUT_LAST,
    ("TRUNCATE", "FULL"): ALL,
    ("TRUNCATE", "NORMAL"): BUT_LAST,
    ("PERSIST", "FULL"): ALL,
    ("PERSIST", "NORMAL"): ALL,
    ("WAL", "OFF"): NOTHING,
    ("DELETE", "OFF"): NOTHING,
}

# Where no fsync announces the commit of a rollback journal, nothing can wait for the log.
ALWAYS: Final = {("DELETE", "OFF"): PREFIX}


@dataclass(slots=True)
class Story:
    """What a whole run did."""

    kinds: Counter[str] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Answered transactions that were lost where the setting allows it."""
    durations: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Series:
    """Some cuts on one pair of nodes."""

    run: Run
    story: Story
    seed: int
    folder: Path
    kind: power.Kind
    always: bool
    disks: dict[str, power.PowerDisk] = field(default_factory=dict)
    floor: dict[str, int] = field(default_factory=dict)
    """Newest transaction of each database at the last look."""
    cuts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def where(self) -> str:
        durability = "Always" if self.always else "SQLite"
        again = f"python -m lanes.powercut --seed {self.seed} --count {self.cuts + 1}"
        return f"{self.kind.name}, localDurability {durability}, cut {self.cuts + 1} (again: {again})"

    def violation(self, text: str, cluster: Cluster) -> None:
        """A violation with all that says where."""
        self.run.violation(f"{self.where}: {text}\n{cluster.log_tails(15)}")

    def timed(self, what: str, began: float) -> None:
        """Add to where the time goes."""
        self.seconds[what] = time.monotonic() - began
        self.story.durations[what] += int(self.seconds[what] * 1000)


def always_is_built() -> bool:
    """Whether this tree knows commits that wait for the disk."""
    package = processes.root() / "sidecar" / "sqlitecluster"
    return (package / "replicator" / "hold.py").exists()


def usable(run: Run) -> list[power.Kind]:
    """The file systems that can be used here; the others are named."""
    found = []
    for kind in power.KINDS:
        why = power.missing(kind)
        if why is not None:
            run.violation(f"{kind.name} was not tested: {why}")
        elif run.options.only in (None, kind.name):
            found.append(kind)
    return found


def variants(run: Run) -> list[tuple[power.Kind, bool]]:
    """File system and durability, in the order in which series take them."""
    durabilities = [False, True] if always_is_built() else [False]
    if len(durabilities) == 1:
        run.say("replication.localDurability: Always is not in this tree: not tested")
    if run.options.durability:
        durabilities = [always for always in durabilities if always == (run.options.durability == "Always")]
    return [(kind, always) for kind in usable(run) for always in durabilities]


def body(run: Run) -> None:
    """Series of cuts, two at a time, up to the count."""
    story = Story()
    table = variants(run)
    if not table:
        return
    lock = threading.Lock()
    begun = 0

    def work() -> None:
        nonlocal begun
        while True:
            with lock:
                cuts = min(CUTS_OF_A_SERIES, run.wanted - begun)
                if cuts <= 0 or len(run.violations) > 5:
                    return
                seed = run.seed + begun // CUTS_OF_A_SERIES
                begun += cuts
                kind, always = table[seed % len(table)]
                series = Series(run, story, seed, run.new_folder(kind.name), kind, always)
            guarded(series, cuts)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, run.options.workers))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        begun = run.wanted  # no series begins any more
        raise
    report(run, story)


def guarded(series: Series, cuts: int) -> None:
    """One series; an unexpected end of it is a violation."""
    try:
        one_series(series, cuts)
    except Exception as error:
        series.run.violation(f"{series.where}: {type(error).__name__}: {error}\n{lane._where(error)}")


def one_series(series: Series, cuts: int) -> None:
    """A pair of nodes, and its power cuts."""
    began = time.monotonic()
    # Where programs' own syncs count the logs are short, so that a cut also meets the sidecar writing one back.
    replication = {"localDurability": "Always"} if series.always else {"checkpointPages": 50}
    cluster = Cluster(series.folder, 2, reserveBytes=16 << 20, holdCpusAwake=False, replication=replication)
    try:
        for node in cluster.nodes:
            node.folder.mkdir(parents=True)
            series.disks[node.name] = power.PowerDisk(series.kind, node.data, node.folder / "disk")
        cluster.start()
        series.timed("start", began)
        while series.cuts < cuts and one_cut(series, cluster):
            series.cuts += 1
            series.run.count()
        finish(series, cluster)
    except ClusterStartError as error:
        series.violation(f"a node does not start: {error}", cluster)
    finally:
        cluster.stop()
        for disk in series.disks.values():
            disk.close()


def one_cut(series: Series, cluster: Cluster) -> bool:
    """Programs, a cut, a restart and all checks; False when there is a violation."""
    before = len(series.run.violations)
    rng = random.Random(f"{series.seed}/{series.cuts}")
    pool = [s for s in PROMISES if series.always or PROMISES[s] is not NOTHING]
    settings = rng.sample(pool, PROGRAMS)
    victims = rng.choices([("n1",), ("n2",), ("n1", "n2")], (55, 30, 15))[0]
    if series.run.options.victims:
        victims = tuple(series.run.options.victims.split("+"))
    record = series.folder / f"record-{series.cuts}"
    began = time.monotonic()
    if rng.random() < ORDERLY_STOPS:  # words that say "in order" on the disk, and changes after them
        for node in cluster.nodes:
            node.stop()
            node.start()
    writer = start_programs(series, cluster, settings, record)
    try:
        wait_begun(series, record, settings)
        time.sleep(rng.random() ** 2 * 1.2)
        series.timed("write", began)
        seen = cut(series, cluster, victims, rng)
        restart(series, cluster, victims)
    finally:
        processes.end(writer, limit_s=60)
    judge(series, cluster, settings, victims, read_told(record), seen)
    text = ", ".join(f"{k} {v:.1f}" for k, v in series.seconds.items())
    series.run.say(f"{series.kind.name} {'+'.join(victims)} {', '.join(name_of(s) for s in settings)}: {text} s")
    story = series.story
    story.kinds[f"{series.kind.name}/{'Always' if series.always else 'SQLite'}"] += 1
    story.victims["+".join(victims)] += 1
    story.settings.update("/".join(setting) for setting in settings)
    return len(series.run.violations) == before


def start_programs(
    series: Series, cluster: Cluster, settings: list[tuple[str, str]], record: Path
) -> subprocess.Popen[bytes]:
    """One process that writes one database for each setting."""
    specs = [f"{name_of(setting)}:{setting[0]}:{setting[1]}" for setting in settings]
    seed = f"{series.seed * 100 + series.cuts}"
    command = [sys.executable, "-m", "support.powerwriter", str(cluster.primary.mount), str(record), seed, *specs]
    return processes.start(command, log=series.folder / "writer.log")


def name_of(setting: tuple[str, str]) -> str:
    """The database that is written with a setting."""
    return f"{setting[0]}-{setting[1]}.db".lower()


def wait_begun(series: Series, record: Path, settings: list[tuple[str, str]]) -> None:
    """Every program was answered at least once, in this cut's record."""
    names = {name_of(setting) for setting in settings}

    def going() -> bool:
        told = read_told(record)
        return all(name in told and told[name].acknowledged for name in names)

    if not processes.wait_until(going, limit_s=60, step_s=0.02):
        log = (series.folder / "writer.log").read_text()[-500:]
        raise AssertionError(f"the programs do not start: {read_told(record)} {log}")


def cut(series: Series, cluster: Cluster, victims: tuple[str, ...], rng: random.Random) -> dict[str, powerjudge.Seen]:
    """The power of some nodes goes; returns what the replica had then, if it still lives."""
    nodes = [node for node in cluster.nodes if node.name in victims]
    known = {node.name: node.pids() for node in nodes}
    for node in nodes:
        if rng.random() < 0.5:
            series.disks[node.name].write_out(rng)
    began = time.monotonic()
    if "n1" in victims:
        # They have no power either. A program that outlived the disk for a moment would note what it is told then:
        # an fsync that the end of a file system overtakes may say yes, and SQLite takes a folder that cannot be
        # opened for one that needs no sync (unixDelete).
        for process in processes.processes_of(cluster.primary.mount):
            processes.stop(process)
    for node in nodes:
        series.disks[node.name].cut()
    for node in nodes:
        power.kill_node(node, known[node.name])
    seen = powerjudge.look(cluster.replica) if "n2" not in victims else {}
    series.timed("cut", began)
    return seen


def restart(series: Series, cluster: Cluster, victims: tuple[str, ...]) -> None:
    """Power is back: the disks are mounted and checked, the nodes started."""
    began = time.monotonic()
    nodes = [node for node in cluster.nodes if node.name in victims]
    if "n1" in victims:
        for process in processes.processes_of(cluster.primary.mount):
            processes.kill(process)  # the programs were on this machine
    for node in nodes:
        wrong = series.disks[node.name].restore()
        if wrong:
            series.violation(f"{node.name}: {wrong}", cluster)
        power.forget_memory(node)
    series.timed("mount", began)
    began = time.monotonic()
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait_ready()
    series.timed("restart", began)


def judge(
    series: Series,
    cluster: Cluster,
    settings: list[tuple[str, str]],
    victims: tuple[str, ...],
    told: dict[str, Told],
    seen: dict[str, powerjudge.Seen],
) -> None:
    """All that must hold after a cut."""
    began = time.monotonic()
    for setting in settings:
        judge_database(series, cluster, setting, told[name_of(setting)], "n1" in victims)
    if "n1" not in victims:
        for name, one in told.items():
            if one.errors:
                series.violation(f"{name}: the replica's power went, and the program saw {one.errors[0]}", cluster)
    series.timed("judge", began)
    began = time.monotonic()
    names = [name_of(setting) for setting in settings]
    problems = powerjudge.compare(cluster, names, series.folder / "compare")
    problems += powerjudge.accounted(cluster, seen)
    for node, name in ((node, name) for node in cluster.nodes for name in names):
        gap = images.chain_gap(node, name)
        if gap and not powerjudge.was_sent_whole(node, name):
            problems.append(f"{node.name} {name}: gap: {gap}")
    for problem in problems:
        series.violation(problem, cluster)
    series.timed("compare", began)


def judge_database(series: Series, cluster: Cluster, setting: tuple[str, str], told: Told, is_cut: bool) -> None:
    """What the primary has of one database, against what its program was told."""
    name = name_of(setting)
    found = read_state(cluster.primary.mount / name)
    promise = ALL if not is_cut else ALWAYS.get(setting, ALL) if series.always else PROMISES[setting]
    wanted = {ALL: told.acknowledged, BUT_LAST: told.acknowledged - 1}.get(promise, series.floor.get(name, 0))
    series.story.answered += told.acknowledged - series.floor.get(name, 0)
    if found.wrong:
        series.violation(f"{name}: {found.wrong}", cluster)
    if found.newest < wanted:
        text = f"transaction {told.acknowledged} was answered, the newest is {found.newest} (promised: {promise})"
        series.violation(f"{name}: {text}", cluster)
    if found.newest > told.begun:
        series.violation(f"{name}: holds {found.newest}, but only {told.begun} were begun", cluster)
    if found.newest < told.acknowledged:
        series.story.lost["/".join(setting)] += told.acknowledged - found.newest
    series.floor[name] = found.newest


def finish(series: Series, cluster: Cluster) -> None:
    """After a clean stop every transaction is in a file: look at them with the product's own command."""
    began = time.monotonic()
    stopped = [node.stop() for node in reversed(cluster.nodes)]
    if not all(stopped):
        series.violation("the nodes did not stop cleanly", cluster)
    for node in cluster.nodes:
        for problem in powerjudge.damaged_files(node):
            series.violation(problem, cluster)
    series.timed("stop", began)


def report(run: Run, story: Story) -> None:
    """What was done, where the time went, and what was lost as SQLite allows."""
    run.say(f"cuts: {dict(story.kinds)}, of {dict(story.victims)}")
    run.say(f"programs: {dict(story.settings)}; {story.answered} transactions answered")
    run.say(f"answered and lost, as the setting allows: {dict(story.lost) or 'none'}")
    run.say(f"ms: {dict(story.durations)}")


def options(parser: argparse.ArgumentParser) -> None:
    """Our own switches; ``--only`` names a file system."""
    parser.add_argument("--durability", choices=("SQLite", "Always"), help="only this localDurability")
    parser.add_argument("--victims", choices=("n1", "n2", "n1+n2"), help="always cut the power of these")
    parser.add_argument("--workers", type=int, default=WORKERS, help="pairs of nodes at a time")


def main() -> int:
    """Entry of ``python -m lanes.powercut``."""
    run = lane.parse("powercut", "cuts", 200, options)
    if run.options.list:
        print("\n".join(kind.name for kind in power.KINDS))
        return 0
    power.own_mounts()
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
