"""Keeps the WALs of a replica short: decides when to write back and when to start over.

Used by ``apply.Applier`` in the apply thread; one helper thread does the long copies.

    a quiet moment       the same pass, so that readers find everything in the database file, which the
                         kernel caches; from the log each page is a request to the mount
    over the threshold   a pass in the helper: LTX durable, frames into the database, fsync; at most one in
                         ``PACE_S`` while the WAL is shorter than ``HURRY`` thresholds
    the primary did it   the same below the threshold, for what was applied so far
    much came meanwhile  one more pass, to which applying waits
    pass done            for at most ``DRAIN_S`` the database is not applied to: new readers
                         read the database file, the old ones end, the WAL starts over
    a reader stays       another try ``AGAIN_S`` later; the WAL grows meanwhile and beyond
                         ``PINNED`` thresholds that is reported

Rules:
    1. While a pass runs the session is not closed (``settle`` waits for it; ``ReplicaDb.before_close``).
    2. ``durable`` moves only to a transaction whose frames were all copied and fsynced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from sqlitecluster.replicator.backfill_primary import reader_in_the_way
from sqlitecluster.replicator.checkpoint import MOST_AT_RESTART, sync_first, try_restart
from sqlitecluster.replicator.checkpointing import clear_pin, note_pin
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.services import NodeServices, Pin
from sqlitecluster.replicator.walfile import FRAME_HEADER_SIZE, HEADER_SIZE

log = logging.getLogger(__name__)

DRAIN_S: Final = 0.05
QUIET_S: Final = 1.0
AGAIN_S: Final = 1.0
PINNED: Final = 8
PACE_S: Final = 5.0
HURRY: Final = 4


@dataclass(slots=True)
class _State:
    db: ReplicaDb
    running: Future[int] | None = None
    frames: int = 0
    """Frames that the pass must reach so that ``txid`` is durable."""
    txid: int = 0
    drain_until: float = 0.0
    """Not applied to before this time; 0 while applying goes on."""
    not_before: float = 0.0
    paced: float = 0.0
    """A WAL that is not very long waits until then."""


class Drainer:
    """All databases' write-back."""

    def __init__(self, node: NodeServices, wake: Callable[[], None]) -> None:
        self._node = node
        self._wake = wake
        self._pages = node.config.replication.checkpoint_pages
        self._states: dict[str, _State] = {}
        self._changed: dict[str, tuple[ReplicaDb, float]] = {}
        """Databases with frames that were not written back, and when they changed last."""
        self._next_quiet = 0.0
        self._helper = ThreadPoolExecutor(1, "checkpoint")
        self.draining = 0
        """Databases that are not applied to at the moment."""

    def look(self, db: ReplicaDb) -> None:
        """After a change: begin a pass if the WAL is long enough."""
        if db.writer is None or db.session is None:
            return
        self._changed[db.name] = (db, time.monotonic())
        frames = db.writer.header.mx_frame
        if frames > self._pages:
            self._start(db, at_once=frames > HURRY * self._pages)

    def announced(self, db: ReplicaDb) -> None:
        """The primary wrote its WAL back: what came here meanwhile may follow, unless a pass has just been."""
        if db.writer is not None and db.session is not None and db.writer.header.mx_frame:
            self._start(db, at_once=False)

    def _start(self, db: ReplicaDb, *, at_once: bool = True) -> None:
        """Begin a pass unless one runs or has just ended."""
        state = self._states.get(db.name)
        if state is None or state.db.session is not db.session:
            state = self._states[db.name] = _State(db)
        now = time.monotonic()
        if now < state.not_before or (now < state.paced and not at_once):
            return
        if state.running is None and not state.drain_until:
            state.paced = now + PACE_S
            self._changed.pop(db.name, None)
            self._begin(state)

    def _start_quiet(self, now: float) -> None:
        """Write back what nobody changed for a while."""
        self._next_quiet = now + QUIET_S / 2
        for name, (db, changed) in list(self._changed.items()):
            if self._is_in_database(db):
                del self._changed[name]
            elif now - changed >= QUIET_S:
                self._start(db)

    def _is_in_database(self, db: ReplicaDb) -> bool:
        """Whether readers need nothing of the WAL, and it may stay as long as it is."""
        if db.session is None or db.writer is None:
            return True
        return db.session.index.backfilled == db.writer.header.mx_frame <= self._pages

    def _begin(self, state: _State) -> None:
        db = state.db
        assert db.session is not None
        assert db.writer is not None
        state.frames, state.txid = db.writer.header.mx_frame, db.store.applied
        state.running = self._helper.submit(sync_first, db.store.sync, db.session)
        state.running.add_done_callback(lambda _future: self._wake())

    def turn(self) -> None:
        """Go on with what became possible."""
        for state in list(self._states.values()):
            if state.running is not None and state.running.done():
                self._passed(state)
            if state.drain_until and state.running is None:
                self._try_to_end(state)
        now = time.monotonic()
        if now >= self._next_quiet:
            self._start_quiet(now)

    def is_draining(self, name: str) -> bool:
        """Whether applying to this database must wait for a moment."""
        if not self.draining:
            return False
        state = self._states.get(name)
        return state is not None and state.drain_until > 0.0

    @property
    def busy(self) -> bool:
        """Whether a WAL is being written back now."""
        return any(state.running is not None or state.drain_until for state in list(self._states.values()))

    def settle(self, name: str) -> None:
        """Wait for a running pass and forget the rest: the session is about to be closed."""
        self._changed.pop(name, None)
        self._node.pins.pop(name, None)
        state = self._states.pop(name, None)
        if state is None:
            return
        if state.running is not None:
            state.running.exception()
        if state.drain_until:
            self.draining -= 1

    def close(self) -> None:
        """Wait for running passes and end the helper."""
        for name in list(self._states):
            self.settle(name)
        self._helper.shutdown()

    def _passed(self, state: _State) -> None:
        future, state.running = state.running, None
        assert future is not None
        error = future.exception()
        if error is not None:
            self._node.problems.report("StoreError", f"writing the WAL back failed: {error}", state.db.name)
            self._resume(state, AGAIN_S)
            self._changed.setdefault(state.db.name, (state.db, time.monotonic()))
            return
        reached = future.result()
        if reached >= state.frames:
            state.db.store.set_durable(state.txid)
        if not state.drain_until:
            self.draining += 1
        state.drain_until = time.monotonic() + DRAIN_S
        assert state.db.writer is not None
        if reached >= state.frames and state.db.writer.header.mx_frame - reached > MOST_AT_RESTART:
            self._begin(state)

    def _resume(self, state: _State, after_s: float) -> None:
        """Apply again; the next pass not before ``after_s``."""
        if state.drain_until:
            self.draining -= 1
        state.drain_until = 0.0
        state.not_before = time.monotonic() + after_s

    def _try_to_end(self, state: _State) -> None:
        """Let applying go on: the WAL started over, or a reader would not end."""
        db = state.db
        assert db.session is not None
        assert db.writer is not None
        keep_bytes = HEADER_SIZE + self._pages * (FRAME_HEADER_SIZE + db.session.page_size)
        done = try_restart(db.session, db.writer, keep_bytes, db.store.sync)
        if not done and time.monotonic() < state.drain_until:
            return
        self._resume(state, 0.0 if done else AGAIN_S)
        if done:
            clear_pin(self._node, db.name)
            return
        self._changed.setdefault(db.name, (db, time.monotonic()))  # the reader may end without another change
        frames = db.writer.header.mx_frame
        if frames > self._pages:
            pin = Pin(reader_in_the_way(db.session.paths.shm), frames - db.session.index.backfilled)
            note_pin(self._node, db.name, pin, serious=frames > PINNED * self._pages)
