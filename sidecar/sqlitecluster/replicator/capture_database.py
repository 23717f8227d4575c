"""One turn of capture for one database: what to capture next, in the order it was written.

Called by the capture thread (``capture``). Sources of transactions, and their order:

    drop            GONE_SEQ: everything older is captured, then a deletion is written
    unlinked WALs   dbs/<enc>/wal.<gen>.gone
    spools          commits of rollback modes, raw writes; each says which WAL contents
                    and drops are older than it
    the live WAL
    the image       when history begins, or something could not be proved

Rules:
    1. A source is removed or marked as done only after its transactions are in the log.
    2. Every turn is short (one group, one spool), so that databases take turns.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Final

from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import CorruptStore, LockTimeout, NotADatabase
from sqlitecluster.replicator.capture_pace import LIVELY_S, NEVER, RETRY_S, gather_pause, tail_pause
from sqlitecluster.replicator.capture_proof import QUIET_S
from sqlitecluster.replicator.capture_publish import CapturedDatabase
from sqlitecluster.replicator.capture_raw import QUIET_NS, ImageCapture
from sqlitecluster.replicator.capture_recovery import recover
from sqlitecluster.replicator.capture_rollback import capture_spool
from sqlitecluster.replicator.capture_wal import Turn, WalCapture
from sqlitecluster.replicator.hold import HeldCommits
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import KIND_DATABASE, KIND_OTHER, NodeWord, Word
from sqlitecluster.store.spool import Spool, read_spool, spool_path

log = logging.getLogger(__name__)

_GONE: Final = re.compile(r"wal\.(\d{1,20})\.gone")
_SMALL_BYTES: Final = 64 << 10
_SETTLE_TURNS: Final = 100_000
_FINISH_PAUSE_S: Final = 0.001
LOCKED_QUIET_NS: Final = 5_000_000_000
"""So long without a write a program that has the database locked is not in the middle of a transaction, but keeps
its locks (``locking_mode=EXCLUSIVE``)."""
_HELD_AGAIN_S: Final = 0.005


class DatabaseCapture:
    """Everything that capture does for one slot."""

    def __init__(self, node: NodeServices, slot: int, *, leaves_doubt: bool = False) -> None:
        """``leaves_doubt``: this node is no primary any more; what became of a commit in flight is not its business."""
        self.db = CapturedDatabase(node, slot, node.store.open(node.state.name(slot)))
        self.words = self.db.words
        self.wal = WalCapture(self.db)
        self.image = ImageCapture(self.db, self.wal, self._settle)
        self.held = HeldCommits(self.db, self.wal)
        self.last_event = 0.0
        """CLOCK_MONOTONIC of the last event, in seconds."""
        self.gathering = False
        """The last turn asked to let commits gather: events do not bring the next one forward."""
        self.failing = False
        self.wal_state = Turn.DONE
        self._spool_waits = False
        self._compare_at = 0.0
        recover(self.db)
        if leaves_doubt:
            self.held.leave()
        else:
            self.held.resume()

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but commits to look after: no drop, no raw write, no image."""
        words, db = self.words, self.db
        return (
            words[Word.GONE_SEQ] == words[Word.GONE_DONE]
            and words[Word.RAW_HINT] == words[Word.RAW_HINT_DONE]
            and words[Word.KIND] == KIND_DATABASE
            and not (db.compare_wanted or db.is_new or db.is_dropped)
        )

    def is_quick(self, now: float) -> bool:
        """Whether the next turn does nothing but look after one small commit: it may be made where others wait."""
        words = self.words
        if not self.is_plain:
            return False
        if words[Word.SPOOL_SEQ] != words[Word.SPOOL_DONE]:
            return not self.db.node.quorum.holds and not words[Word.HAS_WAL] and self._next_spool_is_small()
        if self._may_have_gone():
            return False
        if self.db.node.quorum.holds:
            flight = self.held.flight
            return (self.held.is_asked or (flight is not None and flight.span is not None)) and self.held.is_small
        content = self.wal.content
        assert content is not None
        return 0 < words[Word.WAL_END] - content.cursor.end <= _SMALL_BYTES and now - self.last_event < LIVELY_S

    def _next_spool_is_small(self) -> bool:
        path = spool_path(runtime_dir(self.db.node.config), self.db.slot, self.words[Word.SPOOL_DONE] + 1)
        try:
            return path.stat().st_size <= _SMALL_BYTES
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release all descriptors."""
        self.wal.close()
        self.held.close()

    def turn(self, now: float) -> float:
        """Capture the next piece; returns the seconds after which to look again (NEVER: after the next event)."""
        words = self.words
        self.gathering = False
        if self.held.flight is not None:
            pause = self.held.settle(now, now - self.last_event)
            if pause is not None:
                return pause
        if words[Word.GONE_SEQ] != words[Word.GONE_DONE]:
            return self._drop(now)
        if words[Word.SPOOL_SEQ] != words[Word.SPOOL_DONE] and self._next_spool(None):
            return 0.0
        if self._may_have_gone() and self._next_gone(None):
            return 0.0
        if words[Word.KIND] != KIND_DATABASE:
            return self._no_database()
        if (self.db.compare_wanted or words[Word.RAW_HINT] != words[Word.RAW_HINT_DONE]) and now >= self._compare_at:
            if self.image.capture():
                self.held.compared()
                return 0.0
            self._compare_at = now + RETRY_S
        pause = min(self._wal_turn(now), self._compare_at - now if self._compare_at > now else NEVER)
        return self._held_turn(now, pause)

    def _held_turn(self, now: float, pause: float) -> float:
        """Capture the commit that the mount holds back, once everything before it is captured."""
        if not self.held.is_asked or self.wal_state is Turn.MORE:
            return min(pause, _HELD_AGAIN_S) if self._spool_waits else pause
        if self.db.compare_wanted or self.db.is_new or self.db.is_dropped:
            return min(pause, self.held.wait(now))
        return min(pause, self.held.capture(now))

    def finish(self, deadline: float) -> None:
        """Capture everything that programs have written; their locks are ours (or nobody has any).

        Raises:
            LockTimeout: something stays in the way until ``deadline`` (CLOCK_MONOTONIC, seconds).
        """
        self.last_event = 0.0  # nobody writes any more: what looks like a quiet moment is one
        self.wal.alone = True
        self.held.finish()
        while not self._finished():
            if time.monotonic() > deadline:
                raise LockTimeout(f"{self.db.name}: what programs wrote could not be captured in time")

    def _finished(self) -> bool:
        """One turn; whether it found nothing left."""
        words, before = self.words, self.db.store.position.txid
        if words[Word.DIRTY_RAW] and words[Word.SPOOL_SEQ] == words[Word.SPOOL_DONE]:
            self._ask_for_raw(words[Word.EVENT_SEQ])
        pause = self.turn(time.monotonic())
        done = (
            self.db.store.position.txid == before
            and not words[Word.DIRTY_RAW]
            and not self.db.compare_wanted
            and words[Word.SPOOL_SEQ] == words[Word.SPOOL_DONE]
            and words[Word.GONE_SEQ] == words[Word.GONE_DONE]
            and (words[Word.RAW_HINT] == words[Word.RAW_HINT_DONE] or words[Word.KIND] != KIND_DATABASE)
            and self.wal_state is not Turn.MORE
            and self._oldest_gone() is None
        )
        if not done and pause:
            self._compare_at = 0.0
            time.sleep(_FINISH_PAUSE_S)
        return done

    def _wal_turn(self, now: float) -> float:
        """Capture the next group of the live WAL."""
        words = self.words
        before, end = self.db.store.position.txid, words[Word.CAPTURED_END]
        state = self.wal_state = self.wal.turn(now - self.last_event)
        if state is Turn.IMAGE:
            waiting = self.db.compare_wanted
            self.db.want_compare("the WAL does not continue the history")
            return RETRY_S if waiting else 0.0
        if state is Turn.MORE:
            return 0.0
        pause = gather_pause(self.db.store.position.txid - before, words[Word.CAPTURED_END] - end)
        self.gathering = pause > 0
        if pause:
            return pause
        return tail_pause(now - self.last_event) if state is Turn.TAIL else self._idle(now)

    def _idle(self, now: float) -> float:
        """Nothing is left: does something have to be asked for, or begun?"""
        words = self.words
        if self.db.is_new or self.db.is_dropped:
            return self._begin_history(now)
        if not words[Word.DIRTY_RAW]:
            return NEVER
        quiet, events = time.monotonic_ns() - words[Word.LAST_WRITE_NS], words[Word.EVENT_SEQ]
        if quiet < QUIET_NS:
            return (QUIET_NS - quiet) / 1e9
        if quiet >= LOCKED_QUIET_NS or not self.wal.is_locked_for_writing():
            self._ask_for_raw(events)
        return RETRY_S

    def _ask_for_raw(self, events: int) -> None:
        """Have the mount hand over what was written without a commit, unless there were more events since."""
        self.words[Word.RAW_ASK] = events
        self.db.node.state.node[NodeWord.MOUNT_ASKED] += 1
        self.db.node.bells.mount.ring()

    def _begin_history(self, now: float) -> float:
        """Nothing is captured and no commit is announced: the file was there before, or was written raw."""
        if self.db.compare_wanted:
            return NEVER
        quiet = now - self.last_event
        if self.words[Word.HAS_JOURNAL] and quiet < RETRY_S:
            return RETRY_S
        if quiet < QUIET_S:
            return QUIET_S - quiet
        self.db.want_compare("its history begins")
        return 0.0

    def _no_database(self) -> float:
        if self.words[Word.KIND] == KIND_OTHER and not self.db.is_new and not self.db.is_dropped:
            self.db.node.problems.report(
                NotADatabase.code, "the file is no SQLite database any more; nothing is replicated", self.db.name
            )
        return NEVER

    # in order

    def _settle(self) -> bool:
        """Capture what is older than the present image (a lock keeps more from coming)."""
        words = self.words
        for _ in range(_SETTLE_TURNS):
            if words[Word.GONE_SEQ] != words[Word.GONE_DONE]:
                return False
            has_spool = words[Word.SPOOL_SEQ] != words[Word.SPOOL_DONE]
            if not (has_spool and self._next_spool(None)) and not self._next_gone(None):
                return True
        return False

    def _next_spool(self, below_drop: int | None) -> bool:
        """Capture the oldest spool; False when there is none (older than a drop)."""
        words = self.words
        seq = words[Word.SPOOL_DONE] + 1
        if seq > words[Word.SPOOL_SEQ]:
            return False
        path = spool_path(runtime_dir(self.db.node.config), self.db.slot, seq)
        if not path.exists():
            path = spool_path(self.db.node.store.data_dir, self.db.slot, seq)
        try:
            spool = read_spool(path)
            if below_drop is not None and spool.gone_seq >= below_drop:
                return False
            if spool.is_held and not self._held_spool(spool, seq):
                return False
            if not spool.is_held:
                self._capture_spool(spool)
        except FileNotFoundError:
            self.db.want_compare(f"spool {seq} is missing")
        except CorruptStore as damage:
            self.db.want_compare(damage.message)
        self.db.node.failpoint("capture.before-spool-unlink")
        path.unlink(missing_ok=True)
        words[Word.SPOOL_DONE] = seq
        return True

    def _held_spool(self, spool: Spool, number: int) -> bool:
        """Capture a rollback-mode commit that waits; False: not now."""
        verdict = self.held.spooled(number, time.monotonic())
        self._spool_waits = verdict is False
        if verdict:
            try:
                self._capture_spool(spool)
            finally:
                self.held.spool_taken()
        return verdict is not False

    def _capture_spool(self, spool: Spool) -> None:
        while self._next_gone(spool.wal_gen):
            continue
        if self.words[Word.HAS_WAL] and self.words[Word.WAL_GEN] <= spool.wal_gen and not self.db.is_new:
            while self.wal.turn(0.0) is Turn.MORE:
                continue
        if spool.is_raw and self.words[Word.HAS_WAL]:
            # The database file may hold older pages than the WAL: only the image as readers see it counts.
            self.db.want_compare("a raw write beside a WAL")
            return
        try:
            if not capture_spool(self.db, spool):
                self.db.want_compare("a commit changed less than the whole database, whose history begins")
        except NotADatabase as wrong:
            self.db.node.problems.report(wrong.code, f"{wrong.message}. Nothing is replicated", self.db.name)

    def _next_gone(self, up_to: int | None) -> bool:
        """Capture a piece of the oldest unlinked WAL (of generation ``up_to`` or older); False when there is none."""
        found = self._oldest_gone()
        if found is None or (up_to is not None and found[0] > up_to):
            return False
        generation, path = found
        state = Turn.DONE if self.db.is_new else self.wal.gone(path, generation)
        if state is Turn.IMAGE or self.db.is_new:
            self.db.want_compare("an unlinked WAL does not continue the history")
        if state is not Turn.MORE:
            path.unlink(missing_ok=True)
            if self.wal.content is not None and self.wal.content.generation == generation:
                self.wal.forget()
        return True

    def _may_have_gone(self) -> bool:
        """Whether the WAL that is being captured is not the live one: a folder is not listed in every turn."""
        content, words = self.wal.content, self.words
        return content is None or content.generation != words[Word.WAL_GEN] or not words[Word.HAS_WAL]

    def _oldest_gone(self) -> tuple[int, Path] | None:
        try:
            names = os.listdir(self.db.directory)
        except FileNotFoundError:
            return None
        found = [(int(match[1]), self.db.directory / name) for name in names if (match := _GONE.fullmatch(name))]
        return min(found, default=None)

    def _drop(self, now: float) -> float:
        """The database was deleted: capture what is older, then write the deletion."""
        words, db = self.words, self.db
        drop = words[Word.GONE_SEQ]
        if self._next_spool(drop):
            return 0.0
        if not db.is_new and not db.is_dropped:
            while self._next_gone(None):
                continue
            db.publish([], db.store.page_size, 0, 1)
        self.close()
        db.store.set_wal_mark(0, 0, 0, 0)
        db.compare_wanted = False
        self.held.compared()
        words[Word.GONE_DONE] = drop
        self.last_event = now
        return 0.0
