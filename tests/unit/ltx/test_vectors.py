"""Values computed by others: from LiteFS's and ltx's own tests, and from the format's rules."""

from __future__ import annotations

import numpy as np
import pytest

from sqlitecluster.ltx import (
    FLAG_COMPRESSED,
    Encoder,
    Generation,
    Header,
    crc64,
    decode,
    fold,
    image_checksums,
    page_checksum,
)
from sqlitecluster.units import lock_page

POST_APPLY = 0xA8E04AA102377EEE
PAGE = b"\xab" * 512


def header(flags: int = 0) -> Header:
    return Header(
        flags=flags,
        page_size=512,
        commit=1,
        min_txid=1,
        max_txid=1,
        timestamp_ms=1000,
        pre_apply=0,
        node_id=0x1122334455667788,
    )


def written(head: Header, generation: Generation, block: bytes | None = None) -> bytes:
    parts: list[bytes] = []
    encoder = Encoder(parts.append, head, generation=generation)
    encoder.page(1, PAGE, block=block)
    encoder.close(POST_APPLY)
    return b"".join(parts)


def test_crc64_gives_the_check_value_of_go_iso() -> None:
    assert crc64(b"123456789") == 0xB90956C775A41001


@pytest.mark.parametrize(("pgno", "size", "expected"), [(1, 512, 0xEFB1F44FECD99000), (2, 4096, 0xF7901E47304CA33F)])
def test_page_checksums_of_zero_pages(pgno: int, size: int, expected: int) -> None:
    assert page_checksum(pgno, bytes(size)) == expected


@pytest.mark.parametrize(
    ("fills", "size", "expected"), [(b"\1\2\3", 512, 0xEFFFFFFFECD99000), (b"23", 1024, 0xE1899B6D587AAAAA)]
)
def test_database_checksums_of_filled_pages(fills: bytes, size: int, expected: int) -> None:
    image = b"".join(bytes([fill]) * size for fill in fills)
    assert fold(image_checksums(1, image, size)) == expected


def test_a_database_without_pages_has_the_bare_flag() -> None:
    assert fold(np.zeros(0, np.uint64)) == 1 << 63


@pytest.mark.parametrize(("flags", "checksum"), [(0, 0xE7E93C24611A8303), (FLAG_COMPRESSED, 0xAC848AA660E6FA11)])
def test_generation_1_has_the_known_file_checksum(flags: int, checksum: int) -> None:
    data = written(header(flags), Generation.G1)
    found = decode(data)
    assert found.trailer.file_checksum == checksum
    assert (found.generation, found.pages) == (Generation.G1, [(1, PAGE)])


def test_generation_1_without_compression_has_636_bytes() -> None:
    assert len(written(header(), Generation.G1)) == 636


def test_the_compressed_block_begins_as_the_go_library_writes_it() -> None:
    assert written(header(FLAG_COMPRESSED), Generation.G1)[100:107] == bytes.fromhex("04224d186440a7")


def test_generation_1_file_of_upstreams_tests() -> None:
    parts: list[bytes] = []
    head = Header(page_size=1024, commit=3, min_txid=1, max_txid=2, timestamp_ms=2000, pre_apply=0)
    encoder = Encoder(parts.append, head, generation=Generation.G1)
    for pgno, fill in enumerate(b"\x91\x82\x93", 1):
        encoder.page(pgno, bytes([fill]) * 1024)
    assert encoder.close(0x8A249272AD9F7DEA).file_checksum == 0xCAF341FE1E6CDDFB
    assert [pgno for pgno, _ in decode(b"".join(parts)).pages] == [1, 2, 3]


def test_generation_3b_of_literals_has_the_known_bytes() -> None:
    data = written(header(), Generation.G3B, block=b"\xf0\xff\xf2" + PAGE)
    assert len(data) == 660
    assert data[631:644] == bytes.fromhex("01648d04000000000000000005")
    assert decode(data).trailer.file_checksum == 0xAE4D3C99A8F8438D


@pytest.mark.parametrize(
    ("page_size", "expected"), [(512, 2097153), (1024, 1048577), (4096, 262145), (8192, 131073), (65536, 16385)]
)
def test_lock_pages(page_size: int, expected: int) -> None:
    assert lock_page(page_size) == expected
