"""Real work of a store, recorded, with what was promised at each point of it.

``Work`` drives a ``NodeStore`` by chance (one seed, one trace) and notes for each database which
states it may be found in. Each ``Profile`` has its own mixture of appending, syncing, cutting,
joining, removing, installing, writing back, closing and being killed.

Notes in the trace (name of the database, index of a ``Point``):
    attempted   from here on this state may be found
    kept        a killed process has it
    promised    a power cut cannot take it back
    reach       readers that have this transaction can be led to the position
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from sqlitecluster.ltx import page_checksum
from sqlitecluster.replication.position import Position
from sqlitecluster.replication.retention import RetentionPolicy
from sqlitecluster.store import compaction, cutter, image, retention
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.node import NodeStore
from support.crashdisk import Recorder
from support.store_model import ManualClock, Model
from support.syscalls import Calls

SEGMENT: Final = 16 << 10
"""Bytes: small, so that traces see many segments."""
RING: Final = 24 << 10
NODE_ID: Final = "00000000000000ab"


class Note(NamedTuple):
    """One line of what was promised."""

    kind: str
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Point:
    """A state that a database was in, or may get into."""

    position: Position
    pages: dict[int, bytes]
    page_size: int


@dataclass(slots=True)
class Base:
    """One database of a trace."""

    name: str
    model: Model
    points: list[Point] = field(default_factory=list)

    @property
    def newest(self) -> int:
        """The point where the store is now."""
        at = self.model.store.position
        return next(index for index in range(len(self.points) - 1, -1, -1) if self.points[index].position == at)

    def take_over(self) -> None:
        """The model is where the store is: what was attempted and did not happen is forgotten."""
        point = self.points[self.newest]
        self.model.pages, self.model.page_size = dict(point.pages), point.page_size


Step = Callable[["Work"], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a trace does, how often."""

    steps: dict[str, int]
    databases: int = 1
    count: int = 28
    replica: bool = False


