"""The part of the disk that programs may not fill: capture needs it to finish what they wrote.

A program that writes while less than the reserve is free gets ENOSPC (SQLite's
"database or disk is full") before the log of transactions does.
"""

from __future__ import annotations

import errno
from typing import Final

from sqlitecluster.shared import NodeWord, State
from sqlitecluster.store.reserve import is_low, reserve_bytes, room

_STEP_BYTES: Final = 1 << 20  # written between two looks


class Space:
    """Looks at the free space every MiB that is written, and after every pause."""

    __slots__ = ("_budget", "_node", "_path", "_step", "reserve")

    def __init__(self, path: str, reserve: int, state: State) -> None:
        self._path = path
        self._node = state.node
        self.reserve = reserve_bytes(reserve, room(path))
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
        if is_low(room(self._path), self.reserve):
            self._node[NodeWord.NO_SPACE] += 1
            raise OSError(errno.ENOSPC, "less than the reserve is free")
        self._budget = self._step
