"""Virtual time: events in one heap, one source of chance, and a hash of everything that happened.

Rules:
    1. Nothing in a simulation reads a real clock or another source of chance: the same seed
       gives the same hash.
    2. Production code that reads clocks gets ``FakeTime``: the clocks of the node that runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from sqlitecluster.mount import context as mount_context
from sqlitecluster.replicator import capture_publish
from sqlitecluster.store import boot

SECOND = 1_000_000_000


class Violation(Exception):
    """Something that must never be."""


class Kernel:
    """Time, chance, trace."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.time = 0.0
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.running: Any = None
        """The node whose code runs now."""
        self._tracing = trace
        self._hash = hashlib.blake2b(digest_size=16)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Call at a moment; moments that are over mean now."""
        self._count += 1
        heapq.heappush(self._heap, (max(time, self.time), self._count, call))

    def after(self, delay: float, call: Callable[[], None]) -> None:
        """Call later."""
        self.at(self.time + delay, call)

    def step(self) -> bool:
        """The next event; False when there is none."""
        if not self._heap:
            return False
        self.time, _, call = heapq.heappop(self._heap)
        call()
        return True

    def run_until(self, end: float) -> None:
        """Everything up to a moment."""
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.time = max(self.time, end)

    def say(self, text: str) -> None:
        """Part of the trace, and of its hash."""
        line = f"{self.time:9.4f} {text}"
        self._hash.update(line.encode())
        if self._tracing:
            self.lines.append(line)

    def violation(self, text: str) -> None:
        """Note what must never be; the run ends soon."""
        self.say(f"VIOLATION {text}")
        self.violations.append(f"at {self.time:.3f} s: {text}")

    @property
    def digest(self) -> str:
        """The hash of the trace so far."""
        return self._hash.hexdigest()


class FakeTime:
    """What production modules know as ``time``."""

    CLOCK_BOOTTIME = 7

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def time_ns(self) -> int:
        """The running node's wall clock."""
        return int(self._kernel.running.now().real_ns)

    def clock_gettime_ns(self, _clock: int) -> int:
        """The running node's clock since its boot."""
        return int(self._kernel.running.now().boot_ns)

    def monotonic(self) -> float:
        """Seconds."""
        return float(self._kernel.running.now().boot_ns) / SECOND


@contextlib.contextmanager
def in_virtual_time(kernel: Kernel) -> Iterator[None]:
    """Production code that asks for the time, or for the boot, is answered by the simulation."""
    fake: Any = FakeTime(kernel)
    modules = (mount_context, capture_publish)
    before = [module.time for module in modules]
    real_boot = boot.boot_id
    for module in modules:
        module.time = fake
    boot.boot_id = lambda: int(kernel.running.boots)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        for module, time in zip(modules, before, strict=True):
            module.time = time
        boot.boot_id = real_boot


def words(count: int) -> Any:
    """Words as in shared memory."""
    return [0] * count


def namespace(**values: Any) -> Any:
    """A stand-in with just these attributes."""
    return SimpleNamespace(**values)
