"""Lane ``bitrot``: bits flip at rest, in every kind of file, while programs write and read.

One primary and two replicas, a short ``verifyIntervalS``. Each flip must be found, put aside
where that is due, and mended from a peer; afterwards programs on that node, also those that have
had the database open all the time, read every row as it was written. A writer runs from the
first flip to the last and loses nothing; at the end all nodes are byte-identical.

    page       of a database in WAL or in DELETE mode, on a replica or on the primary
    live       an old page of the database that is written all the time; `sqlitecluster verify` finds it
    checksums  an entry of the page checksums
    ltx        a stored LTX file, of any level
    log        the node's log; then the replicator is killed and reads it
    state      the state words of a node that is stopped
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support import flips, images, lane, processes
from support.clients import connect, start_writer
from support.cluster import Cluster
from support.flips import Flip
from support.lane import Run
from support.node import Node
from support.writer import read_record

QUIET = {"wal.db": "WAL", "delete.db": "DELETE"}
LIVE = "live.db"
ROWS = 900
MEND_LIMIT_S = 40.0
OPTIONS = {"verifyIntervalS": 0.02, "scrubIntervalS": 1.0, "logLevel": "info"}
ORDER = (
    "page-primary", "page-replica", "ltx-replica", "checksums-replica", "page-primary", "ltx-primary", "page-replica",
    "checksums-primary", "live-primary", "state-replica", "page-primary", "ltx-replica", "live-replica", "page-replica",
    "log-replica",
)  # fmt: skip
"""One round of kinds; within it databases, files and bits are random."""


def make(path: Path, journal: str, rng: random.Random) -> None:
    """Rows that say themselves whether they are right, all in the database file."""
    with connect(path, journal=journal) as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB, sum TEXT)")
        db.execute("BEGIN")
        for _ in range(ROWS):
            value = rng.randbytes(rng.randrange(300, 1200))
            db.execute("INSERT INTO t(v, sum) VALUES(?, ?)", (value, hashlib.md5(value).hexdigest()))
        db.execute("COMMIT")
        db.execute("CREATE INDEX i ON t(sum)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def wrong_rows(db: sqlite3.Connection) -> str | None:
    """What is wrong with what a connection reads; None when every row is as it was written."""
    try:
        rows = db.execute("SELECT id, v, sum FROM t ORDER BY id").fetchall()
        by_index = db.execute("SELECT count(*) FROM t INDEXED BY i WHERE sum >= ''").fetchone()[0]
    except sqlite3.Error as error:
        return f"{type(error).__name__}: {error}"
    bad = [row[0] for row in rows if hashlib.md5(row[1]).hexdigest() != row[2]]
    if bad or len(rows) != ROWS or by_index != ROWS:
        return f"{len(rows)} rows, {by_index} in the index, wrong: {bad[:5]}"
    return None


@dataclass(slots=True)
class Scene:
    """The cluster, its writer, and the programs that never close their databases."""

    run: Run
    cluster: Cluster
    rng: random.Random
    record: Path
    readers: dict[tuple[str, str], sqlite3.Connection] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    superseded: int = 0
    times: list[float] = field(default_factory=list)

    def reader(self, node: Node, name: str) -> sqlite3.Connection:
        """A connection that stays open, with its page cache."""
        key = (node.name, name)
        if key not in self.readers:
            self.readers[key] = sqlite3.connect(node.mount / name, timeout=30, isolation_level=None)
        return self.readers[key]

    def forget_readers(self, node: Node) -> None:
        """The node stops: its programs end."""
        for key in [key for key in self.readers if key[0] == node.name]:
            self.readers.pop(key).close()

    # one flip

    def flip(self, what: str) -> bool:
        """Flip, wait until it is mended, check; False when there was nothing to flip."""
        kind, _, where = what.partition("-")
        node = self.cluster.primary if where == "primary" else self.rng.choice(self.cluster.followers)
        name = self.rng.choice(list(QUIET))
        began = time.monotonic()
        if kind == "state":
            made = self._state(node, name)
        elif kind == "log":
            made = self._log(node)
        elif kind == "live":
            made = self._live(node)
        else:
            made = self._running(kind, node, name)
        if made is None:
            return False
        self.times.append(time.monotonic() - began)
        self._check(made)
        self.seen[what] += 1
        return True

    def _running(self, kind: str, node: Node, name: str) -> Flip | None:
        """While the node works."""
        if kind == "ltx":
            name = self.rng.choice([*QUIET, LIVE])
        before = flips.repaired(node, kind, name)
        lost = len(list((node.data / "lost+found").glob("*")))
        made = {"page": flips.in_page, "checksums": flips.in_checksums, "ltx": flips.in_ltx}[kind](self.rng, node, name)
        if made is None:
            return None
        if name in QUIET:
            wrong_rows(self.reader(node, name))  # a program may read the damage before it is found, and cache it
        done = processes.wait_until(
            lambda: flips.repaired(node, kind, name) > before or self._is_superseded(made), limit_s=MEND_LIMIT_S
        )
        assert done, f"{made} was not mended within {MEND_LIMIT_S:.0f} s\n{node.log_tail()}"
        if kind == "ltx" and flips.repaired(node, kind, name) > before:
            assert len(list((node.data / "lost+found").glob("*"))) > lost, f"{made}: nothing was put aside"
        return made

    def _is_superseded(self, made: Flip) -> bool:
        """The file was removed, or the page written anew, before anybody looked at it."""
        gone = made.kind == "ltx" and not made.path.exists() and not flips.found(made.node, "ltx", made.database)
        self.superseded += gone
        return gone

    def _state(self, node: Node, name: str) -> Flip:
        """While the node is stopped."""
        self.forget_readers(node)
        assert node.stop(), f"{node.name} did not stop cleanly"
        before = len(list((node.data / "lost+found").glob(f"*-{name}-damaged-state*")))
        made = flips.in_state(self.rng, node, name)
        node.start()
        aside = len(list((node.data / "lost+found").glob(f"*-{name}-damaged-state*")))
        assert aside == before + 1, f"{made}: not found at the start\n{node.log_tail()}"
        return made

    def _live(self, node: Node) -> Flip | None:
        """Under the writer's hands, and looked for on demand."""
        before = flips.repaired(node, "page", LIVE)
        made = flips.in_old_page(self.rng, node, LIVE)
        if made is not None:
            done = node.cli("verify", LIVE, "-o", "json", "--url", node.api)
            assert done.returncode == 0, f"{made}: {done.stdout}{done.stderr}"
            self.superseded += flips.repaired(node, "page", LIVE) == before  # its log has a newer version
        return made

    def _log(self, node: Node) -> Flip | None:
        """Before the replicator is killed: its successor reads the log."""
        made = flips.in_log(self.rng, node)
        if made is not None:
            pid = node.kill("replicator")
            assert processes.wait_until(
                lambda: node.pids().get("replicator", pid) != pid and node.is_ready(), limit_s=60
            ), f"{node.name}: no replicator after {made}\n{node.log_tail()}"
        return made

    def _check(self, made: Flip) -> None:
        """No program sees a wrong row any more."""
        names = [made.database] if made.database in QUIET else list(QUIET)
        for name in names:
            self._wait_right(made, name)
            wrong = wrong_rows(self.reader(made.node, name))
            assert wrong is None, f"after {made}: a program that kept {name} open reads {wrong}"
        if made.kind == "page":
            assert flips.metric(made.node, "damaged_pages", db=made.database) == 0, f"{made}: still damaged"

    def _wait_right(self, made: Flip, name: str) -> None:
        """A fresh connection; a node that was started just now may still take the database anew."""
        limit, last = time.monotonic() + (30.0 if made.kind in ("state", "log") else 0.0), "never read"
        while True:
            with connect(made.node.mount / name) as db:
                last = wrong_rows(db) or ""
            if not last:
                return
            assert time.monotonic() < limit, f"after {made}: a program reads {last}"
            time.sleep(0.1)


