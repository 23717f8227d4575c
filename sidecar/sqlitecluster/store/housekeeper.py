"""The store's one background thread: syncs, cuts, compacts, removes.

Every 50 ms while something was appended: the log is synced. Every second: what was
appended is cut into LTX files, at most ``CUTS_PER_ROUND`` databases a round, those that hold
the oldest segments first. Every retention interval: compaction and retention; the trash is
emptied early when the disk is full. It sleeps without waking up while nobody appends.

Rules:
    1. It takes the interpreter in short pieces (``breathe``): capture and apply run beside it.
    2. An error of one database is logged and does not stop the others.

Started by the replicator after the store is open.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.replication.retention import RetentionPolicy
from sqlitecluster.store import compaction, cutter, reserve, retention, trash
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.scrub import ROUND_S, Scrub

log = logging.getLogger(__name__)

SYNC_S: Final = 0.05
CUT_S: Final = 1.0
CUTS_PER_ROUND: Final = 100
_IDLE_S: Final = 2.0  # without an append before it sleeps
_EXPIRE_S: Final = 60.0  # blobs of older appends leave memory
_LOG_BUSY: Final = 8  # segments; beyond it there is no limit on cuts per round


@dataclass(slots=True)
class _Times:
    """When things were done last, by the store's monotonic clock."""

    cut: float
    level1: float
    level2: float
    retention: float
    append: float
    ring_mark: float
    seen: int = 0
    expire_to: int = 0


class Housekeeper:
    """Runs the store's upkeep; ``start`` and ``stop`` from the owner's thread."""

    def __init__(
        self, store: NodeStore, policy: RetentionPolicy, interval_s: float = 60.0, scrub_s: float = ROUND_S
    ) -> None:
        self._store = store
        self._policy = policy
        self._interval_s = interval_s
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="store-housekeeper", daemon=True)
        now = store.clock.monotonic()
        self._times = _Times(now, now, now, now, now, now, seen=store.log.sequence)
        self._scrub = Scrub(store, scrub_s)
        self._failed_sync = False

    @property
    def sync_failed(self) -> bool:
        """Whether the last sync of the log failed: transactions since then may not survive a power cut."""
        return self._failed_sync

    def start(self) -> None:
        """Start the thread."""
        self._store.open_recovered()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, then cut everything."""
        self._stopping = True
        self._store.wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.cut_all()

    def cut_all(self) -> None:
        """Cut every database now."""
        self._sync()
        for database in self._store.opened():
            self._guarded("cut", database, lambda each: cutter.cut(each, self._store.log))

    def _run(self) -> None:
        while not self._stopping:
            try:
                busy = self.turn()
            except Exception:
                log.exception("the store's upkeep failed; trying again")
                busy = True
            self._sleep(busy)

    def turn(self) -> bool:
        """One round; returns whether there may soon be more to do."""
        store, times, now = self._store, self._times, self._store.clock.monotonic()
        if store.log.sequence != times.seen:
            times.seen, times.append = store.log.sequence, now
        self._sync()
        if now - times.cut >= CUT_S:
            times.cut = now
            self._cut_round()
            self._expire(now)
            store.log.prepare_spare()
        self._compact(now)
        if now - times.retention >= self._interval_s:
            times.retention = now
            self._retain()
        self._scrub.step()
        return now - times.append < _IDLE_S or store.log.dirty or self._any_uncut()

    def _sleep(self, busy: bool) -> None:
        store = self._store
        if busy:
            time.sleep(SYNC_S)
            return
        store.wake.clear()
        store.sleeping = True
        if not store.log.dirty and not self._stopping:
            store.wake.wait(min(self._interval_s, 5.0))
        store.sleeping = False

    def _sync(self) -> None:
        try:
            self._store.log.sync()
            self._failed_sync = False
        except OSError as error:
            self._failed_sync = True
            log.critical("syncing the log failed, transactions may not survive a power cut: %s", error)

    def _any_uncut(self) -> bool:
        return any(database.tail.has_uncut for database in self._store.opened())

    def _cut_round(self) -> None:
        waiting = [database for database in self._store.opened() if database.tail.has_uncut]
        waiting.sort(key=_oldest_sequence)
        limit = CUTS_PER_ROUND if len(self._store.log.segments) <= _LOG_BUSY else len(waiting)
        for database in waiting[:limit]:
            self._guarded("cut", database, lambda each: cutter.cut(each, self._store.log))
            breathe()

    def _expire(self, now: float) -> None:
        times = self._times
        if now - times.ring_mark >= _EXPIRE_S:
            self._store.ring.expire(times.expire_to)
            times.ring_mark, times.expire_to = now, self._store.log.sequence
            for database in self._store.opened():
                database.tail.trim()

    def _compact(self, now: float) -> None:
        times = self._times
        for level in (1, 2):
            last = times.level1 if level == 1 else times.level2
            if now - last < compaction.INTERVAL_S[level]:
                continue
            if level == 1:
                times.level1 = now
            else:
                times.level2 = now
            for database in self._store.opened():
                self._guarded("compact", database, partial(compaction.compact_level, level=level))
                breathe()

    def _retain(self) -> None:
        now_ms = self._store.clock.now_ms()
        for database in self._store.opened():
            self._guarded("retention", database, lambda each: retention.apply(each, self._policy, now_ms))
            database.flush()
            breathe()
        disk = reserve.room(self._store.data_dir)
        is_low = reserve.is_low(disk, reserve.reserve_bytes(self._store.reserve, disk))
        for gone in trash.purge(self._store.data_dir, now_ms, 0.0 if is_low else self._policy.age_s):
            why = ", because the disk is full" if is_low else ""
            log.info("%s: deleted files of %d removed from the trash%s", gone.name, gone.deleted_ms, why)

    def _guarded(self, what: str, database: DatabaseStore, work: Callable[[DatabaseStore], object]) -> None:
        try:
            work(database)
        except (SQLiteClusterError, OSError) as error:
            log.error("%s: %s failed, trying again later: %s", database.name, what, error)


def breathe() -> None:
    """Let other threads have the interpreter."""
    time.sleep(0)


def _oldest_sequence(database: DatabaseStore) -> int:
    first = database.tail.first_uncut()
    return first.place.sequence if first is not None else 0
