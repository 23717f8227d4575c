"""The four generations of LTX on disk, and how to tell them apart.

All begin with the magic ``LTX1`` and share header and trailer; they differ in the page
block and in the page index. ``sniff`` decides from the header's flags and the 13
bytes after it; the file checksum confirms the guess at the end.

Used by Decoder and Encoder. Pure.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

FLAG_COMPRESSED: Final = 0x1  # generation 1: the page block is one LZ4 frame
FLAG_NO_CHECKSUM: Final = 0x2  # database checksums are not tracked
PAGE_FLAG_SIZE: Final = 0x1  # generation 3b: a size prefix and a raw LZ4 block follow
LZ4_MAGIC: Final = b"\x04\x22\x4d\x18"
SNIFF_BYTES: Final = 13  # shorter than anything that can follow a header


class Generation(Enum):
    """Who writes it: G1 LiteFS 0.4 and 0.5; G2 ltx 0.4; G3A ltx 0.5.0 and 0.5.1; G3B ltx 0.5.2 and newer, and we."""

    G1 = "1"
    G2 = "2"
    G3A = "3a"
    G3B = "3b"

    @property
    def page_header_size(self) -> int:
        """Bytes before each page's payload or size prefix; also of the terminator."""
        return 4 if self in (Generation.G1, Generation.G2) else 6

    @property
    def has_index(self) -> bool:
        """Whether a page index stands between the pages and the trailer."""
        return self is not Generation.G1

    @property
    def flag_mask(self) -> int:
        """Header flags that are legal."""
        return FLAG_COMPRESSED | FLAG_NO_CHECKSUM if self is Generation.G1 else FLAG_NO_CHECKSUM


def packed_bound(page_size: int) -> int:
    """The longest LZ4 block of one page; a longer size prefix is hostile."""
    return page_size + page_size // 255 + 16


def sniff(flags: int, after: bytes, page_size: int) -> Generation:
    """Tell the generation from header flags and the ``SNIFF_BYTES`` bytes after the header."""
    if flags & FLAG_COMPRESSED:
        return Generation.G1
    if after[:4] == bytes(4):
        return _sniff_empty(after)
    if after[4:8] == LZ4_MAGIC:
        return Generation.G2
    if after[6:10] == LZ4_MAGIC and after[4:6] == bytes(2):
        return Generation.G3A
    size = int.from_bytes(after[6:10], "big")
    if after[4:6] == b"\0\1" and 0 < size <= packed_bound(page_size):
        return Generation.G3B
    return Generation.G1


def _sniff_empty(after: bytes) -> Generation:
    """No pages: the length of the empty index (1) stands where it does, or a checksum's top bit is there."""
    if after[4] & 0x80 or after[12] & 0x80:
        return Generation.G1
    return Generation.G2 if after[12] == 1 else Generation.G3B
