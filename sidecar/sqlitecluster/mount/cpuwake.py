"""Keeping idle CPUs awake while programs write.

A commit in WAL mode is two round trips between a program and this process, mostly on
two CPUs. When an idle CPU halts, waking it costs more than the whole request: on a
virtual machine some 100 microseconds against 7. A process that holds
``/dev/cpu_dma_latency`` open with the value 0 lets idle CPUs poll instead; the kernel
forgets the wish when the descriptor is closed, also by a crash.

Rules: called by the driver only; a missing or forbidden device is silently not used.
"""

from __future__ import annotations

import os
from typing import Final

_DEVICE: Final = "/dev/cpu_dma_latency"
_HOLD_NS: Final = 50_000_000


class CpuWake:
    """Holds the device while ``touch`` was called within the last 50 ms."""

    __slots__ = ("_fd", "_until", "_usable")

    def __init__(self, *, enabled: bool) -> None:
        self._usable = enabled
        self._fd = -1
        self._until = 0

    def touch(self, now_ns: int) -> None:
        """There was work: hold, or go on holding."""
        self._until = now_ns + _HOLD_NS
        if self._fd < 0 and self._usable:
            self._hold()

    def expire(self, now_ns: int) -> None:
        """Let go when the hold time is over."""
        if self._fd >= 0 and now_ns >= self._until:
            os.close(self._fd)
            self._fd = -1

    @property
    def held_until_ns(self) -> int | None:
        """When ``expire`` should be called; None while nothing is held."""
        return self._until if self._fd >= 0 else None

    def close(self) -> None:
        """Let go now."""
        self.expire(self._until)

    def _hold(self) -> None:
        try:
            self._fd = os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, b"\0\0\0\0")
        except OSError:
            self._usable = False
            self.close()