@contextlib.contextmanager
def scene(run: Run) -> Iterator[Scene]:
    """Three nodes, two databases that lie still, one that is written all the time."""
    rng = run.rng("flips")
    with run.cluster("bitrot", 3, **OPTIONS) as cluster:
        for name, journal in QUIET.items():
            make(cluster.primary.mount / name, journal, rng)
        record = run.folder / "writer.record"
        program = start_writer(cluster.primary, LIVE, record, "--rate", "60")
        made = Scene(run, cluster, rng, record)
        try:
            time.sleep(1.5)  # replicas write quiet logs back after a second
            yield made
        finally:
            for reader in made.readers.values():
                reader.close()
            made.readers.clear()
            processes.end(program)
        finish(made)


def finish(made: Scene) -> None:
    """Nothing was lost, and all nodes are the same."""
    run, cluster = made.run, made.cluster
    record = read_record(made.record)
    assert not record.errors, f"the writer saw {record.errors[:3]}"
    assert len(record.acknowledged) > 20, f"the writer committed only {len(record.acknowledged)} times"
    names = (*QUIET, LIVE)
    images.check_same(cluster, *names)
    for node in cluster.nodes:
        with connect(node.mount / LIVE) as db:
            have = {row[0] for row in db.execute("SELECT seq FROM t")}
        lost = [seq for seq in record.acknowledged if seq not in have]
        assert not lost, f"{node.name}: {len(lost)} acknowledged rows are missing, the first is {lost[0]}"
        for name in names:
            assert images.integrity(node.mount / name) == "ok", f"{node.name}: {name} is damaged"
        _check_stored(node)
    longest = max(made.times, default=0.0)
    run.say(f"{dict(sorted(made.seen.items()))}; longest until mended and checked {longest:.1f} s")
    run.say(f"{len(record.acknowledged)} commits meanwhile; {made.superseded} flips in files that went anyway")


def _check_stored(node: Node) -> None:
    """Every stored LTX file is whole, and they lead from one to the next."""

    def check() -> str:
        verified = node.cli("ltx", "verify", "--config", str(node.config_file))
        return "" if verified.returncode == 0 else verified.stdout + verified.stderr

    assert processes.wait_until(lambda: not check(), limit_s=15.0, step_s=1.0), f"{node.name}: {check()}"


def body(run: Run) -> None:
    """Flip after flip; each has a seed of its own, so that one can be repeated alone."""
    with scene(run) as made:
        for number in range(run.seed, run.seed + 4 * run.wanted + 20):
            if run.done >= run.wanted:
                return
            what = run.options.only or ORDER[number % len(ORDER)]
            made.rng = random.Random(number)
            run.say(f"{run.done + 1}: {what}, seed {number}")
            try:
                run.count(made.flip(what))
            except AssertionError as error:
                raise AssertionError(f"{error}\nrepeat with: make replay SEED=bitrot:{number}") from error
        raise AssertionError("too little could be flipped")


def main() -> int:
    """Entry of ``python -m lanes.bitrot``."""
    run = lane.parse("bitrot", "flips", 17, _more)
    if run.options.list:
        print("\n".join(sorted(set(ORDER))))
        return 0
    return lane.run_lane(run, body)


def _more(parser: argparse.ArgumentParser) -> None:
    """No further options: ``--only`` names a kind such as page-primary."""
    parser.epilog = "--only KIND flips nothing else, for example page-primary; --list shows the kinds"


if __name__ == "__main__":
    sys.exit(main())
