"""The apply thread of a replica: received transactions become visible, in order.

``replicator.node`` makes an ``Applier``, the stream client puts work into its queue. The
thread also takes the role locks of databases that programs want to open (``LOCK_WANTED``)
and keeps every WAL short (``checkpoint``; long copies run in a helper thread).

Rules:
    1. Order is kept per database. A database that waits (a lock, a WAL that must drain,
       a full disk) holds up only itself and the markers behind it.
    2. An error concerns one database: it is reported, and the stream client is told to
       claim it anew (``reclaim``) or to ask for a snapshot (``resync``).
    3. Nothing in the loop blocks for longer than a lock's short wait.
"""

from __future__ import annotations

import functools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sqlitecluster.errors import (
    Diverged,
    FormatError,
    LimitError,
    LockTimeout,
    NoSpace,
    NotADatabase,
    PositionMismatch,
    SQLiteClusterError,
    StoreError,
    Unavailable,
)
from sqlitecluster.replicator.drain import Drainer
from sqlitecluster.replicator.install import Image, state_of
from sqlitecluster.replicator.judging import Verdict
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.mend_replica import mend
from sqlitecluster.replicator.readback import wrong_pages
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.work import (
    Checkpoint,
    Committed,
    Drop,
    Epoch,
    Install,
    Marker,
    Transaction,
    Work,
    WorkQueue,
)
from sqlitecluster.shared import Word

log = logging.getLogger(__name__)

RETRY_S: Final = 0.25
_IDLE_S: Final = 0.5
_AT_ONCE_BYTES: Final = 64 << 10
_BUSY_S: Final = 0.001
_LOOK_S: Final = 2.0
_PASSING: Final = (LockTimeout.code, NoSpace.code, StoreError.code)
"""Problems that are over when the next change works."""


def _nobody(_name: str) -> None:
    """Default of the callbacks: no stream client."""