class Work:
    """One trace in the making."""

    def __init__(self, folder: Path, recorder: Recorder | None, rng: random.Random, profile: Profile) -> None:
        self.folder, self.rng, self.profile = folder, rng, profile
        self._recorder = recorder
        self.clock = ManualClock()
        self.store = self._opened()
        self.calls: Calls | None = None
        """For steps that die in the middle."""
        self.bases: dict[str, Base] = {}
        for n in range(profile.databases):
            self._new_base(f"db{n}.sqlite")

    def _opened(self) -> NodeStore:
        return NodeStore(self.folder, clock=self.clock, segment_size=SEGMENT, ring_bytes=RING)

    def _new_base(self, name: str) -> None:
        db = self.store.open(name)
        size = self.rng.choice((512, 1024, 4096))
        base = self.bases[name] = Base(name, Model(db, size))
        base.points.append(Point(db.position, {}, size))
        if self.profile.replica:
            db.set_wal_owner(1)

    def note(self, kind: str, base: Base, value: int) -> None:
        if self._recorder is not None:
            self._recorder.note(Note(kind, base.name, value))

    def run(self) -> None:
        """All steps."""
        names, weights = list(self.profile.steps), list(self.profile.steps.values())
        for _ in range(self.profile.count):
            self.step(self.rng.choices(names, weights)[0])

    def step(self, name: str) -> None:
        """One step, by its name."""
        self.clock.seconds += self.rng.choice((0.05, 1.0, 30.0))
        try:
            getattr(self, name)(self.rng.choice(list(self.bases.values())))
        finally:  # also what failed in the middle may have removed files
            for base in self.bases.values():
                self.note("reach", base, _reach(base.model.store))

    # -- going on ---------------------------------------------------------------------

    def _attempt(self, base: Base, position: Position) -> None:
        base.points.append(Point(position, dict(base.model.pages), base.model.page_size))
        self.note("attempted", base, len(base.points) - 1)

    def _changes(self, base: Base) -> tuple[dict[int, bytes], int | None]:
        rng, model = self.rng, base.model
        top = max(model.commit, 1)
        wanted = {rng.randint(1, top + 2) for _ in range(rng.choice((1, 2, 4, 9)))} | {1}
        highest = max(wanted)
        wanted |= {pgno for pgno in range(1, highest) if pgno not in model.pages}
        changes = {pgno: rng.randbytes(rng.randint(1, model.page_size)) for pgno in wanted}
        changes[1] = b"SQLite format 3\0" + rng.randbytes(16)
        commit = rng.randint(1, max(highest, top)) if rng.random() < 0.15 else None
        return changes, commit

    def append(self, base: Base) -> None:
        for _ in range(self.rng.choice((1, 1, 3))):
            changes, commit = self._changes(base)
            blob, header, post = base.model.transaction(changes, commit)
            self._attempt(base, Position(header.max_txid, post))
            pgnos = [pgno for pgno in sorted(changes) if pgno in base.model.pages]
            sums = [page_checksum(pgno, base.model.pages[pgno]) for pgno in pgnos]
            base.model.store.append(blob, header, post, pgnos, sums)
            self.note("kept", base, base.newest)

    def append_file(self, base: Base) -> None:
        """As capture does with what is too large for memory."""
        changes, commit = self._changes(base)
        blob, header, post = base.model.transaction(changes, commit)
        path = base.model.store.dir / "large.tmp"
        put(path, blob)
        self._attempt(base, Position(header.max_txid, post))
        try:
            base.model.store.append_file(path, header, post)
        finally:
            if self.calls is None or self.calls.fault is None:
                path.unlink(missing_ok=True)
        self.note("promised", base, base.newest)
        checksums = base.model.store.checksums
        if checksums.page_size != header.page_size:
            checksums.reset(header.page_size)
        checksums.truncate(header.commit)
        pgnos = [pgno for pgno in sorted(changes) if pgno in base.model.pages]
        checksums.set_many(pgnos, [page_checksum(pgno, base.model.pages[pgno]) for pgno in pgnos])
        checksums.mark(header.max_txid)

    def sync(self, base: Base) -> None:
        newest = {each.name: each.newest for each in self.bases.values()}
        base.model.store.sync()
        for each in self.bases.values():
            self.note("promised", each, newest[each.name])

    # -- upkeep -----------------------------------------------------------------------

    def cut(self, base: Base) -> None:
        cutter.cut(base.model.store, self.store.log)
        self.note("promised", base, base.newest)

    def spare(self, _base: Base) -> None:
        self.store.log.prepare_spare()

    def join(self, base: Base) -> None:
        compaction.compact_level(base.model.store, self.rng.choice((1, 1, 2)))

    def files(self, base: Base) -> None:
        """Enough files to be joined."""
        for _ in range(compaction.MIN_FILES):
            self.append(base)
            self.cut(base)

    def retain(self, base: Base) -> None:
        policy = self.rng.choice(
            (RetentionPolicy(joined_s=(0.0, 0.0)), RetentionPolicy(age_s=0.0), RetentionPolicy(size_bytes=2000))
        )
        now = time.time_ns() // 1_000_000 + self.rng.choice((1000, 300_000))
        retention.apply(base.model.store, policy, now)

    def flush(self, base: Base) -> None:
        base.model.store.flush()

    def expire(self, base: Base) -> None:
        self.store.ring.expire(self.store.log.sequence)
        base.model.store.tail.trim()

    # -- whole images -----------------------------------------------------------------

    def install(self, base: Base) -> None:
        """A newer image of the primary takes the place of what is there."""
        self._install(base, base.model.store.position.txid + self.rng.randint(1, 5), diverged=False)

    def diverge(self, base: Base) -> None:
        """An image of another history."""
        self._install(base, max(1, base.model.store.position.txid + self.rng.randint(-3, 3)), diverged=True)

    def _install(self, base: Base, txid: int, *, diverged: bool) -> None:
        model, db = base.model, base.model.store
        model.page_size = self.rng.choice((512, 1024, model.page_size))
        pages = {pgno: self.rng.randbytes(model.page_size) for pgno in range(1, self.rng.randint(2, 9))}
        pages[1] = b"SQLite format 3\0" + pages[1][16:]
        model.pages = pages
        position = Position(txid, model.checksum())
        fields = (txid, position.checksum, model.page_size, len(pages), 7)
        path = db.dir / ("install-" + "-".join(f"{field:x}" for field in fields))
        self._attempt(base, position)
        put(path.with_name("received.tmp"), model.image(), sync=True)
        os.replace(path.with_name("received.tmp"), path)
        self.store.disk.fsync_dir(db.dir)
        if diverged:
            self.note("promised", base, 0)
            db.keep_tail(0, "diverged")
        db.checksums.reset(model.page_size)
        db.checksums.set_many(list(pages), [page_checksum(*page) for page in pages.items()])
        db.checksums.mark(txid)
        db.reset(position, page_size=model.page_size, commit=len(pages), timestamp_ms=7)
        self.note("promised", base, base.newest)
        self.note("kept", base, base.newest)
        db.set_needs_compare(False)
        if self.profile.replica:
            db.set_applied(position.txid, position.checksum)
            db.set_durable(position.txid)
            db.flush()
            image.put_in_place(db.dir, path, self.store.disk)
        else:
            path.unlink()
            self.store.disk.fsync_dir(db.dir)

    def show(self, base: Base) -> None:
        """Replica: bring the database file up to the position, as a write-back does."""
        db = base.model.store
        if not self.profile.replica or db.position.txid == db.durable:
            return
        self.sync(base)
        assert image.write_chain(db, db.durable, self.store.disk) == db.position.txid
        db.set_applied(db.position.txid)
        db.set_durable(db.position.txid)

    # -- ends -------------------------------------------------------------------------

    def close(self, base: Base) -> None:
        """An orderly stop, and a new start."""
        newest = {each.name: each.newest for each in self.bases.values()}
        if self.rng.random() < 0.7:
            for each in self.bases.values():
                self.cut(each)
        self.store.close()
        for each in self.bases.values():
            self.note("promised", each, newest[each.name])
        self._reopen()

    def kill(self, _base: Base) -> None:
        """The process dies; nobody closes anything."""
        for segment in self.store.log.segments.values():
            segment.close()
        self._reopen()

    def die(self, base: Base) -> None:
        """The process is killed in the middle of something."""
        if self.calls is None:
            return
        left = self.rng.randint(1, 9)

        def fault(_call: str, _path: str) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise Killed

        self.calls.fault = fault
        try:
            getattr(self, self.rng.choice(("append", "cut", "cut", "files", "append_file")))(base)
        except Killed:
            pass
        finally:
            self.calls.fault = None
        self.kill(base)

    def _reopen(self) -> None:
        """What is found now is durable: a new process tells others of it."""
        self.store = self._opened()
        for each in self.bases.values():
            each.model.store = self.store.open(each.name)
            each.take_over()
            self.note("promised", each, each.newest)

    def end(self) -> None:
        """Give descriptors back; nothing is written."""
        for segment in self.store.log.segments.values():
            segment.close()


