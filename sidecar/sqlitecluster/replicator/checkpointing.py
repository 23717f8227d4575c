"""Keeps the WALs of a primary short, and tells replicas when theirs may be.

Made by ``roles.PrimaryRole``; one thread, ``checkpoint``. Programs run checkpoints themselves, at
1,000 pages unless they said otherwise, and are left alone as long as these get on. Where they do
not, because a program switched them off or a reader was in the way at each of them, the log is
written back here (``backfill_primary``).

    threshold       more pages than this wait, at two looks, and nobody wrote any back: write back
    LONG thresholds write back whatever programs do: readers that overlap let their own checkpoints
                    end, and the log never start over
    a reader stays  the process is named, in a metric and from ``PINNED`` thresholds on as a problem
    all written     a program did it, or we: the position is announced to the replicas

Rules:
    1. Nothing here is needed for anything else to be right: what fails is tried again later.
    2. A pass ends early when the role is about to change.
    3. What is announced is a hint: replicas write back what they have applied, whatever it says.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.replicator import facts, locks
from sqlitecluster.replicator.backfill_primary import MOST_AT_ONCE, Joined, reader_in_the_way
from sqlitecluster.replicator.services import NodeServices, Pin
from sqlitecluster.replicator.walfile import FRAME_HEADER_SIZE, HEADER_SIZE
from sqlitecluster.shared import ROLE_PRIMARY, SLOTS, NodeWord, Word

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
LONG: Final = 4
PINNED: Final = 8
_LONGEST_PAUSE_S: Final = 2.0
_STAYS_S: Final = 1.0
"""A reader that is in the way for so long is named."""
_LEAST_PAGE: Final = 512
_SMALL: Final = 8
"""Of logs below this part of the threshold only the end is noticed."""
_NEWS_S: Final = 2.0
"""So long after a change it is looked whether somebody wrote the log back."""


@dataclass(slots=True)
class LogState:
    """What was seen of one database's log."""

    generation: int = 0
    txid: int = 0
    """Newest transaction that was captured by the last look, in this generation or an older one."""
    announced: int = 0
    backfilled: int = -1
    changed_at: float = 0.0
    not_before: float = 0.0
    pause_s: float = LOOK_S
    failing_since: float = 0.0
    settled: tuple[int, int] = (0, 0)
    """Generation and end of a log that was found written back whole."""