class Applier:
    """Owns every ``ReplicaDb`` of the node; one thread, ``apply``."""

    def __init__(
        self,
        node: NodeServices,
        on_room: Callable[[], None] = lambda: None,
        paths: Callable[[str], DbPaths | None] = lambda _name: None,
        databases: dict[str, ReplicaDb] | None = None,
    ) -> None:
        """``databases``: those that were seized already while this node was the primary."""
        self._node = node
        self._paths = paths  # None: below the mount, with its -wal in the data directory
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Closed with this object: a late ``wake`` must not write into a file that got the number.
        self._wake_file = os.fdopen(self._wake_fd, "rb", buffering=0)
        self.queue = WorkQueue(self.wake, on_room)
        """Where the stream client puts its work."""
        self.resync: Callable[[str], None] = _nobody
        """Called in the apply thread: only a snapshot helps this database."""
        self.reclaim: Callable[[str], None] = _nobody
        """Called in the apply thread: a transaction did not continue the position."""
        self.on_logged: Callable[[str], None] = _nobody
        """Called by the thread that did it: acknowledge a transaction once the log is durable."""
        self._databases: dict[str, ReplicaDb] = dict(databases or {})
        self._waiting: deque[Work] = deque()
        self._stopped: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._hold_at: dict[str, float] = {}
        self._look_at: dict[str, float] = {}
        """When to look whether a file that is no database is still there, where one should be."""
        self._drainer = Drainer(node, self.wake)
        self._stopping = False
        self._turn_lock = threading.Lock()
        """Held by whoever touches databases: the apply thread in its turns, or ``apply_now``."""
        self._thread: threading.Thread | None = None

    # for other threads

    def start(self) -> None:
        """Adopt kept locks and show positions, then serve; returns when the locks are in order."""
        self._adopt()
        self._thread = threading.Thread(target=self._run, name="apply", daemon=True)
        self._thread.start()

    def stop(self, *, release: bool = False) -> None:
        """End the thread. ``release``: give the locks back; else the supervisor's duplicates keep them."""
        for db in self.retire():
            if release:
                db.close()
            else:
                db.leave()

    def retire(self) -> list[ReplicaDb]:
        """End the thread and give the databases away, with their locks (the node becomes the primary)."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
        self._drainer.close()
        return list(self._databases.values())

    def make_ready(self, name: str) -> bool:
        """[after ``retire``] Complete a database for programs: nothing is left that readers do not see.

        False for one that still is the programs': nothing was applied to it meanwhile.

        Raises:
            SQLiteClusterError: it cannot be made so.
        """
        db = self._database(name)
        if db.is_programs:
            return False
        db.store.set_commit_limit(None)
        if Image.find(db.store.dir) is not None or db.store.applied != db.store.position.txid:
            db.open()
        db.catch_up()
        db.hand_over()
        return True

    def apply_now(self, work: Transaction | Committed) -> bool:
        """[the thread that fills the queue] Apply a small transaction in this very call; False leaves it to the queue.

        A hand-over to the apply thread costs two wake-ups, as much as the work itself. So while that
        thread sleeps, nothing waits and the database is open, its work is done by whoever brought it.
        """
        if (isinstance(work, Transaction) and len(work.ltx) > _AT_ONCE_BYTES) or not self._turn_lock.acquire(
            blocking=False
        ):
            return False
        try:
            db = self._databases.get(work.name)
            if self._waiting or not self.queue.is_empty or self._stopping or db is None or db.session is None:
                return False
            if self._must_wait(work.name, time.monotonic()):
                return False
            return self._do(work)
        finally:
            self._turn_lock.release()

    def mend(self, name: str, suspects: Sequence[int], good: Mapping[int, bytes]) -> Verdict:
        """[any thread] Look at suspected pages of a database, and put good ones in their place; see ``mend_replica``.

        Raises:
            Unavailable: this node is about to be no replica any more.
            LockTimeout: not now.
        """
        with self._turn_lock:
            if self._stopping:
                raise Unavailable("the role of this node changes")
            db = self._database(name)
            self._drainer.settle(name)
            found = mend(db, suspects, good)
            self._drainer.look(db)
            return found

    @property
    def quiet(self) -> bool:
        """Nothing waits and no WAL is being written back."""
        return not self.queue.waiting_bytes and not self._drainer.busy

    def wake(self) -> None:
        """Make the thread look for work now."""
        os.eventfd_write(self._wake_fd, 1)

    # the thread

    def _adopt(self) -> None:
        state = self._node.state
        kept = {int(key.partition(":")[0]) for key in self._node.supervisor.kept}
        for slot in range(state.count):
            name = state.name(slot)
            words = state.slot(slot)
            if slot in kept or words[Word.LOCKED] or name in self._databases or self._was_written(name, words):
                self._hold(name)
            else:
                self._database(name).show_position()

    def _was_written(self, name: str, words: memoryview) -> bool:
        """Whether programs have this database open for writing, or left something to be taken over under its locks."""
        if self._node.config.role != "elected":
            return False
        if words[Word.WRITERS]:
            return True
        db = self._database(name)
        try:
            return db.is_programs and not db.take_closed()
        except (SQLiteClusterError, OSError) as error:
            log.warning("%s: %s", name, error)
            return True

    def _run(self) -> None:
        bell = self._node.bells.replicator
        poll = select.poll()
        poll.register(bell.fd, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while not self._stopping:
            try:
                bell.going_to_sleep()
                poll.poll(self._pause_ms())
                bell.woke()
                self._clear_wake()
                with self._turn_lock:
                    self._turn()
            except Exception:
                log.exception("apply: unexpected error; the thread goes on")
                time.sleep(RETRY_S)

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return

    def _pause_ms(self) -> float:
        if self._locks_wanted(all_of_them=False):
            return 0
        wait = _IDLE_S
        if self._waiting and not self._retry_at:
            wait = _BUSY_S
        elif self._retry_at:
            wait = max(0.0, min(self._retry_at.values()) - time.monotonic())
        if self._drainer.draining:
            wait = min(wait, _BUSY_S)
        return wait * 1000

    def _turn(self) -> None:
        for slot in self._locks_wanted():
            self._hold(self._node.state.name(slot))
        if self._look_at:
            self._look_again()
        self._drainer.turn()
        self._waiting.extend(self.queue.take())
        if self._waiting:
            self._work_off()

    def _locks_wanted(self, *, all_of_them: bool = True) -> list[int]:
        """Slots for which a program waits; those that failed lately only when their time has come."""
        state = self._node.state
        wanted = state.column(Word.LOCK_WANTED)
        locked = state.column(Word.LOCKED)[: len(wanted)]  # the mount may have given out a slot between the two
        slots = [int(i) for i in ((wanted == 1) & (locked == 0)).nonzero()[0]]
        now = time.monotonic()
        return [slot for slot in slots if self._hold_at.get(state.name(slot), 0.0) <= now]

    def _work_off(self) -> None:
        """Do what can be done now, in order; the rest waits."""
        left: deque[Work] = deque()
        now = time.monotonic()
        blocked: set[str] = set()
        for work in self._waiting:
            if isinstance(work, Marker):
                if left:
                    left.append(work)
                else:
                    self._done(work)
                    work.reached()
                continue
            if work.name in blocked or self._must_wait(work.name, now):
                left.append(work)
            elif self._do(work):
                self._done(work)
            else:
                blocked.add(work.name)
                left.append(work)
        self._waiting = left

    def _must_wait(self, name: str, now: float) -> bool:
        return self._drainer.is_draining(name) or self._retry_at.get(name, 0.0) > now

    def _done(self, work: Work) -> None:
        self.queue.done(work)

    def _note_epoch(self, work: Epoch) -> None:
        """All that the primary had at ``txid`` is here: from now on this history is of its epoch."""
        store = self._database(work.name).store
        if store.position.txid >= work.txid and work.epoch > store.epoch:
            store.set_epoch(work.epoch)

    def _do(self, work: Transaction | Committed | Install | Drop | Epoch | Checkpoint) -> bool:
        """True when the work is over (done, known already, or refused for good)."""
        name = work.name
        if isinstance(work, Epoch):
            self._note_epoch(work)
            return True
        if isinstance(work, Checkpoint):
            if (db := self._databases.get(name)) is not None:
                self._drainer.announced(db)
            return True
        if name in self._stopped and not isinstance(work, Install):
            return True
        try:
            self._change(work)
        except (LockTimeout, NoSpace, OSError) as error:
            self._later(name, error)
            return False
        except (Diverged, FormatError, LimitError) as error:
            self._stop(name, error)
        except PositionMismatch as error:
            log.info("%s: %s; claiming it anew", name, error.message)
            self._drainer.settle(name)
            self.reclaim(name)
        except SQLiteClusterError as error:
            self._stop(name, error)
        except Exception as error:
            log.exception("%s: unexpected error", name)
            self._stop(name, StoreError(f"unexpected error: {error!r}"))
        return True

    def _change(self, work: Transaction | Committed | Install | Drop) -> None:
        db = self._database(work.name)
        if isinstance(work, Transaction | Committed):
            self._catch_up(db)  # a whole image needs nothing of what was there: that may be why one was asked for
        if isinstance(work, Committed):
            db.commit(work.txid)
        elif isinstance(work, Transaction):
            if not work.is_held and db.store.commit_limit is not None:
                db.commit(None)  # what follows it says that it is this primary's history, too
            db.apply(work.ltx, is_held=work.is_held)
            if work.is_held:
                self.on_logged(work.name)
            if self._node.config.verify == "EveryTransaction" and db.session is not None:
                self._read_back(db, work.ltx)
        else:
            self._drainer.settle(work.name)
            if isinstance(work, Install):
                db.install_image(work)
                self._stopped.discard(work.name)
                self._node.problems.clear("Diverged", work.name)
            else:
                db.drop(work.position)
        self._drainer.look(db)
        if self._retry_at.pop(work.name, None) is not None:
            for code in _PASSING:
                self._node.problems.clear(code, work.name)

    def _read_back(self, db: ReplicaDb, ltx: bytes) -> None:
        wrong = wrong_pages(db.store, ltx)
        if wrong:
            text = f"pages {wrong[:10]} are not what was replicated; a snapshot is asked for"
            self._node.problems.report("ImageDamaged", text, db.name)
            self.resync(db.name)

    def _catch_up(self, db: ReplicaDb) -> None:
        """Finish what an error (a full disk) left between the log and the readers."""
        if db.session is not None and db.store.applied != db.store.position.txid:
            db.catch_up()

    def _hold(self, name: str) -> None:
        """Make a database ready for programs; what cannot be done now is tried again."""
        self._hold_at[name] = time.monotonic() + RETRY_S
        try:
            db = self._database(name)
            db.hold()
            if self._node.config.role == "elected":
                self._drainer.look(db)  # programs may have left a long log
        except (LockTimeout, NoSpace, OSError) as error:
            self._report(name, error)
        except SQLiteClusterError as error:
            self._stop(name, error)

    def _later(self, name: str, error: Exception) -> None:
        self._report(name, error)
        self._retry_at[name] = time.monotonic() + RETRY_S

    def _report(self, name: str, error: Exception) -> None:
        code = error.code if isinstance(error, SQLiteClusterError) else "StoreError"
        text = error.message if isinstance(error, SQLiteClusterError) else str(error)
        self._node.problems.report(code, text, name)

    def _stop(self, name: str, error: SQLiteClusterError) -> None:
        """This database does not go on by itself."""
        self._node.problems.report(error.code, error.message, name)
        self._stopped.add(name)
        if isinstance(error, NotADatabase):
            self._look_at[name] = time.monotonic() + _LOOK_S
        else:
            self.resync(name)

    def _look_again(self) -> None:
        """What stood in the way of a database may have been removed."""
        now = time.monotonic()
        for name in [name for name, at in self._look_at.items() if at <= now]:
            self._look_at[name] = now + _LOOK_S
            try:
                state_of(self._database(name).paths.database)
            except (SQLiteClusterError, OSError):
                continue
            del self._look_at[name]
            self._stopped.discard(name)
            self._node.problems.clear(NotADatabase.code, name)
            self.resync(name)

    def _database(self, name: str) -> ReplicaDb:
        db = self._databases.get(name)
        if db is None:
            db = self._databases[name] = ReplicaDb(self._node, name, self._paths(name))
            db.before_close = functools.partial(self._drainer.settle, name)
        return db
