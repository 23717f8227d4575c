"""The loop of the mount process: takes requests from the channel and steps coroutines itself.

pyfuse3 expects trio. Like ``pyfuse3.asyncio.enable`` does, ``install`` sets a stand-in
for the few trio names that its session loop uses; awaiting "readable" there yields to
this driver. Without an event loop between the kernel and the handler a request costs
half (design §2.2).

Rules:
    1. Exactly one thread runs here. A worker is one coroutine of pyfuse3's session
       loop: idle (waiting to read), or held by a Park or a Job while its request
       waits; or a coroutine of our own that answers one request and ends.
    2. A worker is stepped only when a request was sent to it: it would wait for ever.
    3. Under load the driver looks before it sleeps; asleep, it wakes for a request,
       the bell, a finished job, the life-line, or the earliest deadline.
"""

from __future__ import annotations

import logging
import os
import select
import time
import types
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, Protocol

import pyfuse3

from sqlitecluster.mount.channel import Channel, Ended, Slow
from sqlitecluster.mount.cpuwake import CpuWake
from sqlitecluster.mount.parking import DONE, Job, Park, Worker
from sqlitecluster.mount.pool import Pool

log = logging.getLogger(__name__)

_library: Any = pyfuse3  # its type hints leave out what a driver needs
_READ: Final = object()
_UNLIMITED: Final = 1 << 30
_IDLE_NS: Final = 50_000_000
_LOOKS: Final = 30  # reads without sleeping after a request; more would take the CPU from the program


class _Lock:
    """Workers are stepped one at a time: nothing to exclude."""

    def __aenter__(self) -> Any:
        return DONE

    def __aexit__(self, *_error: object) -> Any:
        return DONE


class _ClosedResourceError(Exception):
    """Never raised; pyfuse3 names it in an except clause."""


@types.coroutine
def _wait_readable(_fd: int) -> Generator[Any, Any, None]:
    yield _READ


def install() -> None:
    """Set the stand-in for trio."""
    lowlevel = types.SimpleNamespace(
        wait_readable=_wait_readable,
        notify_closing=lambda _fd: None,
        current_task=lambda: types.SimpleNamespace(name="fuse"),
        current_trio_token=lambda: None,
    )
    _library.trio = types.SimpleNamespace(
        Lock=_Lock, ClosedResourceError=_ClosedResourceError, lowlevel=lowlevel, from_thread=lowlevel
    )


class Hooks(Protocol):
    """What the process does at each turn."""

    def woken(self) -> None:
        """The bell rang: look at what the replicator asks."""

    def parked(self, count: int) -> None:
        """The number of waiting requests changed."""

    def sleeping(self, *, asleep: bool) -> None:
        """Around each sleep: says whether the bell is needed."""

    def idle(self) -> None:
        """There was nothing to do for a while."""


