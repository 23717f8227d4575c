"""A small event loop: descriptors, timers and signals; nothing else.

The supervisor cannot afford asyncio (10 MiB). A nested ``wait_until`` lets a
sequence of steps, such as a clean stop, be written from top to bottom while
children are still being looked after.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

Callback = Callable[[], None]
POLL_MAX_S = 60.0


class Timer:
    """One call in the future; ``cancel`` is always safe."""

    __slots__ = ("_loop", "at", "callback")

    def __init__(self, loop: Loop, at: float, callback: Callback) -> None:
        self._loop, self.at, self.callback = loop, at, callback

    def cancel(self) -> None:
        self._loop.timers.discard(self)


class Loop:
    """Calls back when a descriptor is readable, a time is reached or a signal came."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callback] = {}
        self.timers: set[Timer] = set()
        self._signals: dict[int, Callback] = {}
        self._signal_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signal_pipe[1], warn_on_full_buffer=False)
        self.watch(self._signal_pipe[0], self._on_signals)

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back while ``fd`` is readable or its other end is gone."""
        self._readers[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching; harmless for a descriptor that is not watched."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    @staticmethod
    def now() -> float:
        """Seconds of the clock that timers go by."""
        return time.monotonic()

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call once, ``delay_s`` seconds from now."""
        timer = Timer(self, time.monotonic() + delay_s, callback)
        self.timers.add(timer)
        return timer

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call back from the loop, not from the signal handler."""
        self._signals[number] = callback
        signal.signal(number, lambda *_: None)

    def step(self, timeout_s: float = POLL_MAX_S) -> None:
        """Wait for the next thing to do, at most ``timeout_s``, and do it."""
        if self.timers:
            timeout_s = min(timeout_s, max(0.0, min(t.at for t in self.timers) - time.monotonic()))
        for fd, _ in self._poll.poll(timeout_s * 1000):
            callback = self._readers.get(fd)  # an earlier callback may have unwatched it
            if callback is not None:
                callback()
        now = time.monotonic()
        for timer in sorted((t for t in self.timers if t.at <= now), key=lambda t: t.at):
            if timer in self.timers:
                self.timers.discard(timer)
                timer.callback()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Step until ``condition`` holds; False when the time is over first."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.step(left)
        return True

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signal_pipe[0], 512):
                callback = self._signals.get(number)
                if callback is not None:
                    callback()
