"""The kernel's INIT, as libfuse is shown it and as the kernel is answered."""

from __future__ import annotations

import struct

import pytest

from sqlitecluster.mount import takeover
from sqlitecluster.mount.takeover import Init


def init(flags: int = (1 << 40) - 1) -> bytes:
    """What kernel 6.18 sends, with all features."""
    body = struct.pack("<IIIII44x", 7, 45, 131072, flags & 0xFFFF_FFFF, flags >> 32)
    return struct.pack("<IIQQIIIHH", 40 + len(body), 26, 2, 0, 0, 0, 0, 0, 0) + body


def test_libfuse_is_shown_a_minor_that_does_not_splice() -> None:
    shown = Init.parse(init()).for_library()
    assert struct.unpack_from("<II", shown, 40) == (7, 13)
    assert len(shown) == len(init())


def test_the_answer_offers_resend_only_when_asked_and_known() -> None:
    def flags(answer: bytes) -> int:
        low, high = struct.unpack_from("<I", answer, 16 + 12)[0], struct.unpack_from("<I", answer, 16 + 32)[0]
        return int(low | high << 32)

    assert flags(Init.parse(init()).answer(resend=True)) & takeover.HAS_RESEND
    assert not flags(Init.parse(init()).answer(resend=False)) & takeover.HAS_RESEND
    assert not flags(Init.parse(init((1 << 39) - 1)).answer(resend=True)) & takeover.HAS_RESEND


def test_the_answer_leaves_locks_and_caching_of_writes_to_the_kernel() -> None:
    answer = Init.parse(init()).answer(resend=True)
    (low,) = struct.unpack_from("<I", answer, 16 + 12)
    for unwanted in (1 << 1, 1 << 10, 1 << 12, 1 << 16):  # POSIX_LOCKS FLOCK_LOCKS AUTO_INVAL_DATA WRITEBACK_CACHE
        assert not low & unwanted
    length, error, unique = struct.unpack_from("<IiQ", answer)
    assert (length, error, unique) == (len(answer), 0, 2)


def test_anything_but_an_init_request_is_refused() -> None:
    for raw in (b"", init()[:50], struct.pack("<IIQQIIIHH", 104, 3, 2, 0, 0, 0, 0, 0, 0) + bytes(64)):
        with pytest.raises(ValueError, match="INIT"):
            Init.parse(raw)


def test_the_resend_request_is_a_bare_notification() -> None:
    assert takeover.resend_request() == struct.pack("<IiQ", 16, 7, 0)
