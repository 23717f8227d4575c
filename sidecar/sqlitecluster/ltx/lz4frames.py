"""Reading LZ4 frames piece by piece, never a byte beyond their end.

    FrameReader(read)    read(n) -> exactly n bytes
        .pieces() -> iterator of decompressed bytes, each at most one block (<= 4 MiB)

Generations 1 (one frame for all pages), 2 and 3a (a frame for each page) need it: what
follows a frame belongs to someone else, and common LZ4 readers look ahead for another
frame. The structure is parsed here, so that each length is checked before it is read;
the blocks and the content checksum are left to liblz4. Dictionaries are refused. Pure.

Source: the LZ4 frame format description 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import lz4.frame

from sqlitecluster.errors import LTXError
from sqlitecluster.ltx.generation import LZ4_MAGIC

_VERSION_MASK: Final = 0xC2  # version bits 01, reserved bit 0
_VERSION: Final = 0x40
_BLOCK_CHECKSUM: Final = 0x10
_CONTENT_SIZE: Final = 0x08
_CONTENT_CHECKSUM: Final = 0x04
_DICTIONARY: Final = 0x01


class FrameReader:
    """One LZ4 frame at the reader's present place."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def pieces(self) -> Iterator[bytes]:
        """Decompressed content, block by block; ends exactly at the frame's end.

        Raises:
            LTXError: the frame is malformed or its checksum is wrong.
        """
        head = self._read(6)
        flags, descriptor = head[4], head[5]
        largest = 1 << (8 + 2 * (descriptor >> 4 & 7))
        if head[:4] != LZ4_MAGIC or flags & _VERSION_MASK != _VERSION or flags & _DICTIONARY or largest < 1 << 16:
            raise LTXError("lz4 frame", head, "not a frame that is accepted")
        head += self._read(9 if flags & _CONTENT_SIZE else 1)
        decompressor = lz4.frame.LZ4FrameDecompressor()
        self._feed(decompressor, head)
        while True:
            prefix = self._read(4)
            size = int.from_bytes(prefix, "little") & 0x7FFF_FFFF
            if size > largest:
                raise LTXError("lz4 block", size, f"longer than {largest} bytes")
            if prefix == bytes(4):
                break
            yield self._feed(decompressor, prefix + self._read(size + (4 if flags & _BLOCK_CHECKSUM else 0)))
        end = prefix + (self._read(4) if flags & _CONTENT_CHECKSUM else b"")
        rest = self._feed(decompressor, end)
        if not decompressor.eof:
            raise LTXError("lz4 frame", end, "does not end where it should")
        yield rest

    def _feed(self, decompressor: lz4.frame.LZ4FrameDecompressor, piece: bytes) -> bytes:
        try:
            content: bytes = decompressor.decompress(piece)
        except (RuntimeError, EOFError) as wrong:
            raise LTXError("lz4 frame", str(wrong), "cannot be decompressed") from None
        return content
