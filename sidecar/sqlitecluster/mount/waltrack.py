"""Where the commits are in a write-ahead log, told from the writes alone. Pure.

Fed by ``tracked.WalFile`` with every write in order. It answers the one question the
replicator must not miss: up to which byte does a complete commit frame reach?

Rules:
    1. Bytes count, not write sizes: the kernel may cut a header or a page (hazard 10).
    2. Reported ends are candidates. The replicator verifies salts, the checksum chain and
       publication; too high is corrected by a later rewind, too low would lose nothing
       but time.
    3. After a cache spill SQLite rewrites frame headers from the lowest changed frame up
       to the last: each such rewrite is reported, so that a chain that became valid is
       looked at.
    4. A lower write whose frame header differs in page, commit size or salt starts a
       different transaction there: everything above is void. So does another checksum on a commit frame
       that had its salt: its own transaction does not touch it any more. Frames that SQLite appends
       between a rewritten page and the commit have no salt yet (walEncodeFrame leaves it
       zero while iReCksum is set): giving them theirs is no difference.

Source: SQLite wal.c (walEncodeFrame, sqlite3WalFrames, walRewriteChecksums); file format, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from sqlitecluster.mount.buffers import Data

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
_MAGIC: Final = frozenset((b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"))
_NO_COMMIT: Final = b"\0\0\0\0"
_NO_SALT: Final = bytes(8)
_PAGE_SIZES: Final = frozenset(1 << n for n in range(9, 17))

Read = Callable[[int, int], bytes]


class Seen(IntEnum):
    """What one write meant."""

    NOTHING = 0
    FRAME = 1  # a frame without a commit mark is complete
    COMMIT = 2  # a commit frame is complete, or a frame header below it was rewritten


class WalTracker:
    """The frames of one log generation.

    ``size`` is the end of what was written in this generation, ``end`` the end of the
    highest complete commit frame (0: none).
    """

    __slots__ = ("_commit", "_frame", "_page", "_read", "_salt", "_start", "end", "size")

    def __init__(self, read: Read) -> None:
        """``read(offset, length)`` gives bytes of the file as it is now."""
        self._read = read
        self.size = 0
        self.end = 0
        self._page = 0
        self._frame = 0
        self._start = 0  # offset of the lowest incomplete frame
        self._commit = False  # its header, if written, marks a commit
        self._salt = b""

    def restart(self, header: bytes) -> None:
        """A new header was written at offset 0: a new generation begins."""
        self.size = min(len(header), HEADER_BYTES)
        self.end = 0
        self._start = HEADER_BYTES
        self._commit = False
        self._parse(header)

    def load(self, file_size: int) -> None:
        """Take the state from the file: at start, or after writes that were not fed."""
        self.restart(self._read(0, HEADER_BYTES) if file_size else b"")
        if self._frame:
            self._extend(file_size)

    def resume(self, size: int, end: int) -> None:
        """Go on where another tracker of the same file stopped."""
        self.restart(self._read(0, HEADER_BYTES) if size else b"")
        self.size, self.end = size, end
        if self._frame and size > HEADER_BYTES:
            self._start = HEADER_BYTES + (size - HEADER_BYTES) // self._frame * self._frame
            if size - self._start >= 8:
                self._commit = self._read(self._start + 4, 4) != _NO_COMMIT

    def clear(self) -> None:
        """The file is empty or new."""
        self.restart(b"")
        self.size = 0

    def cut(self, size: int) -> None:
        """The file was truncated to ``size`` bytes."""
        if size < HEADER_BYTES:
            self.clear()
        elif size < self.size:
            self._rewind(HEADER_BYTES + (size - HEADER_BYTES) // self._frame * self._frame if self._frame else size)

    def rewinds(self, offset: int, data: Data) -> bool:
        """Before a write below ``size``: does it begin another transaction there?"""
        if offset < HEADER_BYTES or not self._frame or (offset - HEADER_BYTES) % self._frame:
            return False
        if len(data) < FRAME_HEADER_BYTES:
            return self._read(offset, len(data)) != data
        old = self._read(offset, FRAME_HEADER_BYTES)
        if old[:8] != data[:8]:
            return True
        if old[8:16] == data[8:16]:
            return old[4:8] != _NO_COMMIT and old[16:24] != data[16:24]
        return old[8:16] != _NO_SALT

    def frame_start(self, offset: int) -> int:
        """Where the frame begins that a byte belongs to."""
        return HEADER_BYTES + (offset - HEADER_BYTES) // self._frame * self._frame if self._frame else offset

    def completes(self, offset: int, data: Data) -> int:
        """Before a write: the end of the commit frame that it makes valid; 0 when it makes none.

        A commit frame without salt (rule 4) is not valid: the rewrite of its header completes it.
        """
        if not self._frame or offset < HEADER_BYTES:
            return 0
        length = len(data)
        if offset == self.size and length == self._page and offset == self._start + FRAME_HEADER_BYTES:
            if not self._commit:
                return 0
            end = offset + length
        else:
            end = self._completed(offset, offset + length)
        if not end or self._in_file(end - self._frame, offset, data):
            return 0
        head = self._seen_through(end - self._frame, offset, data)
        return end if head[4:8] != _NO_COMMIT and head[8:16] == self._salt else 0

    def _completed(self, offset: int, end: int) -> int:
        """The end of the highest frame that would be whole after a write of ``offset`` … ``end``."""
        reach = HEADER_BYTES + (max(end, self._start, self.size) - HEADER_BYTES) // self._frame * self._frame
        return reach if reach > offset and reach > HEADER_BYTES else 0

    def _in_file(self, start: int, offset: int, data: Data) -> bool:
        """Whether a frame is whole in this generation, and the write changes nothing of it."""
        if start + self._frame > self.size:
            return False
        low, high = max(start, offset), min(start + self._frame, offset + len(data))
        return low >= high or self._read(low, high - low) == bytes(data[low - offset : high - offset])

    def _seen_through(self, start: int, offset: int, data: Data) -> bytes:
        """A frame's header as it will be."""
        head = bytearray(self._read(start, FRAME_HEADER_BYTES).ljust(FRAME_HEADER_BYTES, b"\0"))
        low, high = max(start, offset), min(start + FRAME_HEADER_BYTES, offset + len(data))
        if low < high:
            head[low - start : high - start] = data[low - offset : high - offset]
        return bytes(head)

    def rewind(self, offset: int) -> None:
        """Everything from ``offset`` (a frame's start) on is void."""
        self._rewind(offset)

    def feed(self, offset: int, data: Data) -> Seen:
        """Note a write at ``offset`` that is in the file now."""
        length = len(data)
        if offset == self.size and self._frame:
            at = offset - self._start
            if at == 0 and length == FRAME_HEADER_BYTES:
                self._commit = data[4:8] != _NO_COMMIT
                self.size = offset + FRAME_HEADER_BYTES
                return Seen.NOTHING
            if at == FRAME_HEADER_BYTES and length == self._page:
                return self._complete(offset + length)
        if offset < self.size:
            return self._lower(offset, length)
        return self._extend(offset + length)

    def _complete(self, end: int) -> Seen:
        self.size = self._start = end
        if not self._commit:
            return Seen.FRAME
        self._commit = False
        self.end = end
        return Seen.COMMIT

    def _lower(self, offset: int, length: int) -> Seen:
        if offset + length > self.size:
            return self._extend(offset + length)
        at = (offset - HEADER_BYTES) % self._frame if self._frame else 0
        return Seen.COMMIT if at < FRAME_HEADER_BYTES and self.end else Seen.NOTHING

    def _extend(self, size: int) -> Seen:
        """Look at all frames that ``size`` bytes complete."""
        seen = Seen.NOTHING
        if not self._frame and not self._parse(self._read(0, HEADER_BYTES)):
            self.size = max(self.size, size)
            return seen
        self._start = max(self._start, HEADER_BYTES)
        while self._start + self._frame <= size:
            header = self._read(self._start, FRAME_HEADER_BYTES)
            if header[8:16] not in (self._salt, _NO_SALT):
                self.size = self._start  # bytes of an older generation
                return seen
            self._commit = header[4:8] != _NO_COMMIT
            seen = max(seen, self._complete(self._start + self._frame))
        self.size = max(size, self._start)
        if self.size >= self._start + 8:
            header = self._read(self._start, min(FRAME_HEADER_BYTES, self.size - self._start))
            if len(header) >= 16 and header[8:16] not in (self._salt, _NO_SALT):
                self.size = self._start
            self._commit = header[4:8] != _NO_COMMIT
        return seen

    def _rewind(self, offset: int) -> None:
        self.size = self._start = max(offset, HEADER_BYTES)
        self.end = min(self.end, self.size if self.size > HEADER_BYTES else 0)
        self._commit = False

    def _parse(self, header: bytes) -> bool:
        size = int.from_bytes(header[8:12], "big")
        good = len(header) >= HEADER_BYTES and header[:4] in _MAGIC and size in _PAGE_SIZES
        self._page = size if good else 0
        self._frame = size + FRAME_HEADER_BYTES if good else 0
        self._salt = header[16:24] if good else b""
        return good
