"""A header is refused, on both sides, unless every field is legal."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster.errors import LimitError, LTXError, SQLiteClusterError
from sqlitecluster.ltx import FLAG_COMPRESSED, FLAG_NO_CHECKSUM, Generation, Header, Trailer

FLAG = 1 << 63
GOOD = Header(page_size=4096, commit=9, min_txid=5, max_txid=7, timestamp_ms=123, pre_apply=FLAG | 1, node_id=77)


def test_a_header_survives_packing() -> None:
    full = replace(GOOD, wal_offset=32, wal_size=4120, wal_salt1=1, wal_salt2=2)
    assert Header.parse(full.pack()) == full


def test_fields_stand_where_the_format_says() -> None:
    raw = replace(GOOD, wal_offset=0x20, wal_size=0x30, wal_salt1=0x40, wal_salt2=0x50).pack()
    assert (len(raw), raw[:4]) == (100, b"LTX1")
    assert struct.unpack_from(">IIIQQqQqqIIQ", raw, 4) == (0, 4096, 9, 5, 7, 123, FLAG | 1, 0x20, 0x30, 0x40, 0x50, 77)


@pytest.mark.parametrize(
    "change",
    [
        {"flags": 4},
        {"flags": FLAG_COMPRESSED},
        {"page_size": 0},
        {"page_size": 4095},
        {"page_size": 131072},
        {"min_txid": 0},
        {"min_txid": 8},
        {"pre_apply": 0},
        {"pre_apply": 1},
        {"min_txid": 1},
        {"flags": FLAG_NO_CHECKSUM},
        {"wal_offset": -1},
        {"wal_size": -1, "wal_offset": 32},
        {"wal_size": 5},
        {"wal_salt1": 5},
        {"node_id": 1 << 64},
        {"commit": -1},
    ],
)
def test_an_illegal_field_is_refused_when_writing(change: dict[str, Any]) -> None:
    with pytest.raises(SQLiteClusterError):
        replace(GOOD, **change).pack()


@pytest.mark.parametrize(
    ("offset", "raw"),
    [(0, b"LTX2"), (4, b"\0\0\0\4"), (8, bytes(4)), (16, bytes(8)), (40, bytes(8)), (99, b"\1"), (64, b"\1")],
)
def test_an_illegal_field_is_refused_when_reading(offset: int, raw: bytes) -> None:
    data = bytearray(GOOD.pack())
    data[offset : offset + len(raw)] = raw
    with pytest.raises(LTXError):
        Header.parse(bytes(data))


def test_a_short_header_is_refused() -> None:
    with pytest.raises(LTXError, match="expected 100 bytes"):
        Header.parse(GOOD.pack()[:99])


def test_an_absurd_database_is_refused_by_its_size() -> None:
    with pytest.raises(LimitError):
        replace(GOOD, page_size=65536, commit=0xFFFFFFFF).pack()


def test_generation_1_wants_offset_and_size_together() -> None:
    half = replace(GOOD, wal_offset=32)
    half.pack(Generation.G3B)
    with pytest.raises(LTXError):
        half.pack(Generation.G1)


def test_snapshot_is_what_begins_at_transaction_one() -> None:
    assert not GOOD.is_snapshot
    assert replace(GOOD, min_txid=1, pre_apply=0).is_snapshot


@pytest.mark.parametrize(("commit", "pages"), [(0, 0), (16384, 16384), (16385, 16384), (16390, 16389)])
def test_a_snapshot_leaves_out_the_lock_page(commit: int, pages: int) -> None:
    assert replace(GOOD, page_size=65536, commit=commit).snapshot_pages == pages


@pytest.mark.parametrize(
    ("trailer", "change"),
    [
        (Trailer(0, FLAG), {}),
        (Trailer(5, FLAG), {}),
        (Trailer(FLAG | 5, 5), {}),
        (Trailer(FLAG | 5, FLAG), {"commit": 0}),
        (Trailer(FLAG, FLAG), {"flags": FLAG_NO_CHECKSUM, "pre_apply": 0}),
    ],
)
def test_a_trailer_must_fit_the_header(trailer: Trailer, change: dict[str, Any]) -> None:
    with pytest.raises(LTXError):
        Trailer.parse(trailer.pack()).check(replace(GOOD, **change))
