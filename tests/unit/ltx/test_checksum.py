"""The database checksum follows single changes as it follows the whole image."""

from __future__ import annotations

import random

import numpy as np

from sqlitecluster.ltx import (
    CHECKSUM_FLAG,
    crc64,
    fold,
    image_checksums,
    page_checksum,
    page_checksums,
    rolling,
    rolling_many,
)

IMAGE = random.Random(1).randbytes(512 * 9)
SUMS = image_checksums(1, IMAGE, 512)


def test_crc64_can_be_continued() -> None:
    assert crc64(b"ab" + b"cd") == crc64(b"cd", crc64(b"ab"))


def test_the_three_ways_to_sum_pages_agree() -> None:
    pages = [memoryview(IMAGE)[at : at + 512] for at in range(0, len(IMAGE), 512)]
    assert SUMS.tolist() == page_checksums(range(1, 10), pages).tolist()
    assert SUMS.tolist() == [page_checksum(i + 1, page) for i, page in enumerate(pages)]


def test_a_partial_page_at_the_end_does_not_count() -> None:
    assert image_checksums(1, IMAGE + b"rest", 512).tolist() == SUMS.tolist()


def test_one_changed_page_is_followed() -> None:
    after = SUMS.copy()
    after[3] = page_checksum(4, bytes(512))
    assert rolling(fold(SUMS), int(SUMS[3]), int(after[3])) == fold(after)


def test_many_changed_new_and_dropped_pages_are_followed() -> None:
    after = SUMS.copy()
    after[:4] = page_checksums(range(1, 5), [bytes(512)] * 4)
    assert rolling_many(fold(SUMS), SUMS[:4], after[:4]) == fold(after)
    assert rolling_many(fold(SUMS[:6]), np.zeros(0, np.uint64), SUMS[6:]) == fold(SUMS)
    assert rolling_many(fold(SUMS), SUMS, np.zeros(3, np.uint64)) == CHECKSUM_FLAG
