"""Payloads of SNAPSHOT_PAGES frames: page numbers, then pages, as one LZ4 block when that is smaller.

    u32 count   u32 page size   count x u32 page number   pages (raw, or one LZ4 block with flag LZ4)

Rules: pure; the count is checked against the frame's limits before anything is unpacked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import lz4.block
import numpy as np

from sqlitecluster.errors import WireError
from sqlitecluster.replication.wire import CHUNK, Flag, Frame, FrameType, encode
from sqlitecluster.units import PAGE_SIZES

_HEAD: Final = struct.Struct(">II")


def batch_pages(page_size: int) -> int:
    """How many pages one frame holds."""
    return max(1, CHUNK // page_size)


def encode_pages(name: str, page_size: int, pages: Sequence[tuple[int, bytes]]) -> bytes:
    """One SNAPSHOT_PAGES frame of at most ``batch_pages`` pages."""
    data = b"".join(page for _, page in pages)
    numbers = np.array([pgno for pgno, _ in pages], dtype=">u4").tobytes()
    packed = lz4.block.compress(data, store_size=False)
    flags = Flag.LZ4 if len(packed) < len(data) else Flag.NONE
    body = packed if flags else data
    return encode(FrameType.SNAPSHOT_PAGES, name, b"".join((_HEAD.pack(len(pages), page_size), numbers, body)), flags)


def decode_pages(frame: Frame, page_size: int) -> tuple[list[int], bytes]:
    """Page numbers and their contents, one after another.

    Raises:
        WireError: counts, sizes or the LZ4 block do not fit together.
    """
    if len(frame.payload) < _HEAD.size:
        raise WireError("payload", len(frame.payload), "too short for pages")
    count, size = _HEAD.unpack_from(frame.payload)
    if size not in PAGE_SIZES or size != page_size:
        raise WireError("page size", size, f"the snapshot began with pages of {page_size} bytes")
    start = _HEAD.size + 4 * count
    if not 1 <= count <= batch_pages(size) or start > len(frame.payload):
        raise WireError("count", count, "more pages than a frame may hold")
    numbers: list[int] = np.frombuffer(frame.payload, dtype=">u4", count=count, offset=_HEAD.size).tolist()
    body = frame.payload[start:]
    if frame.flags & Flag.LZ4:
        try:
            body = lz4.block.decompress(body, uncompressed_size=count * size)
        except lz4.block.LZ4BlockError as error:
            raise WireError("pages", len(body), f"damaged LZ4 block: {error}") from None
    if len(body) != count * size:
        raise WireError("pages", len(body), f"expected {count * size} bytes")
    if 0 in numbers:
        raise WireError("page number", 0, "pages are counted from 1")
    return numbers, body
