"""Open descriptors of backing files, so few that thousands of databases fit.

A file's descriptor is opened when it is first needed and closed again, oldest first,
when too many are open; the kernel's handles know nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final, Protocol

_KEPT_FREE: Final = 256  # for everything that is no backing file
_MOST: Final = 8192


class Holder(Protocol):
    """A file that may have a descriptor."""

    ino: int
    path: str
    fd: int
    pins: int


class Descriptors:
    """Opens, keeps and closes; ``fd`` of a holder is -1 while it has none."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or _raise_limit()
        self._open: dict[int, Holder] = {}

    def open(self, holder: Holder) -> int:
        """The holder's descriptor, opened for reading and writing."""
        if holder.fd < 0:
            self.adopt(holder, os.open(holder.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        return holder.fd

    def adopt(self, holder: Holder, fd: int) -> None:
        """Take over a descriptor that was just opened."""
        if len(self._open) >= self._limit:
            self._evict()
        holder.fd = fd
        self._open[holder.ino] = holder

    def close(self, holder: Holder) -> None:
        """Close the holder's descriptor, if it has one."""
        if holder.fd >= 0:
            # A descriptor of a file on a dead connection may fail to close; nothing depends on it.
            with contextlib.suppress(OSError):
                os.close(holder.fd)
            holder.fd = -1
            self._open.pop(holder.ino, None)

    def _evict(self) -> None:
        victims = [holder for holder in self._open.values() if not holder.pins][: max(1, self._limit // 8)]
        for holder in victims:
            self.close(holder)


def _raise_limit() -> int:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(64, min(_MOST, hard - _KEPT_FREE))
