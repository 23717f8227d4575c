"""From the capture or apply thread into the asyncio thread, by one wake-up per batch.

``Dispatcher.transaction`` is ``NodeServices.on_transaction``. The asyncio side gets
lists of what happened since its last look, in order.

Rules:
    1. At most one wake-up is under way; everything that happens before it runs joins it. What
       happens in the loop itself is delivered at once.
    2. Bounded: beyond ``MAX_BATCH`` waiting entries only the database's newest position
       is kept (streams pull from the store, so they lose nothing; events say it).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlitecluster.ltx import Header
from sqlitecluster.replication.position import Position

MAX_BATCH: Final = 16_384


@dataclass(frozen=True, slots=True)
class Committed:
    """One captured or applied LTX file."""

    name: str
    header: Header
    position: Position


Listener = Callable[[list[Committed]], None]


class Dispatcher:
    """Collects transactions of other threads for listeners in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()  # made in the loop
        self._lock = threading.Lock()
        self._waiting: list[Committed] = []
        self._scheduled = False
        self._listeners: list[Listener] = []
        self.merged = 0

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` in the loop with every batch; before the first transaction."""
        self._listeners.append(listener)

    def transaction(self, name: str, header: Header, position: Position) -> None:
        """Any thread: a transaction is in the log (primary) or visible (replica)."""
        entry = Committed(name, header, position)
        with self._lock:
            if len(self._waiting) >= MAX_BATCH:
                self._merge()
            self._waiting.append(entry)
            if self._scheduled:
                return
            self._scheduled = True
        if threading.get_ident() == self._thread:
            self._deliver()
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # The loop is closed: the node stops, nobody listens any more.
            return

    def _deliver(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
            self._scheduled = False
        for listener in self._listeners:
            listener(batch)

    def _merge(self) -> None:
        newest = {entry.name: entry for entry in self._waiting}
        self.merged += len(self._waiting) - len(newest)
        self._waiting = list(newest.values())
