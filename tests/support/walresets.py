"""Programs that destroy frames of a WAL while the replicator has not captured them.

A round stops the primary's replicator, commits, lets SQLite do away with the log in one of
four ways, commits again, and has the replicator go on. ``rounds`` plays them in an order that
the seed draws and says what is wrong afterwards, as the lanes see it: acknowledged rows that a
node does not show, images that differ, gaps in the stored chain, errors of programs.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from support import images
from support.clients import connect, run_sql
from support.cluster import Cluster, SyncError

DATABASE: Final = "a.db"
SYNC_LIMIT_S: Final = 20.0


@dataclass(slots=True)
class Story:
    """What programs did and saw."""

    cluster: Cluster
    rng: random.Random
    acknowledged: set[int] = field(default_factory=set)
    waited: list[str] = field(default_factory=list)
    """Ways that ended only after the replicator had gone on."""

    def commits(self, db: sqlite3.Connection, count: int) -> None:
        """Rows in transactions of their own."""
        for _ in range(count):
            row = db.execute("INSERT INTO t(v) VALUES(randomblob(?)) RETURNING id", (self.rng.randrange(50, 3000),))
            self.acknowledged.add(row.fetchall()[0][0])


def truncate(db: sqlite3.Connection, _story: Story) -> None:
    """The log is emptied."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def restart(db: sqlite3.Connection, story: Story) -> None:
    """Everything is written back, and the next writer begins the log anew."""
    db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    story.commits(db, 1)


def small_log(db: sqlite3.Connection, story: Story) -> None:
    """The program checkpoints by itself every few frames."""
    db.execute("PRAGMA wal_autocheckpoint=3").fetchall()
    story.commits(db, 12)


def last_close(db: sqlite3.Connection, _story: Story) -> None:
    """The last connection removes the log. That waits for nothing: the mount keeps the file."""
    db.close()


WAYS: Final[tuple[Callable[[sqlite3.Connection, Story], None], ...]] = (truncate, restart, small_log, last_close)


@contextlib.contextmanager
def stopped(pid: int, for_s: float) -> Iterator[threading.Event]:
    """A process does nothing for a while; the event says that it does again."""
    going = threading.Event()

    def go_on() -> None:
        going.set()
        os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(for_s, go_on)
    os.kill(pid, signal.SIGSTOP)
    timer.start()
    try:
        yield going
    finally:
        timer.join()


def one_round(way: Callable[[sqlite3.Connection, Story], None], story: Story) -> None:
    """Commits that are not captured, and their end."""
    node = story.cluster.primary
    with connect(node.mount / DATABASE, journal="WAL") as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
        story.commits(db, story.rng.randrange(1, 6))
        time.sleep(0.2)  # captured: what follows is alone in doubt
        with stopped(node.pids()["replicator"], story.rng.uniform(0.8, 1.2)) as going:
            story.commits(db, story.rng.randrange(5, 20))
            way(db, story)
            if going.is_set():
                story.waited.append(way.__name__)
            if way is not last_close:
                story.commits(db, story.rng.randrange(1, 4))


def rounds(cluster: Cluster, seed: int) -> tuple[Story, list[str]]:
    """Each way once; the story, and what is wrong afterwards."""
    story = Story(cluster, random.Random(seed))
    ways = list(WAYS)
    story.rng.shuffle(ways)
    try:
        for way in ways:
            one_round(way, story)
    except sqlite3.Error as error:
        return story, [f"a program saw {error}"]
    return story, wrong(story)


def wrong(story: Story) -> list[str]:
    """What must not be."""
    cluster, found = story.cluster, []
    try:
        cluster.wait_synced(DATABASE, limit_s=SYNC_LIMIT_S)
        images.check_same(cluster, DATABASE)
    except (SyncError, AssertionError, sqlite3.Error) as error:
        found.append(str(error))
    for node in cluster.nodes:
        try:
            missing = story.acknowledged - {row[0] for row in run_sql(node.mount / DATABASE, "SELECT id FROM t")}
        except sqlite3.Error as error:
            found.append(f"{node.name}: {error}")
            continue
        if missing:
            found.append(f"{node.name}: {len(missing)} acknowledged rows are missing, first {min(missing)}")
        if gap := images.chain_gap(node, DATABASE):
            found.append(f"{node.name}: the stored chain has a gap: {gap}")
    return found