class Checkpoints:
    """The thread, and what it knows."""

    def __init__(self, node: NodeServices, announce: Callable[[str, int], None] = lambda _name, _txid: None) -> None:
        """``announce(name, txid)``: all up to this transaction is in the database file; called in the thread."""
        self._node = node
        self._pages = node.config.replication.checkpoint_pages
        self._announce = announce
        self._small_bytes = HEADER_SIZE + self._pages // _SMALL * _LEAST_PAGE
        self._logs: dict[int, LogState] = {}
        self._generations: npt.NDArray[np.uint64] = np.zeros(SLOTS, np.uint64)
        self._txids: npt.NDArray[np.uint64] = np.zeros(SLOTS, np.uint64)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a pass that runs ends early."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for slot in self._logs:
            self._resolved(self._node.state.name(slot))

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                log.exception("checkpoints: unexpected error; the thread goes on")

    def _is_over(self) -> bool:
        words = self._node.state.node
        return self._stopping.is_set() or words[NodeWord.ROLE] != ROLE_PRIMARY or words[NodeWord.DRAINING] != 0

    def look(self) -> None:
        """Look at every log once, and write back where that is needed."""
        state = self._node.state
        for slot in self._worth_it():
            if self._is_over():
                return
            words = state.slot(slot)
            known = self._logs.get(slot)
            if known is None:
                known = self._logs[slot] = LogState(words[Word.WAL_GEN], state.position(slot)[0])
            self._look_at(slot, words, known)

    def _worth_it(self) -> list[int]:
        """Slots that changed, or whose log is not small: thousands of idle databases cost nothing."""
        state = self._node.state
        sizes = state.column(Word.WAL_SIZE)
        count = len(sizes)
        generations, txids = state.column(Word.WAL_GEN)[:count], state.column(Word.TXID)[:count]
        changed = (generations != self._generations[:count]) | (txids != self._txids[:count])
        self._generations[:count], self._txids[:count] = generations, txids
        return [int(slot) for slot in np.flatnonzero(changed | (sizes > self._small_bytes))]

    def _look_at(self, slot: int, words: memoryview, known: LogState) -> None:
        now, name = time.monotonic(), self._node.state.name(slot)
        self._note_news(slot, words, known, name, now)
        size, page = words[Word.WAL_SIZE], words[Word.PAGE_SIZE]
        frames = (size - HEADER_SIZE) // (page + FRAME_HEADER_SIZE) if words[Word.HAS_WAL] and page else 0
        if frames <= self._pages // _SMALL:
            self._over(name, known)
        elif known.settled == (words[Word.WAL_GEN], words[Word.WAL_END]):
            return
        elif frames > self._pages or (known.announced < known.txid and now < known.changed_at + _NEWS_S):
            self._look_into(name, words, known, now)

    def _note_news(self, slot: int, words: memoryview, known: LogState, name: str, now: float) -> None:
        """A new content: all of the one before is in the database file."""
        generation, txid = words[Word.WAL_GEN], self._node.state.position(slot)[0]
        if generation != known.generation:
            known.generation, known.backfilled = generation, -1
            self._tell(name, known, known.txid)
        if words[Word.WAL_GEN] == generation and txid != known.txid:
            known.txid, known.changed_at = txid, now

    def _tell(self, name: str, known: LogState, txid: int) -> None:
        if txid > known.announced:
            known.announced = txid
            self._announce(name, txid)

    def _look_into(self, name: str, words: memoryview, known: LogState, now: float) -> None:
        """Ask the wal-index how far programs have written back."""
        content = words[Word.WAL_GEN], words[Word.WAL_END]
        found = facts.read_index(self._node.mount_dir, name)
        if found is None:
            return
        frames, done = found
        if frames == done:
            known.settled = content
            self._tell(name, known, known.txid)
        moved, known.backfilled = done != known.backfilled, done
        if frames == done or frames <= self._pages:
            self._over(name, known)
            return
        is_long = frames > LONG * self._pages
        if now < known.not_before or not (is_long or (frames - done > self._pages and not moved)):
            return
        if words[Word.HAS_JOURNAL] or self._is_over():
            return
        self._write_back(name, words, known)

    def _write_back(self, name: str, words: memoryview, known: LogState) -> None:
        store = self._node.store.open(name)
        paths = locks.DbPaths(self._node.mount_dir / name, store.dir / "wal")
        try:
            store.sync()
            joined = Joined.open(paths)
            if joined is None:
                self._again(known)
                return
            try:
                captured = functools.partial(captured_frames, words, joined.page_size)
                committed = functools.partial(committed_frames, words, joined.page_size)
                joined.write_back(captured, self._is_over)
                frames, done, limit = joined.frames, joined.index.backfilled, captured()
                joined.close_for_programs(captured, committed, self._is_over, lambda: words[Word.WRITERS] != 0)
            finally:
                joined.close()
        except (SQLiteClusterError, OSError) as error:
            log.warning("%s: writing the log back: %s", name, error)
            self._again(known)
            return
        before, known.backfilled = known.backfilled, done
        if done - before >= MOST_AT_ONCE:
            self._over(name, known)  # there is more, and nobody is in the way
        elif frames - done <= self._pages // _SMALL or frames <= self._pages:
            self._over(name, known)
        else:
            self._failed(name, known, (frames, done, limit))

    def _again(self, known: LogState) -> None:
        """Later, and less and less often."""
        known.not_before = time.monotonic() + known.pause_s
        known.pause_s = min(2 * known.pause_s, _LONGEST_PAUSE_S)

    def _over(self, name: str, known: LogState) -> None:
        known.not_before, known.pause_s = 0.0, LOOK_S
        if known.failing_since:
            known.failing_since = 0.0
            self._resolved(name)

    def _failed(self, name: str, known: LogState, found: tuple[int, int, int]) -> None:
        """Frames are left: somebody reads them, or a writer never rests, or capture has not come so far."""
        self._again(known)
        now = time.monotonic()
        known.failing_since = known.failing_since or now
        if now - known.failing_since < _STAYS_S or self._is_over():
            return
        frames, done, captured = found
        pid = reader_in_the_way(locks.DbPaths.plain(self._node.mount_dir / name).shm)
        if pid or done < captured:
            note_pin(self._node, name, Pin(pid, frames - done), serious=frames > PINNED * self._pages)

    def _resolved(self, name: str) -> None:
        clear_pin(self._node, name)


def note_pin(node: NodeServices, name: str, pin: Pin, *, serious: bool) -> None:
    """A reader keeps pages from being written back."""
    node.pins[name] = pin
    if serious:
        who = f"process {pin.pid} reads an old snapshot and" if pin.pid else "a reader"
        node.problems.report("WalPinned", f"{who} keeps the write-ahead log from starting over; it grows", name)


def clear_pin(node: NodeServices, name: str) -> None:
    """Nobody does any more."""
    node.pins.pop(name, None)
    node.problems.clear("WalPinned", name)


def committed_frames(words: memoryview, page_size: int) -> int:
    """Frames of the present log up to the last commit in it, published or not."""
    return max(0, int(words[Word.WAL_END]) - HEADER_SIZE) // (page_size + FRAME_HEADER_SIZE)


def captured_frames(words: memoryview, page_size: int) -> int:
    """Frames of the present log that are captured."""
    generation = words[Word.WAL_GEN]
    if words[Word.CAPTURED_GEN] != generation:
        return 0
    end = words[Word.CAPTURED_END]
    if words[Word.WAL_GEN] != generation:
        return 0
    return max(0, int(end) - HEADER_SIZE) // (page_size + FRAME_HEADER_SIZE)
