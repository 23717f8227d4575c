"""The page index finds pages and is never trusted."""

from __future__ import annotations

import random

import pytest

from sqlitecluster.errors import LimitError, LTXError
from sqlitecluster.ltx import CHECKSUM_FLAG, Generation, Header, PageIndex, decode, encode, unpack_page
from sqlitecluster.ltx.index import finish
from support.ltxsamples import make, some_page

HEADER = Header(page_size=512, commit=1 << 22, min_txid=5, max_txid=5, timestamp_ms=1, pre_apply=CHECKSUM_FLAG)
PAGES = [(pgno, some_page(random.Random(pgno), 512)) for pgno in (1, 2, 127, 128, 16384, 1 << 21, 1 << 22)]
DATA = encode(HEADER, PAGES, CHECKSUM_FLAG)


def read_at(data: bytes) -> PageIndex:
    return PageIndex.read(lambda offset, size: data[offset : offset + size], len(data))


def test_each_page_is_found_from_the_files_tail() -> None:
    index = read_at(DATA)
    assert len(index) == len(PAGES)
    for pgno, page in PAGES:
        place = index.find(pgno)
        assert place is not None
        offset, length = place
        assert int.from_bytes(DATA[offset : offset + 4], "big") == pgno
        assert unpack_page(DATA[offset + 10 : offset + length], 512) == page


@pytest.mark.parametrize("pgno", [0, 3, 129, (1 << 22) + 1])
def test_a_page_that_is_not_there_is_not_found(pgno: int) -> None:
    assert read_at(DATA).find(pgno) is None


def test_a_decoded_file_has_the_same_index() -> None:
    assert list(decode(DATA).index) == list(read_at(DATA))


def test_generation_1_has_no_index() -> None:
    data = make(HEADER, dict(PAGES), CHECKSUM_FLAG, Generation.G1)
    with pytest.raises(LTXError):
        _ = decode(data).index


@pytest.mark.parametrize(
    "entries",
    [
        b"\x01\x64",
        b"\x01\x64\x16\x01\x7a\x16",
        b"\x02\x64\x16\x01\x7a\x16",
        b"\x01\x63\x16",
        b"\x01\x64\x16\x02\x65\x16",
        b"\x01\x64\x00",
        b"\xff" * 11,
        b"\x81" * 9 + b"\x7f",
        b"\x00\x01",
    ],
)
def test_entries_that_cannot_be_are_refused(entries: bytes) -> None:
    with pytest.raises(LTXError):
        PageIndex.parse(finish(bytearray(entries)), commit=9)


def test_an_index_longer_than_the_database_allows_is_refused_before_it_is_read() -> None:
    small = encode(
        Header(page_size=512, commit=1, min_txid=1, max_txid=1, timestamp_ms=1, pre_apply=0), PAGES[:1], 1 << 63
    )
    data = small[:-24] + bytes(1 << 16) + (1 << 16).to_bytes(8, "big") + small[-16:]
    with pytest.raises(LimitError):
        read_at(data)


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1])
def test_an_index_longer_than_the_file_is_refused(length: int) -> None:
    with pytest.raises(LTXError):
        read_at(DATA[:-24] + length.to_bytes(8, "big") + DATA[-16:])
