"""Which byte ranges of a database were written since its last capture, in memory that outlives us.

Owned by ``database.Database``. The ranges are a file on tmpfs, mapped: a killed mount
process loses nothing, the successor maps the same file.

Layout: u64 words; word 0 the number of ranges, then per range the offset and the length.

Rules:
    1. A range is marked before its bytes are written.
    2. Stores are single aligned words; the count is stored last.
    3. A range of length 0 marks a change of the file's size.
    4. Sets live until ``clear``: for the journal's life, whoever finishes it.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_FIRST_BYTES: Final = 4096
_WORD: Final = 8
_PIECE_BYTES: Final = 1 << 20  # what a reader of the spool holds in memory


class DirtyRanges:
    """The ranges of one database."""

    __slots__ = ("_count", "_fd", "_map", "_seen", "_words", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _FIRST_BYTES:
            os.posix_fallocate(self._fd, 0, _FIRST_BYTES)
        self._open_map()
        self._count = min(self._words[0], (len(self._words) - 1) // 2)
        self._seen = set(self.ranges())

    def __len__(self) -> int:
        return self._count

    def ranges(self) -> list[tuple[int, int]]:
        """(offset, length) in the order in which they were marked."""
        words = self._words
        return [(words[1 + 2 * i], words[2 + 2 * i]) for i in range(self._count)]

    def merged(self, size: int) -> list[tuple[int, int]]:
        """Sorted, without overlaps, nothing beyond ``size``, no piece above a MiB."""
        result: list[tuple[int, int]] = []
        done = 0
        for offset, length in sorted(self.ranges()):
            at, end = max(offset, done), min(offset + length, size)
            while at < end:
                piece = min(_PIECE_BYTES, end - at)
                result.append((at, piece))
                at += piece
            done = max(done, end)
        return result

    def mark(self, offset: int, length: int) -> None:
        """Add a range, before it is written.

        Raises:
            OSError: ENOSPC, no memory left for the table; then nothing may be written.
        """
        if (offset, length) in self._seen:
            return
        words, at = self._words, 2 * self._count
        if self._count and words[at - 1] + words[at] == offset and words[at]:
            self._seen.discard((words[at - 1], words[at]))
            words[at] = words[at] + length  # a sequential writer makes one range
            self._seen.add((words[at - 1], words[at]))
            return
        if at + 3 > len(words):
            self._grow()
            words = self._words
        words[at + 1] = offset
        words[at + 2] = length
        self._count += 1
        words[0] = self._count
        self._seen.add((offset, length))

    def clear(self) -> None:
        """Forget all ranges: they are captured."""
        self._count = 0
        self._words[0] = 0
        self._seen.clear()
        if len(self._map) > _FIRST_BYTES * 64:
            self._close_map()
            os.ftruncate(self._fd, _FIRST_BYTES)
            self._open_map()

    def close(self) -> None:
        """Unmap; the file stays."""
        self._close_map()
        os.close(self._fd)

    def _grow(self) -> None:
        size = len(self._map) * 2
        os.posix_fallocate(self._fd, 0, size)
        self._close_map()
        self._open_map()

    def _open_map(self) -> None:
        self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size // _WORD * _WORD)
        self._words = memoryview(self._map).cast("Q")

    def _close_map(self) -> None:
        self._words.release()
        self._map.close()