def _reach(db: DatabaseStore) -> int:
    """From where files and log (not memory alone) lead to the position."""
    at = db.position.txid
    spans = [(info.min_txid, info.max_txid) for info in db.files.files]
    spans += [(entry.min_txid, entry.max_txid) for entry in db.tail.uncut()]
    while found := [low for low, high in spans if low <= at <= high]:
        at = min(found) - 1
    return at


class Killed(BaseException):
    """Nothing is done any more."""


def put(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a plain file."""
    fd = Disk().create(path)
    try:
        Disk().pwritev(fd, (data,), 0)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


_USUAL: Final = {"append": 12, "sync": 4, "cut": 3, "spare": 1, "flush": 1}
PROFILES: Final[dict[str, Profile]] = {
    "log": Profile({"append": 12, "sync": 5, "spare": 2, "flush": 1}, databases=2),
    "cuts": Profile(_USUAL | {"expire": 1}, databases=3),
    "joins": Profile(_USUAL | {"files": 3, "join": 4}, count=20),
    "retention": Profile(_USUAL | {"files": 2, "join": 2, "retain": 4}, count=20),
    "large": Profile(_USUAL | {"append_file": 5}),
    "restarts": Profile(_USUAL | {"close": 2, "kill": 2, "retain": 1}, databases=2),
    "deaths": Profile(_USUAL | {"die": 8}, count=24),
    "installs": Profile(_USUAL | {"install": 3, "kill": 1}, count=20),
    "histories": Profile(_USUAL | {"install": 1, "diverge": 3, "close": 1}, count=20),
    "replica": Profile(_USUAL | {"show": 4, "retain": 1, "close": 1}, replica=True),
    "replica-installs": Profile(_USUAL | {"show": 4, "install": 2, "diverge": 1, "kill": 1}, replica=True, count=20),
}
