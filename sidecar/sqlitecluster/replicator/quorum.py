"""Acknowledgements of one primary: who has what, which held commit may be completed.

``NodeServices.quorum``. The capture thread says what it appended (``published``) and what
became of it; streams (event loop) say who acknowledged what; a commit that has enough
acknowledgements and is durable here is released to the mount by whoever notices first.

Rules:
    1. A commit is released (``HELD_DONE``) only when it is durable in the own log and enough
       members hold it. Nothing is counted before ``set_members`` said who counts, if this
       node is elected.
    2. Replicas may show what ``committed`` says: what programs of this node can see, too.
    3. Every method may be called from any thread; ``on_short`` and ``on_committed`` come in
       the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.replication.position import Position
from sqlitecluster.replication.quorum import AckTable
from sqlitecluster.shared import NodeWord, Word

if TYPE_CHECKING:
    from sqlitecluster.replicator.services import NodeServices

TELL_S: Final = 0.005
"""So long a lone commit waits for the next transaction to tell replicas about it."""
SLOW_SYNC_S: Final = 0.002
_NOBODY: Final[frozenset[int]] = frozenset()


@dataclass(slots=True)
class _Held:
    words: memoryview
    seq: int
    local: bool = False
    """Durable in this node's log."""


class QuorumView:
    """What commits of this node wait for."""

    def __init__(self, node: NodeServices) -> None:
        config = node.config.replication
        self._node = node
        self._lock = threading.Lock()
        self._acks = config.acks if config.is_quorum else 0
        self._table = AckTable(self._acks)
        self._held: dict[str, _Held] = {}
        self._committed: dict[str, int] = {}
        self._presented: dict[int, tuple[str, str]] = {}
        """Name and zone that a replica presented itself with."""
        self._news: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._sync_s = 0.0
        """How long the last sync of the log took."""
        self._syncing: ThreadPoolExecutor | None = None
        self._unsynced: list[str] = []
        self._is_degraded = False
        self.results = {"committed": 0, "taken_back": 0, "refused": 0}
        """How many held commits came to which end [capture thread]."""
        self.holds = config.holds_back
        """Whether commits are held back."""
        self.on_short: Callable[[], None] = lambda: None
        """A commit has waited for half of its time, and enough replicas are not there."""
        self.on_committed: Callable[[set[str]], None] = lambda _names: None
        """Replicas may show more of these databases."""
        if self._acks and node.config.election is not None:
            self._table.set_members(_NOBODY)

    # the event loop

    def attach(self) -> None:
        """[event loop] Callbacks come here from now on."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._node.zones.on_change = self.zones_changed

    def begin(self, positions: Mapping[str, Position], committed: Mapping[str, int]) -> None:
        """This node is the primary, and has this; ``committed``: TXIDs up to which programs surely can see it."""
        with self._lock:
            self._table.zone = self._zone(self._node.config.name, self._node.config.replication.zone)
            self._committed = {}
            for name, position in positions.items():
                self._table.expect(name, position)
        if self.holds:
            for name, txid in committed.items():
                self.commit(name, txid)

    def hold(self, *, on: bool) -> None:
        """Have the mount hold commits back, or let them pass."""
        node = self._node.state.node
        node[NodeWord.HOLD_MS] = int(self._node.config.replication.ack_timeout_s * 1000)
        node[NodeWord.HOLD] = int(on and self.holds)

    def join(self, replica: int, name: str, zone: str) -> None:
        """A stream began."""
        with self._lock:
            self._presented[replica] = (name, zone)
            self._table.join(replica, self._zone(name, zone))

    def leave(self, replica: int) -> None:
        """A stream ended."""
        with self._lock:
            self._table.leave(replica)

    def zones_changed(self) -> None:
        """The operator said something new about zones: count again."""
        with self._lock:
            self._table.zone = self._zone(self._node.config.name, self._node.config.replication.zone)
            for replica in self._table.connected:
                self._table.set_zone(replica, self._zone(*self._presented.get(replica, ("", ""))))
            self._look_at_all()

    def acknowledged(self, replica: int, name: str, position: Position) -> None:
        """A replica holds everything up to this position on disk."""
        with self._lock:
            self._table.note(replica, name, position)
            self._look(name)

    def set_members(self, members: frozenset[int] | None) -> None:
        """Who counts; None: everybody who is connected."""
        with self._lock:
            self._table.set_members(members)
            self._look_at_all()

    def degrade(self, is_degraded: bool) -> None:
        """Go on with whatever replicas there are, or ask for all acknowledgements again."""
        with self._lock:
            self._is_degraded = is_degraded
            self._table.acks = 0 if is_degraded else self._acks
            self._look_at_all()

    @property
    def is_degraded(self) -> bool:
        """Whether commits go on with too few acknowledgements (``durability: Preferred``)."""
        return self._is_degraded

    @property
    def waiting(self) -> int:
        """Commits that wait now."""
        return len(self._held)

    def in_sync(self, *, members_only: bool = False) -> frozenset[int]:
        """Connected replicas that hold everything."""
        with self._lock:
            found = self._table.in_sync()
            return self._table.counted(found) if members_only else found

    def enough_without(self, replica: int) -> bool:
        """Whether all stays acknowledged when this one counts no more."""
        with self._lock:
            return self._table.enough_without(replica)

    def has_enough(self) -> bool:
        """Whether the configured number of members holds everything."""
        with self._lock:
            acks, self._table.acks = self._table.acks, self._acks
            try:
                return all(self._table.is_committed(name) for name in self._table.expected)
            finally:
                self._table.acks = acks

    def committed(self, name: str) -> int:
        """TXID up to which replicas may show a database; 0: nothing was said yet."""
        return self._committed.get(name, 0)

    # the capture thread

    @property
    def can_commit(self) -> bool:
        """Whether enough members are connected."""
        with self._lock:
            return self._table.can_commit

    def short(self) -> None:
        """A commit has waited too long for enough members."""
        self._call(self._short)

    def published(self, name: str, position: Position, words: memoryview | None = None, seq: int = 0) -> None:
        """A transaction is about to be sent; with ``seq`` it is the commit that the mount holds back."""
        with self._lock:
            self._table.expect(name, position)
            if words is not None:
                self._held[name] = _Held(words, seq)
            else:
                self._held.pop(name, None)

    def make_durable(self, name: str) -> None:
        """Sync the log, then count this node; a disk that is slow is not waited for in the event loop."""
        if threading.get_ident() == self._loop_thread:
            if not self._unsynced:
                asyncio.get_running_loop().call_soon(self._sync_together)
            self._unsynced.append(name)
        else:
            self._sync([name])

    def _sync_together(self) -> None:
        """[event loop] One sync for all commits of one turn."""
        names, self._unsynced = self._unsynced, []
        if self._sync_s > SLOW_SYNC_S:
            if self._syncing is None:
                self._syncing = ThreadPoolExecutor(1, thread_name_prefix="sync")
            self._syncing.submit(self._sync, names)
        else:
            self._sync(names)

    def _sync(self, names: list[str]) -> None:
        began = time.monotonic()
        try:
            self._node.store.log.sync()
        except (SQLiteClusterError, OSError) as error:
            self._node.problems.report("StoreError", f"the log cannot be made durable: {error}")
            return  # it is not counted: the commits fail in time
        self._sync_s = time.monotonic() - began
        self._node.failpoint("hold.after-sync")
        for name in names:
            self._durable(name)

    def _durable(self, name: str) -> None:
        """The held commit is on this node's disk."""
        with self._lock:
            held = self._held.get(name)
            if held is not None:
                held.local = True
                self._look(name)

    def withdraw(self, name: str) -> None:
        """The held commit must not be completed any more, if it was not released yet."""
        with self._lock:
            self._held.pop(name, None)

    def commit(self, name: str, txid: int) -> None:
        """Programs can see this transaction: replicas may show it."""
        self._committed[name] = txid
        with self._lock:
            first = not self._news
            self._news.add(name)
        if first:
            self._call(self._tell_soon)

    # inside

    def _zone(self, name: str, configured: str) -> str:
        return self._node.zones.of(name, configured)

    def _look_at_all(self) -> None:
        for name in list(self._held):
            self._look(name)

    def _look(self, name: str) -> None:
        held = self._held.get(name)
        if held is None or not held.local or not self._table.is_committed(name):
            return
        del self._held[name]
        held.words[Word.HELD_DONE] = held.seq
        self._node.bells.mount.ring()

    def _call(self, call: Callable[[], None]) -> None:
        if threading.get_ident() == self._loop_thread:
            call()
        elif self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the node stops
                self._loop.call_soon_threadsafe(call)

    def _short(self) -> None:
        self.on_short()

    def _tell_soon(self) -> None:
        assert self._loop is not None
        self._loop.call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        with self._lock:
            names, self._news = self._news, set()
        self.on_committed(names)
