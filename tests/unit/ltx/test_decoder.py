"""Every generation is read; nothing that is damaged is."""

from __future__ import annotations

import io
import random
import tracemalloc
from dataclasses import replace

import pytest

from sqlitecluster.errors import LimitError, LTXError, SQLiteClusterError
from sqlitecluster.ltx import (
    CHECKSUM_FLAG,
    FLAG_COMPRESSED,
    FLAG_NO_CHECKSUM,
    Decoder,
    Encoder,
    Generation,
    Header,
    decode,
    encode,
)
from support.ltxsamples import History, make, some_page

FORMS = [(generation, 0) for generation in Generation] + [(Generation.G1, FLAG_COMPRESSED)]
HEADER = Header(page_size=512, commit=60, min_txid=5, max_txid=5, timestamp_ms=1, pre_apply=CHECKSUM_FLAG)


def sample(generation: Generation, flags: int = 0) -> bytes:
    rng = random.Random(4)
    pages = {pgno: some_page(rng, 512) for pgno in (2, 3, 57)}
    return make(replace(HEADER, flags=flags), pages, CHECKSUM_FLAG | 9, generation)


@pytest.mark.parametrize(("generation", "flags"), FORMS)
def test_histories_of_every_generation_are_read_alike_in_memory_and_streaming(
    generation: Generation, flags: int
) -> None:
    history = History(random.Random(f"{generation}{flags}"), 1024)
    for _ in range(25):
        data = history.step(generation=generation, flags=flags)
        whole, decoder = decode(data), Decoder.of(data)
        assert list(decoder.pages()) == whole.pages
        assert (decoder.trailer, decoder.generation, decoder.size) == (whole.trailer, whole.generation, len(data))
        assert whole.generation is generation or not whole.pages
        assert whole.trailer.post_apply == history.checksum


@pytest.mark.parametrize(("generation", "flags"), FORMS)
def test_a_source_may_give_single_bytes(generation: Generation, flags: int) -> None:
    data = sample(generation, flags)
    source = io.BytesIO(data)
    assert list(Decoder(lambda _: source.read(1)).pages()) == decode(data).pages


@pytest.mark.parametrize(("generation", "flags"), FORMS)
def test_every_cut_is_an_error(generation: Generation, flags: int) -> None:
    data = sample(generation, flags)
    for end in range(len(data)):
        with pytest.raises(LTXError):
            decode(data[:end])
        with pytest.raises(LTXError):
            list(Decoder.of(data[:end]).pages())


@pytest.mark.parametrize(("generation", "flags"), FORMS)
def test_bytes_after_the_end_are_an_error(generation: Generation, flags: int) -> None:
    data = sample(generation, flags) + b"\0"
    with pytest.raises(LTXError):
        decode(data)
    with pytest.raises(LTXError):
        list(Decoder.of(data).pages())


@pytest.mark.parametrize("generation", Generation)
def test_a_changed_bit_is_an_error_or_changes_nothing(generation: Generation) -> None:
    data, rng = sample(generation), random.Random(8)
    expected = decode(data)
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            found = decode(bytes(damaged))
        except SQLiteClusterError:
            continue
        assert (found.pages, found.trailer) == (expected.pages, expected.trailer)


def test_a_size_prefix_beyond_the_bound_is_refused_before_it_is_read() -> None:
    data = bytearray(sample(Generation.G3B))
    data[106:110] = (0x7FFFFFFF).to_bytes(4, "big")
    asked: list[int] = []
    source = io.BytesIO(data)

    def read(size: int) -> bytes:
        asked.append(size)
        return source.read(size)

    with pytest.raises(LTXError):
        list(Decoder(read, generation=Generation.G3B).pages())
    assert max(asked) <= 200


def test_a_block_that_inflates_beyond_the_page_is_refused() -> None:
    parts: list[bytes] = []
    encoder = Encoder(parts.append, HEADER)
    bomb = b"\x1f\0\1\0" + b"\xff" * 400 + b"\0\0"
    encoder.page(4, bytes(512), block=bomb)
    encoder.close(CHECKSUM_FLAG)
    with pytest.raises(LTXError):
        decode(b"".join(parts))


def test_an_index_that_does_not_fit_the_pages_is_refused() -> None:
    data = sample(Generation.G3B)
    section = decode(data).section
    at = data.index(section, 100)
    with pytest.raises(LTXError, match="index"):
        decode(data[:at] + bytes([section[0] ^ 1]) + data[at + 1 :])


def test_a_snapshot_whose_pages_do_not_give_its_checksum_is_refused() -> None:
    header = replace(HEADER, min_txid=1, pre_apply=0, commit=1)
    data = encode(header, [(1, bytes(512))], CHECKSUM_FLAG | 1)
    with pytest.raises(LTXError, match="post_apply"):
        decode(data)
    with pytest.raises(LTXError, match="post_apply"):
        list(Decoder.of(data).pages())
    assert decode(data, verify=False).pages == [(1, bytes(512))]


def test_a_file_without_database_checksums_is_read() -> None:
    header = replace(HEADER, flags=FLAG_NO_CHECKSUM, pre_apply=0)
    assert decode(encode(header, [(3, bytes(512))], 0)).trailer.post_apply == 0


def test_an_uncompressed_page_that_looks_like_a_size_prefix_is_read_as_generation_1() -> None:
    page = b"\0\1\0\0\0\x40" + bytes(506)  # an overflow page whose next page is number 65536
    data = make(HEADER, {4: page}, CHECKSUM_FLAG, Generation.G1)
    assert decode(data).pages == [(4, page)]


def test_the_trailer_is_not_to_be_had_before_the_pages() -> None:
    decoder = Decoder.of(sample(Generation.G3B))
    with pytest.raises(LTXError):
        _ = decoder.trailer


def test_a_file_that_is_too_large_for_memory_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 40

    with pytest.raises(LimitError):
        decode(Huge())


def test_streaming_memory_does_not_grow_with_the_file() -> None:
    parts: list[bytes] = []
    encoder = Encoder(parts.append, replace(HEADER, page_size=65536, commit=400))
    rng = random.Random(2)
    for pgno in range(1, 200):
        encoder.page(pgno, rng.randbytes(65536))
    encoder.close(CHECKSUM_FLAG)
    source = io.BytesIO(b"".join(parts))
    tracemalloc.start()
    try:
        assert sum(1 for _ in Decoder(source.read).pages()) == 199
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
