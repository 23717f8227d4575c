"""Keeping idle CPUs awake while programs write.

A commit in WAL mode is two round trips between a program and this process, mostly on
two CPUs. When an idle CPU halts, waking it costs more than the whole request: on a
virtual machine some 100 microseconds against 7. A process that holds
``/dev/cpu_dma_latency`` open with the value 0 lets idle CPUs poll instead; the kernel
forgets the wish when the descriptor is closed, also by a crash. With ``runAs`` the supervisor
opens it, and the wish is written away instead.

Rules: called by the driver only; a missing or forbidden device is silently not used.
"""

from __future__ import annotations

import os
from typing import Final

_DEVICE: Final = "/dev/cpu_dma_latency"
_HOLD_NS: Final = 50_000_000
_NO_WISH: Final = -1  # PM_QOS_DEFAULT_VALUE: as if the device were closed


class CpuWake:
    """Holds the device while ``touch`` was called within the last 50 ms."""

    __slots__ = ("_fd", "_given", "_until", "_usable")

    def __init__(self, *, enabled: bool, device: int = -1) -> None:
        self._usable = enabled
        self._given = device  # the device, opened by the supervisor for a user that may not; -1: we open it
        self._fd = -1
        self._until = 0
        if device >= 0:
            self._wish(device, _NO_WISH)  # a predecessor may have died with another one

    def touch(self, now_ns: int) -> None:
        """There was work: hold, or go on holding."""
        self._until = now_ns + _HOLD_NS
        if self._fd < 0 and self._usable:
            self._hold()

    def expire(self, now_ns: int) -> None:
        """Let go when the hold time is over."""
        if self._fd >= 0 and now_ns >= self._until:
            if self._given >= 0:
                self._wish(self._fd, _NO_WISH)
            else:
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
            self._fd = self._given if self._given >= 0 else os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self._usable = False
            return
        self._wish(self._fd, 0)

    def _wish(self, fd: int, latency_us: int) -> None:
        try:
            os.write(fd, latency_us.to_bytes(4, "little", signed=True))
        except OSError:
            self._usable = False
