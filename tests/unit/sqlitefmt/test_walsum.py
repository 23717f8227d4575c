"""The fast checksum is SQLite's, whatever the length, seed and byte order."""

from __future__ import annotations

import random
import struct

import pytest

from sqlitecluster.errors import WALError
from sqlitecluster.sqlitefmt import walsum


def plain(data: bytes, seed: tuple[int, int], order: str) -> tuple[int, int]:
    s0, s1 = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) % (1 << 32)
        s1 = (s1 + words[i + 1] + s0) % (1 << 32)
    return s0, s1


@pytest.mark.parametrize("length", [0, 8, 24, 64, 72, 4096, 65536, 65544, 200_000])
@pytest.mark.parametrize("big_endian", [False, True])
def test_sums_are_those_of_the_definition(length: int, big_endian: bool) -> None:
    rng = random.Random(length)
    data, seed = rng.randbytes(length), (rng.getrandbits(32), rng.getrandbits(32))
    expected = plain(data, seed, ">" if big_endian else "<")
    assert walsum.checksum(data, seed, big_endian=big_endian) == expected


def test_all_ones_do_not_overflow() -> None:
    data = b"\xff" * 4096
    assert walsum.checksum(data, (0xFFFFFFFF, 0xFFFFFFFF)) == plain(data, (0xFFFFFFFF, 0xFFFFFFFF), "<")


def test_a_length_that_is_no_multiple_of_eight_is_refused() -> None:
    with pytest.raises(WALError):
        walsum.checksum(bytes(12))
