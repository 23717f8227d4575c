"""Dirty ranges survive their process and cover every written byte."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.mount.dirty import DirtyRanges


@pytest.fixture
def ranges(tmp_path: Path) -> Iterator[DirtyRanges]:
    made = DirtyRanges(str(tmp_path / "dirty"))
    yield made
    made.close()


def test_neighbours_become_one_range(ranges: DirtyRanges) -> None:
    for at in range(0, 40960, 4096):
        ranges.mark(at, 4096)
    assert ranges.ranges() == [(0, 40960)]


def test_the_same_range_is_kept_once(ranges: DirtyRanges) -> None:
    for _ in range(5):
        ranges.mark(8192, 4096)
        ranges.mark(0, 4096)
    assert len(ranges) == 2


@pytest.mark.parametrize("seed", range(10))
def test_merged_ranges_cover_exactly_what_was_marked(ranges: DirtyRanges, seed: int) -> None:
    chance = random.Random(seed)
    covered: set[int] = set()
    for _ in range(300):
        offset, length = chance.randrange(3000), chance.randrange(40)
        ranges.mark(offset, length)
        covered |= set(range(offset, offset + length))
    merged = ranges.merged(2500)
    bytes_ = [at for offset, length in merged for at in range(offset, offset + length)]
    assert bytes_ == sorted(at for at in covered if at < 2500)


def test_no_merged_piece_is_larger_than_a_mib(ranges: DirtyRanges) -> None:
    ranges.mark(0, 5 << 20)
    assert [length for _offset, length in ranges.merged(5 << 20)] == [1 << 20] * 5


def test_another_process_finds_the_ranges(ranges: DirtyRanges) -> None:
    for number in range(1000):  # more than the first size of the table
        ranges.mark(number * 8192, 512)
    other = DirtyRanges(ranges.path)
    assert other.ranges() == ranges.ranges()
    assert len(other) == 1000
    other.close()


def test_clearing_forgets_everything(ranges: DirtyRanges) -> None:
    for number in range(40_000):
        ranges.mark(number * 8192, 512)
    ranges.clear()
    assert ranges.merged(1 << 40) == []
    ranges.mark(0, 10)
    assert ranges.ranges() == [(0, 10)]


def test_a_change_of_size_alone_is_a_mark(ranges: DirtyRanges) -> None:
    ranges.mark(4096, 0)
    assert len(ranges) == 1
    assert ranges.merged(4096) == []