class Driver:
    """Steps workers until the connection ends or ``stop`` is called."""

    def __init__(self, hooks: Hooks, cpus: CpuWake) -> None:
        self._hooks = hooks
        self._cpus = cpus
        self._idle: list[Worker] = []
        self._parks: list[Park] = []
        self._pool = Pool()
        self._watched: dict[int, Callable[[], None]] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = True
        self._channel: Channel | None = None
        self._worked_ns = 0
        self.requests = 0

    def first_step(self) -> None:
        """Make the first worker and let it handle the one request that is there (INIT)."""
        self._resume(self._new_worker(), None)
        self._resume(self._idle.pop(), None)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call ``call`` whenever ``fd`` is readable."""
        self._watched[fd] = call

    def stop(self) -> None:
        """End ``run`` soon; safe in a signal handler."""
        self._running = False
        os.eventfd_write(self._wake, 1)

    def background(self, call: Callable[[], None]) -> None:
        """Make a call in a thread, with nobody waiting for it."""
        self._pool.submit(Job(call))

    def run(self, channel: Channel, bell: int) -> None:
        """Serve until stopped or unmounted."""
        self._channel = channel
        channel.step, channel.spawn = self._step_library, self._spawn
        sleep = select.epoll()
        for watched in (channel.fd, bell, self._pool.fd, self._wake, *self._watched):
            sleep.register(watched, select.EPOLLIN)
        turn = channel.turn
        try:
            while self._running:
                for _ in range(_LOOKS):
                    if turn():
                        self.requests += 1
                        break
                else:
                    self._sleep(sleep, bell)
                if self._parks:
                    self._test_parks()
        except Ended:
            log.info("the connection has ended")
        sleep.close()

    def close(self, *, drain: bool) -> None:
        """End threads; with ``drain`` waiting requests get their last chance and then EIO."""
        deadline = time.monotonic() + (10 if drain else 2)
        while self._pool.busy and time.monotonic() < deadline:
            select.select([self._pool.fd], [], [], 0.1)
            self._finish_jobs()
        while drain and self._parks:
            park = self._parks.pop()
            self._resume(park.worker, park.test())
        self._pool.close()
        self._cpus.close()

    def _step_library(self) -> None:
        self._resume(self._idle.pop() if self._idle else self._new_worker(primed=True), None)

    def _spawn(self, answer: Slow) -> None:
        self._resume(answer, None)

    def _sleep(self, sleep: select.epoll, bell: int) -> None:
        self._hooks.sleeping(asleep=True)
        if self._parks:
            self._test_parks()
        events = sleep.poll(self._timeout())
        self._hooks.sleeping(asleep=False)
        now = time.monotonic_ns()
        if now - self._worked_ns > _IDLE_NS:
            self._hooks.idle()
        self._worked_ns = now
        if not events:
            self._cpus.expire(now)
            return
        self._cpus.touch(now)
        for ready, _ in events:
            if ready == bell:
                _drain(bell)
                self._hooks.woken()
            elif ready == self._pool.fd:
                self._finish_jobs()
            elif ready == self._wake:
                _drain(self._wake)
            elif ready in self._watched:
                self._watched[ready]()

    def _timeout(self) -> float:
        ends: Iterable[float] = (park.deadline for park in self._parks)
        held = self._cpus.held_until_ns
        soonest = min(ends, default=None) if self._parks else None
        if held is not None:
            soonest = held / 1e9 if soonest is None else min(soonest, held / 1e9)
        return -1 if soonest is None else max(0.0, soonest - time.monotonic() + 0.001)

    def _test_parks(self) -> None:
        now = time.monotonic()
        ready = [(park, met) for park in self._parks if (met := park.test()) or now >= park.deadline]
        if not ready:
            return
        gone = {id(park) for park, _ in ready}
        self._parks = [park for park in self._parks if id(park) not in gone]
        for park, met in ready:
            self._resume(park.worker, met)
        self._hooks.parked(len(self._parks))

    def _finish_jobs(self) -> None:
        for job in self._pool.finished():
            if job.worker is not None:
                self._resume(job.worker, None)
            elif job.error is not None:
                log.warning("a background call failed: %s", job.error)

    def _resume(self, worker: Worker, value: object) -> None:
        try:
            waits_for = worker.send(value)
        except StopIteration:
            if not isinstance(worker, types.CoroutineType):  # pyfuse3's loops never end by themselves
                log.error("pyfuse3's session has ended")
                self._running = False
            return
        if waits_for is _READ:
            self._idle.append(worker)
            if self._channel is not None:
                self._channel.relay()
        elif isinstance(waits_for, Park):
            waits_for.worker = worker
            self._parks.append(waits_for)
            self._hooks.parked(len(self._parks))
        else:
            assert isinstance(waits_for, Job), f"a handler awaited {waits_for!r}"
            waits_for.worker = worker
            self._pool.submit(waits_for)

    def _new_worker(self, *, primed: bool = False) -> Worker:
        # Arguments: no nursery, no idle limit, and 0 further tasks: only this driver makes workers.
        worker = _library._session_loop(None, _UNLIMITED, 0)
        if primed:
            worker.send(None)
        return worker


def _drain(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return
