"""Keys that have to be looked at: each once at a time, coalesced, with back-off after failures.

``add`` may be called as often as one likes: a key that waits is not queued twice, and a key
that is being worked on is looked at again afterwards. What is added ``leisurely`` comes after all
else: a round through every cluster must not keep an edit waiting. Failures are retried after a delay that
doubles, and begins anew when a try came further; a new ``add`` does not shorten the delay of
a key that fails (its cause may be the load).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 15.0
_SOON: Final = 0
_LEISURELY: Final = 1


class Backoff(Generic[Key]):
    """How long each failing key has to wait. Pure."""

    def __init__(self, first_s: float = BACKOFF_FIRST_S, max_s: float = BACKOFF_MAX_S) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._failures: dict[Key, int] = {}

    def failed(self, key: Key, at_least_s: float = 0.0) -> float:
        """The delay after one more failure."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        return max(float(min(self._max_s, self._first_s * 2 ** min(count, 16))), at_least_s)

    def succeeded(self, key: Key) -> None:
        """Start from the beginning next time."""
        self._failures.pop(key, None)


class WorkQueue(Generic[Key]):
    """Runs ``work`` for keys with a bounded number of workers."""

    def __init__(self, work: Callable[[Key], Awaitable[float | None]], workers: int = 4) -> None:
        self._work = work
        self._workers = workers
        self._ready: asyncio.PriorityQueue[tuple[int, int, Key]] = asyncio.PriorityQueue()
        self._queued: dict[Key, int] = {}
        """Keys that wait, and how urgently; an entry of ``_ready`` that says something else was overtaken."""
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._not_before: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._counter = 0
        self._changed = asyncio.Event()
        self._backoff: Backoff[Key] = Backoff()
        self.failures = 0

    def add(self, key: Key, *, leisurely: bool = False) -> None:
        """Look at this key soon; ``leisurely``: when nothing else is to be done."""
        order = _LEISURELY if leisurely else _SOON
        delay = self._not_before.get(key, 0.0) - asyncio.get_running_loop().time()
        if delay > 0:
            self.add_after(key, delay)
        elif key in self._active:
            self._again.add(key)
        elif self._queued.get(key, _LEISURELY + 1) > order:
            self._queued[key] = order
            self._counter += 1
            self._ready.put_nowait((order, self._counter, key))

    def add_after(self, key: Key, delay_s: float) -> None:
        """Look at this key after a while, or earlier when something else asks for it. One timer a key: the first."""
        due = asyncio.get_running_loop().time() + delay_s
        if self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        self._counter += 1
        heapq.heappush(self._timers, (due, self._counter, key))
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_timers())
            for _ in range(self._workers):
                group.create_task(self._run_worker())

    async def _run_worker(self) -> None:
        while True:
            order, _, key = await self._ready.get()
            if self._queued.get(key) != order:
                continue
            del self._queued[key]
            self._active.add(key)
            self._due.pop(key, None)
            try:
                await self._run_one(key)
            finally:
                self._active.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _run_one(self, key: Key) -> None:
        try:
            delay = await self._work(key)
        except Exception as error:
            self.failures += 1
            if getattr(error, "progressed", False):
                self._backoff.succeeded(key)
            wait = self._backoff.failed(key, getattr(error, "retry_after_s", None) or 0.0)
            if getattr(error, "old_news", False):
                wait /= 10
            expected = getattr(error, "expected", False) or hasattr(error, "retry_after_s")
            log.warning("%s: %s; next try in %.1f s", key, error, wait, exc_info=not expected)
            self._not_before[key] = asyncio.get_running_loop().time() + wait
            self.add_after(key, wait)
            return
        self._backoff.succeeded(key)
        self._not_before.pop(key, None)
        if delay is not None:
            self.add_after(key, delay)

    async def _run_timers(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = loop.time()
            while self._timers and self._timers[0][0] <= now:
                due, _, key = heapq.heappop(self._timers)
                if self._due.get(key) == due:  # else an earlier look made this one needless
                    del self._due[key]
                    self.add(key)
            wait = self._timers[0][0] - now if self._timers else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue
