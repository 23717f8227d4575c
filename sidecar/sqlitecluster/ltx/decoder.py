"""Reading LTX files of every generation.

    decode(data, verify=True) -> LTXFile(header, pages, trailer, generation)   a whole file in memory
    Decoder(read) / Decoder.of(data)     streaming, bounded memory; read(n) gives 1..n bytes, b"" at the end
        .header .generation              at once
        .pages() -> iterator of (pgno, bytes)      to be read to its end; then everything is verified
        .trailer                         after the pages
    LTXFile.index -> PageIndex           (generations 2 and 3)

Verified: every length before it is read, order and range of pages, the page index against
the pages seen, the file checksum, for snapshots the database checksum and completeness, and
that nothing follows. ``decode(verify=False)`` leaves out checksums and index, for bytes
that were verified before.

Rules: pure; raises LTXError or LimitError and nothing else; memory is one page (streaming).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import lz4.block

from sqlitecluster.errors import LimitError, LTXError
from sqlitecluster.ltx.checksum import CHECKSUM_FLAG, crc64, page_checksum
from sqlitecluster.ltx.encoder import check_snapshot_complete
from sqlitecluster.ltx.generation import (
    FLAG_COMPRESSED,
    PAGE_FLAG_SIZE,
    SNIFF_BYTES,
    Generation,
    packed_bound,
    sniff,
)
from sqlitecluster.ltx.header import HEADER_SIZE, MIN_FILE_SIZE, TRAILER_SIZE, Header, Trailer
from sqlitecluster.ltx.index import PageIndex, finish, put_entry
from sqlitecluster.ltx.lz4frames import FrameReader
from sqlitecluster.units import LIMITS, Bytes

Read = Callable[[int], bytes]

_PAGE_3B: Final = struct.Struct(">IHI")
_CHUNK: Final = 1 << 16
_decompress = lz4.block.decompress
_Corrupt = lz4.block.LZ4BlockError


def unpack_page(block: Bytes, page_size: int) -> bytes:
    """One page from its LZ4 block; raises LTXError unless it has exactly the page size."""
    try:
        page: bytes = _decompress(block, uncompressed_size=page_size)
    except _Corrupt:
        raise LTXError("page", len(block), "cannot be decompressed") from None
    if len(page) != page_size:
        raise LTXError("page", len(page), f"expected {page_size} bytes")
    return page


@dataclass(frozen=True, slots=True)
class LTXFile:
    """A decoded file."""

    header: Header
    pages: list[tuple[int, bytes]]
    trailer: Trailer
    generation: Generation
    section: bytes  # of the page index, as stored; empty in generation 1

    @property
    def index(self) -> PageIndex:
        """Where each page stands; raises LTXError in generation 1, which has none."""
        return PageIndex.parse(self.section, commit=self.header.commit)


def decode(data: bytes, *, verify: bool = True) -> LTXFile:
    """Read a whole LTX file of any generation.

    Raises:
        LTXError: it breaks a rule of the format, or a checksum is wrong.
        LimitError: it is too long to be held in memory.
    """
    if len(data) > LIMITS.ltx_bytes:
        raise LimitError(f"LTX: a file of {len(data)} bytes is not decoded in memory")
    if len(data) < MIN_FILE_SIZE:
        raise LTXError("size", len(data), "too short")
    header = Header.parse(data[:HEADER_SIZE])
    generation = sniff(header.flags, data[HEADER_SIZE : HEADER_SIZE + SNIFF_BYTES], header.page_size)
    if generation is Generation.G3B:
        try:
            return _decode_3b(header, data, verify)
        except LTXError:
            if not _could_be_raw_generation_1(header, len(data)):
                raise
            generation = Generation.G1
    decoder = Decoder(io.BytesIO(data).read, generation=generation, verify=verify)
    pages = list(decoder.pages())
    return LTXFile(header, pages, decoder.trailer, generation, decoder.section_of(data))


def _could_be_raw_generation_1(header: Header, size: int) -> bool:
    return (size - HEADER_SIZE - 4 - TRAILER_SIZE) % (header.page_size + 4) == 0


def _decode_3b(header: Header, data: bytes, verify: bool) -> LTXFile:
    header.check(Generation.G3B)
    page_size, commit, lock = header.page_size, header.commit, header.lock_page
    bound, end = packed_bound(page_size), len(data) - TRAILER_SIZE
    pages: list[tuple[int, bytes]] = []
    entries = bytearray()
    crc: int = crc64(data[:HEADER_SIZE])
    last, at = 0, HEADER_SIZE
    while True:
        if at + 15 > end:
            raise LTXError("size", len(data), "ends inside the pages")
        pgno, flags, size = _PAGE_3B.unpack_from(data, at)
        if not pgno and not flags:
            break
        if flags != PAGE_FLAG_SIZE or not 0 < size <= bound or size > end - at - 10:
            raise LTXError("page", (pgno, flags, size), "page header is not legal")
        if not last < pgno <= commit or pgno == lock:
            raise LTXError("page", pgno, f"not within {last + 1} to {commit}, or the lock page")
        last = pgno
        stop = at + 10 + size
        page = unpack_page(data[at + 10 : stop], page_size)
        pages.append((pgno, page))
        if verify:
            crc = crc64(data[at : at + 10] + page, crc)
            put_entry(entries, pgno, at, stop - at)
        at = stop
    trailer = Trailer.parse(data[end:])
    section = data[at + 6 : end]
    if verify:
        if section != finish(entries):
            raise LTXError("index", len(section), "does not agree with the pages")
        _check_end(header, trailer, crc64(data[at : end + 8], crc))
        _check_snapshot(header, trailer, pages)
    return LTXFile(header, pages, trailer, Generation.G3B, section)


def _check_end(header: Header, trailer: Trailer, crc: int) -> None:
    trailer.check(header)
    if trailer.file_checksum != crc | CHECKSUM_FLAG:
        raise LTXError("file_checksum", f"{trailer.file_checksum:016x}", f"computed {crc | CHECKSUM_FLAG:016x}")


def _check_snapshot(header: Header, trailer: Trailer, pages: list[tuple[int, bytes]]) -> None:
    if not header.is_snapshot:
        return
    check_snapshot_complete(header, len(pages))
    if header.is_tracked:
        total = 0
        for pgno, page in pages:
            total ^= page_checksum(pgno, page)
        _check_database(trailer, total)


def _check_database(trailer: Trailer, total: int) -> None:
    if total | CHECKSUM_FLAG != trailer.post_apply:
        raise LTXError("post_apply", f"{trailer.post_apply:016x}", f"the pages give {total | CHECKSUM_FLAG:016x}")


class Decoder:
    """A streaming reader; holds one page in memory.

    The generation is told from the first bytes. Reading ``pages()`` to its end verifies
    the file; a caller that stops earlier has verified nothing.
    """

    def __init__(self, read: Read, *, generation: Generation | None = None, verify: bool = True) -> None:
        self._source = read
        self._peeked = b""
        self.size = 0
        """Bytes read so far."""
        raw = self._take(HEADER_SIZE)
        self.header = Header.parse(raw)
        self._peeked = self._take(SNIFF_BYTES)
        self.size -= SNIFF_BYTES
        self.generation = generation or sniff(self.header.flags, self._peeked, self.header.page_size)
        self.header.check(self.generation)
        self._crc: int = crc64(raw)
        self._verify = verify
        self._trailer: Trailer | None = None
        self._inner: Iterator[bytes] | None = None
        self._buffer = bytearray()
        self._index_crc = 0
        self._index_length = 0
        self._index_at = 0

    @classmethod
    def of(cls, data: bytes) -> Self:
        """A decoder of bytes in memory."""
        return cls(io.BytesIO(data).read)

    @property
    def trailer(self) -> Trailer:
        """What the file says after its pages; LTXError before they were read."""
        if self._trailer is None:
            raise LTXError("trailer", None, "the pages were not read to their end")
        return self._trailer

    def section_of(self, data: bytes) -> bytes:
        """The index section of ``data``, which this decoder has read; empty in generation 1."""
        return data[self._index_at : len(data) - TRAILER_SIZE] if self.generation.has_index else b""

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """(pgno, page) in ascending order; verifies the file when it ends."""
        for pgno, page, _ in self.frames():
            yield pgno, page

    def frames(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Like ``pages``, with each page's LZ4 block where the file has one (generation 3b)."""
        if self.header.flags & FLAG_COMPRESSED:
            self._inner = FrameReader(self._take).pieces()
        last = count = total = 0
        summed = self._verify and self.header.is_snapshot and self.header.is_tracked
        while True:
            start = self.size
            pgno, page, block = self._frame(last)
            if not pgno:
                break
            last, count = pgno, count + 1
            if summed:
                total ^= page_checksum(pgno, page)
            if self.generation.has_index:
                self._expect(pgno, start, self.size - start)
            yield pgno, page, block
        self._finish()
        if self._verify and self.header.is_snapshot:
            check_snapshot_complete(self.header, count)
            if summed:
                _check_database(self.trailer, total)

    def _frame(self, last: int) -> tuple[int, bytes, bytes | None]:
        """The next page, or pgno 0 at the end of the page block."""
        head = self._logical(self.generation.page_header_size)
        pgno = int.from_bytes(head[:4], "big")
        flags = int.from_bytes(head[4:], "big")
        if not pgno:
            if flags:
                raise LTXError("page", 0, "page number is missing")
            self._crc = crc64(head, self._crc)
            return 0, b"", None
        if not last < pgno <= self.header.commit or pgno == self.header.lock_page:
            raise LTXError("page", pgno, f"not within {last + 1} to {self.header.commit}, or the lock page")
        prefix, page, block = self._payload(flags)
        self._crc = crc64(head + prefix + page, self._crc)
        return pgno, page, block

    def _payload(self, flags: int) -> tuple[bytes, bytes, bytes | None]:
        """(size prefix, page, LZ4 block) of the page whose header was just read."""
        page_size = self.header.page_size
        if self.generation is Generation.G1:
            return b"", self._logical(page_size), None
        if flags == PAGE_FLAG_SIZE:
            prefix = self._take(4)
            size = int.from_bytes(prefix, "big")
            if not 0 < size <= packed_bound(page_size):
                raise LTXError("page", size, "size of the compressed page is not legal")
            block = self._take(size)
            return prefix, unpack_page(block, page_size), block
        if flags:
            raise LTXError("page", flags, "unknown page flag")
        page = b""
        for piece in FrameReader(self._take).pieces():
            page += piece
            if len(page) > page_size:
                break
        if len(page) != page_size:
            raise LTXError("page", len(page), f"expected {page_size} bytes")
        return b"", page, None

    def _expect(self, pgno: int, start: int, length: int) -> None:
        """Add one entry to the index that must follow; only its checksum is kept."""
        entry = bytearray()
        put_entry(entry, pgno, start, length)
        self._index_crc = crc64(bytes(entry), self._index_crc)
        self._index_length += len(entry)

    def _finish(self) -> None:
        """Read and verify everything after the page block."""
        if self._inner is not None and (self._buffer or any(self._inner)):
            raise LTXError("pages", len(self._buffer), "bytes after the last page")
        if self.generation.has_index:
            self._check_index()
        raw = self._take(TRAILER_SIZE)
        if self._source(1):
            raise LTXError("trailer", self.size, "bytes after the end")
        trailer = Trailer.parse(raw)
        if self._verify:
            _check_end(self.header, trailer, crc64(raw[:8], self._crc))
        self._trailer = trailer

    def _check_index(self) -> None:
        self._index_at = self.size
        end = b"\0" + (self._index_length + 1).to_bytes(8, "big")
        left, seen = self._index_length, 0
        while left:
            chunk = self._take(min(left, _CHUNK))
            seen = crc64(chunk, seen)
            self._crc = crc64(chunk, self._crc)
            left -= len(chunk)
        if self._take(len(end)) != end or seen != self._index_crc:
            raise LTXError("index", self._index_length, "does not agree with the pages")
        self._crc = crc64(end, self._crc)

    def _logical(self, size: int) -> bytes:
        """Bytes of the page block, which generation 1 may keep inside an LZ4 frame."""
        if self._inner is None:
            return self._take(size)
        while len(self._buffer) < size:
            piece = next(self._inner, None)
            if piece is None:
                raise LTXError("pages", self.size, "end inside a page")
            self._buffer += piece
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` stored bytes."""
        got = self._peeked[:size]
        self._peeked = self._peeked[size:]
        while len(got) < size:
            more = self._source(size - len(got))
            if not more:
                raise LTXError("size", self.size + len(got), "ends early")
            got += more
        self.size += size
        return got
