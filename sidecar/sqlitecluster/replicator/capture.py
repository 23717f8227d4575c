"""The capture thread of a primary: every commit of every database becomes LTX.

Made by ``replicator.node`` when the node is primary; one thread, ``capture``. It finds
work by comparing one column of shared words (``EVENT_SEQ``) with what it saw last, and
sleeps on the replicator's bell.

Rules:
    1. No queue: whoever looks late sees the newest words.
    2. One database that fails is reported and tried again later; the others go on.
    3. Nothing here waits for another process except by a bounded time.
    4. The event loop itself answers the bell (``attend``) and captures small commits in its own
       turn, two changes of threads less; the thread does what takes long, and leads while
       commits are frequent: naps cost less then than a ring for each. Turns exclude one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import NoSuchDatabase, SQLiteClusterError, Unavailable
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.capture_database import DatabaseCapture
from sqlitecluster.replicator.capture_group import Pages
from sqlitecluster.replicator.capture_pace import HOUSEKEEPING_S, NEVER, RETRY_S, SPIN_S, Pace, nap_or_sleep
from sqlitecluster.replicator.importing import import_image
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import SLOTS, NodeWord, Word
from sqlitecluster.store.spool import list_spools

log = logging.getLogger(__name__)

_PR_SET_TIMERSLACK: Final = 29
_FAILED: Final = "CaptureFailed"
FINISH_S: Final = 10.0
_BUSY_S: Final = 0.0005
"""Between two tries of the event loop while the thread captures."""


class _Order:
    """Somebody waits until everything is captured, or something else is done in the thread."""

    def __init__(self, deadline: float, work: Callable[[], None] | None = None) -> None:
        self.deadline = deadline
        self.work = work
        self.done = threading.Event()
        self.error: Exception | None = None


class Capture:
    """Starts and stops the thread; the rest of its methods may be called from any thread."""

    def __init__(self, node: NodeServices) -> None:
        self._node = node
        self._state = node.state
        self._seen: npt.NDArray[np.uint64] = np.full(SLOTS, np.iinfo(np.uint64).max, np.uint64)
        self._databases: dict[int, DatabaseCapture] = {}
        self._due: dict[int, float] = {}
        self._last_event = 0.0
        self._pace = Pace()
        self._orders: deque[_Order] = deque()
        self._turns = threading.Lock()
        """Held by whoever captures: the thread, or the event loop."""
        self._owner = threading.Lock()
        """Held while it matters who answers the bell."""
        self._leads = True
        """The thread looks for events itself."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_file = os.fdopen(self._wake, "rb", buffering=0)  # closed with this object, not before
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to capture."""
        drop_stale_spools(self._node)
        self._thread.start()

    def attend(self) -> None:
        """[event loop] Answer the bell here from now on."""
        with self._owner:
            self._loop, self._leads = asyncio.get_running_loop(), False
        self._loop.add_reader(self._node.bells.replicator.fd, self._rung)
        self._wake_thread()
        self._rung()

    def leave(self) -> None:
        """[event loop] Answer it no more; before ``stop``."""
        if self._loop is not None:
            self._loop.remove_reader(self._node.bells.replicator.fd)
            with self._owner:
                self._loop, self._leads = None, True
            if self._timer is not None:
                self._timer.cancel()
            self._wake_thread()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Capture what is published now, then end the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._wake_thread()
            self._thread.join(timeout_s)
        for database in self._databases.values():
            database.close()
        self._databases.clear()

    def finish(self, timeout_s: float = FINISH_S) -> None:
        """Capture everything that is committed by now, in the thread; returns when it is in the log.

        Raises:
            LockTimeout: a database could not be captured whole.
            Unavailable: the thread is gone.
        """
        self._wait_for(_Order(time.monotonic() + timeout_s))

    def publish(self, name: str, pages: Pages) -> None:
        """Put pages into the log as one transaction, in the thread; the caller holds locks and writes them.

        Raises:
            NoSuchDatabase: the mount does not know it.
            NoSpace, Unavailable: nothing was changed.
        """
        slot = self._state.find(name)
        if slot is None:
            raise NoSuchDatabase(f"there is no database {name!r} here")

        def work() -> None:
            database = self._database(slot).db
            database.publish(pages, database.store.page_size, database.store.commit, 1)

        self._wait_for(_Order(time.monotonic() + FINISH_S, work))

    def _wait_for(self, order: _Order) -> None:
        self._orders.append(order)
        self._wake_thread()
        while not order.done.wait(0.5):
            if not self._thread.is_alive():
                raise Unavailable("capture is stopping")
        if order.error is not None:
            raise order.error

    def import_image(self, name: str, path: Path) -> Position:
        """Replace a database's content by a SQLite file, as one transaction; returns the position once captured.

        Raises:
            NotADatabase: the file is none.
            LockTimeout: a program kept its lock for too long.
            Unavailable: capture is stopping.
        """
        if self._stopping.is_set():
            raise Unavailable("the node is stopping")
        return import_image(self._node, name, path)

    # the thread

    def _run(self) -> None:
        _set_timer_slack(1)
        poller = select.poll()
        poller.register(self._node.bells.replicator.fd, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while not self._stopping.is_set():
            with self._turns:
                if self._orders:
                    self._carry_out(self._orders.popleft())
                now = time.monotonic()
                beside = not self._leads
                if not beside:
                    self._note_events(now)
                due = [slot for slot, at in self._due.items() if at <= now and self._is_mine(slot, now)]
                for slot in due:
                    self._turn(slot, now)
                pause = min((at for slot, at in self._due.items() if self._is_mine(slot, now)), default=NEVER) - now
            self._state.node[NodeWord.CAPTURE_ALIVE_NS] = time.monotonic_ns()
            if not due and beside:
                self._wait_beside_the_loop(pause)
            elif not due:
                self._wait(poller, now, pause)
        with self._turns:
            self._finish()

    def _wake_thread(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _wait_beside_the_loop(self, pause: float) -> None:
        """The event loop answers the bell; this thread does what is due later, and what takes long."""
        poller = select.poll()  # not select(): a node with many databases has more than 1024 descriptors
        poller.register(self._wake, select.POLLIN)
        if poller.poll(min(max(pause, 0.0), HOUSEKEEPING_S) * 1000):
            self._woken()

    def _rung(self) -> None:
        """[event loop] The bell rang, or something is due."""
        if self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        pause = HOUSEKEEPING_S if self._is_led() else self._answer()
        self._timer = self._loop.call_later(min(pause, HOUSEKEEPING_S), self._rung)

    def _is_led(self) -> bool:
        """[event loop] Whether the thread looks for events now; a late ring of the bell is taken back."""
        with self._owner:
            if self._leads:
                self._node.bells.replicator.woke()
            return self._leads

    def _answer(self) -> float:
        """[event loop] Do what is small; seconds until the next look."""
        bell = self._node.bells.replicator
        bell.woke()
        if not self._turns.acquire(blocking=False):
            bell.going_to_sleep()
            return _BUSY_S
        try:
            pause = self._turn_here(time.monotonic())
        finally:
            self._turns.release()
        if self._pace.is_fast and not self._node.quorum.holds:
            with self._owner:
                self._leads = self._loop is not None
            self._wake_thread()
            return HOUSEKEEPING_S
        bell.going_to_sleep()
        return 0.0 if self._has_news() else pause

    def _turn_here(self, now: float) -> float:
        """[event loop] Do what is small, leave the rest to the thread; seconds until the next small thing is due."""
        self._note_events(now)
        for slot, at in list(self._due.items()):
            if at <= now and not self._is_mine(slot, now):
                self._spin(slot, now)
        quick, others = NEVER, False
        for slot, at in self._due.items():
            if self._is_mine(slot, now):
                others = others or at <= now + HOUSEKEEPING_S
            else:
                quick = min(quick, at)
        if others:
            self._wake_thread()
        return max(quick - now, 0.0)

    def _spin(self, slot: int, now: float) -> None:
        """[event loop] Turns of one database whose program is about to publish what it wrote."""
        limit, database = now + SPIN_S, self._databases[slot]
        while self._due.get(slot, NEVER) <= now < limit and database.is_plain:
            self._turn(slot, now)
            now = time.monotonic()

    def _is_mine(self, slot: int, now: float) -> bool:
        """Whether the thread has to look after it, and not the event loop."""
        database = self._databases.get(slot)
        return self._leads or database is None or not database.is_quick(now)

    def _wait(self, poller: select.poll, now: float, until_due: float) -> None:
        """Until something is due or the bell rings."""
        seconds, with_bell = nap_or_sleep(now - self._last_event, until_due, is_fast=self._pace.is_fast)
        if not with_bell:
            time.sleep(seconds)
            return
        bell = self._node.bells.replicator
        with self._owner:
            self._leads = self._loop is None
            bell.going_to_sleep()
        if not self._leads:
            if self._due or self._has_news():
                bell.ring()
            return
        if not self._stopping.is_set() and not self._orders and not self._has_news():
            poller.poll(seconds * 1000)
        with self._owner:
            if self._loop is None:
                bell.woke()
        self._woken()

    def _has_news(self) -> bool:
        """Whether an event came that was not noted."""
        count = self._state.count
        return not np.array_equal(self._state.column(Word.EVENT_SEQ), self._seen[:count])

    def _note_events(self, now: float) -> None:
        """Databases whose event word moved are due now, unless they gather and nobody waits for capture."""
        column = self._state.column(Word.EVENT_SEQ)
        count = len(column)
        changed = np.flatnonzero(column != self._seen[:count])
        if not len(changed):
            return
        self._last_event = now
        self._pace.note(int((column[changed] - self._seen[changed]).sum()), now)
        for slot in changed.tolist():
            self._seen[slot] = column[slot]
            database = self._databases.get(slot)
            if database is not None:
                database.last_event = now
                if database.gathering and slot in self._due and not self._state.node[NodeWord.PARKED]:
                    continue
            self._due[slot] = now

    def _turn(self, slot: int, now: float) -> None:
        """One turn of one database; a failure is reported and delays only this one."""
        try:
            is_new = slot not in self._databases
            database = self._database(slot)
            if is_new:
                database.last_event = now
            pause = database.turn(now)
            if database.failing:
                database.failing = False
                self._node.problems.clear(_FAILED, database.db.name)
        except (SQLiteClusterError, OSError) as error:
            pause = self._failed(slot, error)
        except Exception as error:  # the thread's top: one database must not stop the others
            log.exception("capture of %s failed", self._state.name(slot))
            pause = self._failed(slot, error)
        if pause == NEVER:
            self._due.pop(slot, None)
        else:
            self._due[slot] = now + pause

    def _failed(self, slot: int, error: Exception) -> float:
        name = self._state.name(slot)
        self._node.problems.report(_FAILED, f"capture does not go on: {error}", name)
        database = self._databases.get(slot)
        if database is not None:
            database.failing = True
            database.wal.forget()
        return RETRY_S

    def _carry_out(self, order: _Order) -> None:
        """Finish every database, or do what is asked; the first failure is told."""
        try:
            if order.work is not None:
                order.work()
        except (SQLiteClusterError, OSError) as error:
            order.error = error
        for slot in range(self._state.count if order.work is None else 0):
            try:
                self._database(slot).finish(order.deadline)
            except (SQLiteClusterError, OSError) as error:
                order.error = order.error or error
        order.done.set()

    def _finish(self) -> None:
        """Before the thread ends: what is published by now is captured."""
        deadline = time.monotonic() + 5.0
        for slot in range(self._state.count):
            while time.monotonic() < deadline:
                self._due.pop(slot, None)
                self._turn(slot, time.monotonic())
                if self._due.get(slot, NEVER) > time.monotonic():
                    break

    def _database(self, slot: int) -> DatabaseCapture:
        database = self._databases.get(slot)
        if database is None:
            database = self._databases[slot] = DatabaseCapture(self._node, slot)
        return database


def drop_stale_spools(node: NodeServices) -> None:
    """Spools of an earlier life of the node: slots were given out anew, so only the image can tell."""
    stale = False
    state = node.state
    for slot, seq, path in list_spools(node.store.data_dir) + list_spools(runtime_dir(node.config)):
        words = state.slot(slot) if slot < state.count else None
        if words is None or not words[Word.SPOOL_DONE] < seq <= words[Word.SPOOL_SEQ]:
            path.unlink(missing_ok=True)
            stale = stale or words is None or seq > words[Word.SPOOL_SEQ]
    if stale:
        for name in node.store.names():
            node.store.open(name).set_needs_compare(True)


def _set_timer_slack(nanoseconds: int) -> None:
    """Let this thread's short sleeps end in time (the default is 50 us late)."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0)
