"""Writing LTX files.

    encode(header, pages, post_apply) -> bytes      a whole file of generation 3b, in memory; the hot path
    Encoder(write, header, generation=G3B)          streaming: .page(pgno, data), .close(post_apply) -> Trailer

``pages`` is a sequence of (pgno, bytes | bytearray | memoryview) in ascending order. Generations
3b and 1 are written (1 is LZ4-framed when the header has ``FLAG_COMPRESSED``).

Rules: pages ascend, lie within ``commit``, have the page size and are never the lock page; a
snapshot has every page. A broken rule raises LTXError and the output is to be thrown
away. Pure. Cost of ``encode``: about 6 us plus 4 us for each 4 KiB page.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

import lz4.block
import lz4.frame

from sqlitecluster.errors import LTXError
from sqlitecluster.ltx.checksum import CHECKSUM_FLAG, crc64
from sqlitecluster.ltx.generation import FLAG_COMPRESSED, PAGE_FLAG_SIZE, Generation
from sqlitecluster.ltx.header import HEADER_SIZE, Header, Trailer, check_post_apply
from sqlitecluster.ltx.index import finish, put_entry
from sqlitecluster.units import Bytes

Write = Callable[[bytes], object]

FAST: Final = 8  # LZ4 acceleration on the hot path: a third less time for a tenth more bytes
_PAGE_3B: Final = struct.Struct(">IHI")
_PAGE_1: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_compress = lz4.block.compress
_MOST: Final = 255


def stored_block(data: Bytes) -> bytes:
    """An LZ4 block of 15 or more bytes as they are: one run of literals, which every decoder reads."""
    full, rest = divmod(len(data) - 15, _MOST)
    return b"".join((b"\xf0", b"\xff" * full, bytes((rest,)), data))  # 0xf0: 15 or more literals, no match


def encode(header: Header, pages: Sequence[tuple[int, Bytes]], post_apply: int, *, compress: bool = True) -> bytes:
    """One LTX file of generation 3b; without ``compress`` its LZ4 blocks hold the pages as they are.

    Raises:
        LTXError: the header, the pages or the checksum break a rule.
    """
    raw = header.pack()
    check_post_apply(header, post_apply)
    page_size, commit, lock = header.page_size, header.commit, header.lock_page
    out = [raw]
    entries = bytearray()
    crc: int = crc64(raw)
    last, at = 0, HEADER_SIZE
    for pgno, data in pages:
        if not last < pgno <= commit or pgno == lock or len(data) != page_size:
            _refuse(header, last, pgno, len(data))
        last = pgno
        block = _compress(data, mode="fast", acceleration=FAST, store_size=False) if compress else stored_block(data)
        size = len(block)
        head = _PAGE_3B.pack(pgno, PAGE_FLAG_SIZE, size)
        crc = crc64(head + data, crc)
        out += (head, block)
        size += 10
        put_entry(entries, pgno, at, size)
        at += size
    if header.min_txid == 1:
        check_snapshot_complete(header, len(pages))
    tail = b"%b%b%b" % (bytes(6), finish(entries), _U64.pack(post_apply))
    out += (tail, _U64.pack(crc64(tail, crc) | CHECKSUM_FLAG))
    return b"".join(out)


def check_snapshot_complete(header: Header, pages: int) -> None:
    """Raise LTXError unless a snapshot of ascending pages holds all of them."""
    if pages != header.snapshot_pages:
        raise LTXError("pages", pages, f"a snapshot of {header.commit} pages has {header.snapshot_pages}")


def _refuse(header: Header, last: int, pgno: int, size: int) -> None:
    if size != header.page_size:
        raise LTXError("page", pgno, f"has {size} bytes instead of {header.page_size}")
    if pgno == header.lock_page:
        raise LTXError("page", pgno, "is the lock page, which is never stored")
    raise LTXError("page", pgno, f"not within {last + 1} to {header.commit}")


class Encoder:
    """A streaming writer; holds one page and the page index in memory.

    ``write`` takes bytes and keeps them; the header is written at once. ``size`` is the
    number of bytes written so far.
    """

    def __init__(
        self, write: Write, header: Header, *, generation: Generation = Generation.G3B, compress: bool = True
    ) -> None:
        if generation not in (Generation.G3B, Generation.G1):
            raise LTXError("generation", generation.value, "is only read")
        self.header = header
        self.generation = generation
        self._compressing = compress
        self.size = 0
        self._write = write
        self._crc = 0
        self._last = 0
        self._pages = 0
        self._entries = bytearray()
        self._frame: lz4.frame.LZ4FrameCompressor | None = None
        self._put(header.pack(generation))
        if header.flags & FLAG_COMPRESSED:
            self._frame = lz4.frame.LZ4FrameCompressor(
                block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, content_checksum=True, auto_flush=False
            )
            self._emit(self._frame.begin())

    def page(self, pgno: int, data: Bytes, *, block: bytes | None = None) -> None:
        """Write one page; ``block`` is its LZ4 block when the caller has it already (generation 3b only)."""
        header = self.header
        if not self._last < pgno <= header.commit or pgno == header.lock_page or len(data) != header.page_size:
            _refuse(header, self._last, pgno, len(data))
        self._last = pgno
        self._pages += 1
        if self.generation is Generation.G1:
            self._put(_PAGE_1.pack(pgno) + data)
            return
        if block is None:
            block = _compress(data, store_size=False) if self._compressing else stored_block(data)
        head = _PAGE_3B.pack(pgno, PAGE_FLAG_SIZE, len(block))
        put_entry(self._entries, pgno, self.size, len(head) + len(block))
        self._crc = crc64(head + data, self._crc)
        self._emit(head + block)

    def close(self, post_apply: int) -> Trailer:
        """Write everything after the last page; the file is complete then."""
        check_post_apply(self.header, post_apply)
        if self.header.is_snapshot:
            check_snapshot_complete(self.header, self._pages)
        self._put(bytes(self.generation.page_header_size))
        if self._frame is not None:
            self._emit(self._frame.flush())
        if self.generation.has_index:
            section = finish(self._entries)
            self._crc = crc64(section, self._crc)
            self._emit(section)
        trailer = Trailer(post_apply, crc64(_U64.pack(post_apply), self._crc) | CHECKSUM_FLAG)
        self._emit(trailer.pack())
        return trailer

    def _put(self, logical: bytes) -> None:
        """Bytes that the file checksum covers as they are."""
        self._crc = crc64(logical, self._crc)
        self._emit(logical if self._frame is None else self._frame.compress(logical))

    def _emit(self, stored: bytes) -> None:
        self.size += len(stored)
        self._write(stored)
