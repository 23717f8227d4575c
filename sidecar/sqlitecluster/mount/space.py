"""The part of the disk that programs may not fill: capture needs it to finish what they wrote.

A program that writes while less than the reserve is free gets ENOSPC (SQLite's
"database or disk is full") before the log of transactions does.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from sqlitecluster.shared import NodeWord, State

_DEFAULT_BYTES: Final = 64 << 20
_DEFAULT_SHARE: Final = 50  # a fiftieth of the disk: 2 %
_STEP_BYTES: Final = 1 << 20  # written between two looks


class Space:
    """Looks at the free space every MiB that is written, and after every pause."""

    __slots__ = ("_budget", "_node", "_path", "_step", "reserve")

    def __init__(self, path: str, reserve: int, state: State) -> None:
        stats = os.statvfs(path)
        self._path = path
        self._node = state.node
        self.reserve = reserve or max(_DEFAULT_BYTES, stats.f_blocks * stats.f_frsize // _DEFAULT_SHARE)
        self._step = min(_STEP_BYTES, self.reserve // 16)
        self._budget = 0

    def pause(self) -> None:
        """Others may have used the disk meanwhile: look again at the next write."""
        self._budget = 0

    def take(self, length: int) -> None:
        """A program writes ``length`` bytes that may need new blocks.

        Raises:
            OSError: ENOSPC.
        """
        self._budget -= length
        if self._budget >= 0:
            return
        stats = os.statvfs(self._path)
        if stats.f_bavail * stats.f_frsize < self.reserve:
            self._node[NodeWord.NO_SPACE] += 1
            raise OSError(errno.ENOSPC, "less than the reserve is free")
        self._budget = self._step
