"""LTX files made at random, with a plain model of the database that they describe.

``History`` makes files that continue one another; ``image`` is what must result from
applying all of them. Used by the lanes ``interop`` and ``fuzz`` and by unit tests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import lz4.frame

from sqlitecluster.ltx import CHECKSUM_FLAG, Encoder, Generation, Header, crc64, encode, page_checksum
from sqlitecluster.ltx.index import finish, put_entry

ALL_KINDS = ("change", "change", "grow", "shrink", "empty", "delete")
PAGE_SIZES = tuple(1 << n for n in range(9, 17))


def some_page(rng: random.Random, page_size: int) -> bytes:
    """A page as databases have them: empty, text, half full, or incompressible."""
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(page_size)
    if kind == 1:
        return (b"%d %x some text " % (rng.randrange(99), rng.getrandbits(40)) * page_size)[:page_size]
    if kind == 2:
        used = rng.randrange(page_size)
        return bytes(page_size - used) + rng.randbytes(used)
    return rng.randbytes(page_size)


@dataclass(slots=True)
class History:
    """A database that changes, and the last header of its transactions."""

    rng: random.Random
    page_size: int
    pages: dict[int, bytes] = field(default_factory=dict)
    commit: int = 0
    txid: int = 0
    kinds: Sequence[str] = ALL_KINDS
    """What the steps do; a database without pages grows first in any case."""

    @property
    def checksum(self) -> int:
        """The database checksum."""
        total = 0
        for pgno, page in self.pages.items():
            total ^= page_checksum(pgno, page)
        return total | CHECKSUM_FLAG

    @property
    def image(self) -> bytes:
        """The database file."""
        return b"".join(self.pages[pgno] for pgno in range(1, self.commit + 1))

    def step(self, *, generation: Generation = Generation.G3B, flags: int = 0) -> bytes:
        """One more file: growth, change, shrinking, deletion or nothing at all."""
        rng, before = self.rng, self.checksum
        kind = rng.choice(self.kinds) if self.commit else "grow"
        changed: dict[int, bytes] = {}
        if kind == "grow":
            new = range(self.commit + 1, self.commit + 1 + rng.randint(1, 12))
            changed = {pgno: some_page(rng, self.page_size) for pgno in new}
            self.commit = new[-1]
        elif kind == "shrink":
            self.commit = rng.randint(1, self.commit)
        elif kind == "delete":
            self.commit = 0
        if kind in ("change", "grow", "shrink"):
            for pgno in rng.sample(range(1, self.commit + 1), rng.randint(1, min(self.commit, 8))):
                changed[pgno] = some_page(rng, self.page_size)
        return self._write(changed, before, generation, flags)

    def snapshot(self, *, generation: Generation = Generation.G3B, flags: int = 0) -> bytes:
        """A file of all pages, for the present position."""
        header = replace(self._header(CHECKSUM_FLAG, flags), min_txid=1, max_txid=max(self.txid, 1), pre_apply=0)
        return make(replace(header, node_id=self.rng.getrandbits(64)), self.pages, self.checksum, generation)

    def _write(self, changed: dict[int, bytes], before: int, generation: Generation, flags: int) -> bytes:
        self.pages = {p: d for p, d in (self.pages | changed).items() if p <= self.commit}
        self.txid += 1
        header = self._header(before, flags)
        if generation is Generation.G3B and self.rng.random() < 0.5:
            header = replace(header, max_txid=self.txid + self.rng.randrange(3), wal_offset=32, wal_size=4120)
            header = replace(header, wal_salt1=self.rng.getrandbits(32), wal_salt2=7)
            self.txid = header.max_txid
        return make(header, changed, self.checksum, generation)

    def _header(self, before: int, flags: int) -> Header:
        return Header(
            flags=flags,
            page_size=self.page_size,
            commit=self.commit,
            min_txid=max(self.txid, 1),
            max_txid=max(self.txid, 1),
            timestamp_ms=self.rng.randrange(1 << 41),
            pre_apply=0 if self.txid <= 1 else before,
        )


def make(header: Header, pages: dict[int, bytes], post_apply: int, generation: Generation) -> bytes:
    """One file of any generation; 3b by either of the two encoders, some with pages as they are."""
    if generation in (Generation.G2, Generation.G3A):
        return make_old(header, pages, post_apply, generation)
    ordered = sorted(pages.items())
    compress = header.timestamp_ms % 3 > 0
    if generation is Generation.G3B and header.timestamp_ms % 2:
        return encode(header, ordered, post_apply, compress=compress)
    parts: list[bytes] = []
    encoder = Encoder(parts.append, header, generation=generation, compress=compress)
    for pgno, page in ordered:
        encoder.page(pgno, page)
    encoder.close(post_apply)
    return b"".join(parts)


def make_old(header: Header, pages: dict[int, bytes], post_apply: int, generation: Generation) -> bytes:
    """A file of generation 2 or 3a, which we only read; pages are LZ4 frames, as ltx 0.4.0 to 0.5.1 wrote them."""
    out = logical = header.pack(generation)
    entries = bytearray()
    for pgno, page in sorted(pages.items()):
        head = pgno.to_bytes(4, "big") + bytes(generation.page_header_size - 4)
        frame = lz4.frame.compress(page, block_linked=False, content_checksum=True, store_size=False)
        put_entry(entries, pgno, len(out), len(head) + len(frame))
        out += head + frame
        logical += head + page
    tail = bytes(generation.page_header_size) + finish(entries) + post_apply.to_bytes(8, "big")
    checksum = crc64(logical + tail) | CHECKSUM_FLAG
    return out + tail + checksum.to_bytes(8, "big")
