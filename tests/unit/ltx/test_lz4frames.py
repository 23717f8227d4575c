"""A frame is read to its last byte and not beyond, and never believed."""

from __future__ import annotations

import io

import lz4.frame
import pytest
import xxhash

from sqlitecluster.errors import LTXError
from sqlitecluster.ltx.lz4frames import FrameReader

CONTENT = b"some text, " * 20_000


def exactly(source: io.BytesIO, size: int) -> bytes:
    got = source.read(size)
    if len(got) < size:
        raise LTXError("size", size, "ends early")
    return got


def read(frame: bytes) -> tuple[bytes, bytes]:
    source = io.BytesIO(frame + b"next")
    return b"".join(FrameReader(lambda size: exactly(source, size)).pieces()), source.read()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("size", [0, 1, 70_000, len(CONTENT)])
def test_frames_end_where_they_end(linked: bool, checked: bool, sized: bool, size: int) -> None:
    frame = lz4.frame.compress(
        CONTENT[:size], block_linked=linked, content_checksum=checked, block_checksum=checked, store_size=sized
    )
    assert read(frame) == (CONTENT[:size], b"next")


def test_a_wrong_content_checksum_is_refused() -> None:
    frame = bytearray(lz4.frame.compress(CONTENT, content_checksum=True))
    frame[-1] ^= 1
    with pytest.raises(LTXError):
        read(bytes(frame))


def test_an_announced_content_of_an_exabyte_is_refused() -> None:
    frame = bytearray(lz4.frame.compress(CONTENT, store_size=True))
    frame[6:14] = (1 << 60).to_bytes(8, "little")
    frame[14] = xxhash.xxh32_intdigest(bytes(frame[4:14])) >> 8 & 0xFF
    with pytest.raises(LTXError):
        read(bytes(frame))


def test_a_block_longer_than_its_frame_allows_is_refused() -> None:
    frame = bytearray(lz4.frame.compress(CONTENT, store_size=False))
    frame[7:11] = (0x7FFFFFFF).to_bytes(4, "little")
    with pytest.raises(LTXError, match="longer than"):
        read(bytes(frame))


@pytest.mark.parametrize("at", [0, 4, 5])
def test_another_magic_version_or_descriptor_is_refused(at: int) -> None:
    frame = bytearray(lz4.frame.compress(CONTENT))
    frame[at] = 0x01
    with pytest.raises(LTXError):
        read(bytes(frame))
