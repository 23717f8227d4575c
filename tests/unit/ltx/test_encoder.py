"""What breaks a rule is never written; both encoders write the same meaning."""

from __future__ import annotations

import random
from dataclasses import replace

import lz4.block
import pytest

from sqlitecluster.errors import LTXError
from sqlitecluster.ltx import CHECKSUM_FLAG, Decoder, Encoder, Generation, Header, Trailer, decode, encode
from sqlitecluster.ltx.encoder import stored_block
from support.ltxsamples import PAGE_SIZES, some_page

HEADER = Header(page_size=512, commit=9, min_txid=5, max_txid=5, timestamp_ms=1, pre_apply=CHECKSUM_FLAG)
SNAPSHOT = replace(HEADER, min_txid=1, pre_apply=0, commit=2)
PAGE = bytes(512)


def streamed(header: Header, pages: list[tuple[int, bytes]], post_apply: int) -> bytes:
    parts: list[bytes] = []
    encoder = Encoder(parts.append, header)
    for pgno, page in pages:
        encoder.page(pgno, page)
    encoder.close(post_apply)
    assert encoder.size == sum(map(len, parts))
    return b"".join(parts)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_pages_of_every_size_come_back(page_size: int) -> None:
    rng = random.Random(page_size)
    header = replace(HEADER, page_size=page_size, commit=1 << 20)
    pages = [(pgno, some_page(rng, page_size)) for pgno in sorted(rng.sample(range(1, 16384), 20))]
    for data in (encode(header, pages, CHECKSUM_FLAG | 3), streamed(header, pages, CHECKSUM_FLAG | 3)):
        found = decode(data)
        assert (found.header, found.pages, found.trailer.post_apply) == (header, pages, CHECKSUM_FLAG | 3)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_pages_that_are_not_compressed_are_lz4_blocks_all_the_same(page_size: int) -> None:
    rng = random.Random(page_size)
    header = replace(HEADER, page_size=page_size, commit=1 << 20)
    pages = [(pgno, some_page(rng, page_size)) for pgno in sorted(rng.sample(range(1, 16384), 5))]
    parts: list[bytes] = []
    encoder = Encoder(parts.append, header, compress=False)
    for pgno, page in pages:
        encoder.page(pgno, page)
    encoder.close(CHECKSUM_FLAG | 3)
    data = encode(header, pages, CHECKSUM_FLAG | 3, compress=False)
    assert data == b"".join(parts)
    assert decode(data).pages == pages
    assert len(data) > 5 * page_size
    assert lz4.block.decompress(stored_block(pages[0][1]), uncompressed_size=page_size) == pages[0][1]


def test_pages_may_be_views_of_larger_buffers() -> None:
    buffer = memoryview(bytearray(random.Random(1).randbytes(2048)))
    data = encode(HEADER, [(1, buffer[:512]), (3, buffer[1024:1536])], CHECKSUM_FLAG)
    assert decode(data).pages == [(1, bytes(buffer[:512])), (3, bytes(buffer[1024:1536]))]


@pytest.mark.parametrize(
    "pages",
    [
        [(0, PAGE)],
        [(10, PAGE)],
        [(2, PAGE), (2, PAGE)],
        [(3, PAGE), (2, PAGE)],
        [(1, PAGE[:-1])],
        [(1, PAGE + b"x")],
    ],
)
def test_pages_out_of_order_range_or_size_are_refused(pages: list[tuple[int, bytes]]) -> None:
    with pytest.raises(LTXError):
        encode(HEADER, pages, CHECKSUM_FLAG)
    with pytest.raises(LTXError):
        streamed(HEADER, pages, CHECKSUM_FLAG)


@pytest.mark.parametrize("pages", [[], [(1, PAGE)], [(2, PAGE)]])
def test_a_snapshot_with_a_missing_page_is_refused(pages: list[tuple[int, bytes]]) -> None:
    with pytest.raises(LTXError):
        encode(SNAPSHOT, pages, CHECKSUM_FLAG)
    with pytest.raises(LTXError):
        streamed(SNAPSHOT, pages, CHECKSUM_FLAG)


def test_the_lock_page_is_never_written() -> None:
    header = replace(HEADER, page_size=65536, commit=20000)
    with pytest.raises(LTXError, match="lock page"):
        encode(header, [(16385, bytes(65536))], CHECKSUM_FLAG)


def test_pages_around_the_lock_page_are_written() -> None:
    pages = [(16384, bytes(65536)), (16386, bytes(65536))]
    header = replace(HEADER, page_size=65536, commit=20000)
    assert decode(encode(header, pages, CHECKSUM_FLAG)).pages == pages


@pytest.mark.parametrize("post_apply", [0, 5])
def test_a_database_checksum_without_its_flag_is_refused(post_apply: int) -> None:
    with pytest.raises(LTXError):
        encode(HEADER, [], post_apply)


def test_a_deletion_leaves_the_bare_flag() -> None:
    gone = replace(HEADER, commit=0)
    assert decode(encode(gone, [], CHECKSUM_FLAG)).pages == []
    with pytest.raises(LTXError):
        encode(gone, [], CHECKSUM_FLAG | 1)


@pytest.mark.parametrize("generation", [Generation.G2, Generation.G3A])
def test_middle_generations_are_only_read(generation: Generation) -> None:
    with pytest.raises(LTXError):
        Encoder(lambda _: None, HEADER, generation=generation)


def test_a_given_block_is_stored_as_it_is() -> None:
    parts: list[bytes] = []
    encoder = Encoder(parts.append, HEADER)
    block = b"\xf0\xff\xf2" + PAGE
    encoder.page(4, PAGE, block=block)
    trailer = encoder.close(CHECKSUM_FLAG)
    assert isinstance(trailer, Trailer)
    assert [found for _, _, found in Decoder.of(b"".join(parts)).frames()] == [block]
