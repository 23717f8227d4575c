"""Merged files mean what the files meant one after the other."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sqlitecluster.errors import LimitError, LTXError
from sqlitecluster.ltx import (
    CHECKSUM_FLAG,
    FLAG_COMPRESSED,
    Decoder,
    Generation,
    Header,
    Trailer,
    check_chain,
    compact,
    decode,
    encode,
    merge,
)
from support.ltxsamples import History

HEADER = Header(page_size=512, commit=9, min_txid=5, max_txid=5, timestamp_ms=1, pre_apply=CHECKSUM_FLAG, node_id=3)
FLAG = CHECKSUM_FLAG


def page(fill: int) -> bytes:
    return bytes([fill]) * 512


def file(low: int, high: int, pages: dict[int, bytes], commit: int = 9) -> bytes:
    header = replace(HEADER, min_txid=low, max_txid=high, commit=commit, timestamp_ms=high)
    return encode(header, sorted(pages.items()), FLAG | high if commit else FLAG)


def compacted(blobs: list[bytes]) -> tuple[Header, Trailer, bytes]:
    parts: list[bytes] = []
    header, trailer = compact([Decoder.of(blob) for blob in blobs], parts.append)
    return header, trailer, b"".join(parts)


def test_the_newest_copy_of_a_page_wins() -> None:
    blobs = [file(5, 5, {1: page(1), 2: page(1)}), file(6, 6, {2: page(2), 4: page(2)}), file(7, 7, {4: page(3)})]
    found = decode(compacted(blobs)[2])
    assert found.pages == [(1, page(1)), (2, page(2)), (4, page(3))]


def test_the_result_begins_with_the_first_and_ends_with_the_last() -> None:
    grown = dict.fromkeys((1, 10, 11, 12), page(2))
    header, trailer, data = compacted([file(5, 6, {1: page(1)}), file(7, 9, grown, commit=12)])
    assert (header.min_txid, header.max_txid, header.commit, header.timestamp_ms) == (5, 9, 12, 9)
    assert (header.pre_apply, trailer.post_apply, header.node_id, header.wal_offset) == (FLAG, FLAG | 9, 0, 0)
    assert (decode(data).header, decode(data).trailer) == (header, trailer)


def test_pages_beyond_the_final_size_are_dropped() -> None:
    blobs = [file(5, 5, {1: page(1), 9: page(1)}), file(6, 6, {1: page(2)}, commit=4)]
    assert decode(compacted(blobs)[2]).pages == [(1, page(2))]


def test_pages_that_a_shrinking_cut_off_do_not_return_when_the_database_grows() -> None:
    grown = dict.fromkeys((5, 6, 7, 8, 9), page(3))
    blobs = [file(5, 5, {4: page(1), 9: page(1)}), file(6, 6, {}, commit=4), file(7, 7, grown, commit=9)]
    assert decode(compacted(blobs)[2]).pages == [(4, page(1)), *grown.items()]
    assert merge(blobs) == compacted(blobs)[2]


def test_files_may_overlap() -> None:
    blobs = [file(5, 8, {1: page(1)}), file(7, 9, {1: page(2)})]
    assert decode(merge(blobs)).header.max_txid == 9


@pytest.mark.parametrize("second", [(7, 9), (5, 5), (4, 5)])
def test_gaps_and_files_that_add_nothing_are_refused(second: tuple[int, int]) -> None:
    blobs = [file(5, 5, {}), file(*second, {})]
    for merging in (merge, compacted):
        with pytest.raises(LTXError):
            merging(blobs)


def test_page_sizes_must_agree() -> None:
    other = encode(replace(HEADER, page_size=1024, min_txid=6, max_txid=6), [], FLAG)
    with pytest.raises(LTXError, match="page_size"):
        compacted([file(5, 5, {}), other])


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(LTXError):
        merge([])


def test_too_many_files_are_refused() -> None:
    with pytest.raises(LimitError):
        check_chain([HEADER] * 5000)


def test_a_damaged_source_leaves_no_complete_result() -> None:
    damaged = bytearray(file(6, 6, {3: page(1)}))
    damaged[-1] ^= 1
    parts: list[bytes] = []
    with pytest.raises(LTXError):
        compact([Decoder.of(file(5, 5, {2: page(1)})), Decoder.of(bytes(damaged))], parts.append)
    with pytest.raises(LTXError):
        decode(b"".join(parts))


@pytest.mark.parametrize("seed", range(12))
def test_histories_give_the_same_database_merged_or_not(seed: int) -> None:
    history = History(random.Random(seed), 512)
    blobs = [history.step() for _ in range(12)]
    merged = merge(blobs)
    assert merged == compacted(blobs)[2]
    found = decode(merged)
    assert dict(found.pages) == history.pages
    assert found.trailer.post_apply == history.checksum


@pytest.mark.parametrize("flags", [0, FLAG_COMPRESSED])
def test_generation_1_is_merged_into_generation_3b(flags: int) -> None:
    history = History(random.Random(3), 512)
    blobs = [history.step(generation=Generation.G1, flags=flags) for _ in range(6)]
    found = decode(compacted(blobs)[2])
    assert dict(found.pages) == history.pages
    with pytest.raises(LTXError):
        merge(blobs)
