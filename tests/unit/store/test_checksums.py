"""The array of page checksums agrees with the definition of the rolling checksum."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sqlitecluster.errors import CorruptStore
from sqlitecluster.ltx import CHECKSUM_FLAG
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.disk import Disk
from sqlitecluster.units import lock_page


def make(folder: Path) -> ChecksumArray:
    return ChecksumArray(folder / "checksums", Disk())


def fold(sums: dict[int, int]) -> int:
    total = 0
    for value in sums.values():
        total ^= value
    return total | CHECKSUM_FLAG


def test_an_empty_array_has_the_bare_flag(tmp_path: Path) -> None:
    array = make(tmp_path)
    assert (array.rolling, array.count, array.get(1)) == (CHECKSUM_FLAG, 0, 0)


def test_random_changes_always_give_the_fold_of_all_entries(tmp_path: Path) -> None:
    chance = random.Random(4)
    array = make(tmp_path)
    array.reset(4096)
    model: dict[int, int] = {}
    for _ in range(300):
        count = chance.choice([1, 3, 24, 25, 100])
        pgnos = sorted(chance.sample(range(1, 3000), count))
        sums = [chance.getrandbits(63) | CHECKSUM_FLAG for _ in pgnos]
        commit = max([*model, *pgnos]) if chance.random() < 0.8 else chance.randint(pgnos[-1], 3000)
        expected = {p: s for p, s in (model | dict(zip(pgnos, sums, strict=True))).items() if p <= commit}
        assert array.rolling_after(pgnos, sums, commit) == fold(expected)
        if chance.random() < 0.5:
            array.set_many(np.array(pgnos, dtype=np.uint32), np.array(sums, dtype=np.uint64))
        else:
            array.set_many(pgnos, sums)
        array.truncate(commit)
        model = expected
        assert array.rolling == fold(model)
        assert array.count == commit
    assert array.recount() == fold(model)
    assert [array.get(p) for p in range(1, 3001)] == [model.get(p, 0) for p in range(1, 3001)]


def test_shrinking_forgets_entries_that_come_back_empty(tmp_path: Path) -> None:
    array = make(tmp_path)
    array.set_many([1, 2, 3], [CHECKSUM_FLAG | 1, CHECKSUM_FLAG | 2, CHECKSUM_FLAG | 4])
    array.truncate(1)
    array.truncate(3)
    assert (array.get(2), array.get(3), array.rolling) == (0, 0, CHECKSUM_FLAG | 1)


def test_the_lock_page_never_counts(tmp_path: Path) -> None:
    array = make(tmp_path)
    array.reset(65536)
    lock = lock_page(65536)
    array.set_many([lock - 1, lock, lock + 1], [CHECKSUM_FLAG | 1, CHECKSUM_FLAG | 2, CHECKSUM_FLAG | 4])
    assert array.rolling == CHECKSUM_FLAG | 5
    many = list(range(lock - 30, lock + 30))
    array.set_many(many, [CHECKSUM_FLAG | p for p in many])
    assert array.get(lock) == 0
    assert array.rolling == array.recount()


def test_it_is_the_same_after_reopening(tmp_path: Path) -> None:
    array = make(tmp_path)
    array.reset(512)
    array.set_many(list(range(1, 2000)), [CHECKSUM_FLAG | p for p in range(1, 2000)])
    array.mark(7)
    before = array.rolling
    again = make(tmp_path)
    assert (again.rolling, again.count, again.page_size, again.txid) == (before, 1999, 512, 7)
    assert again.trusted
    assert not again.clean


def test_only_an_orderly_stop_makes_it_clean(tmp_path: Path) -> None:
    array = make(tmp_path)
    array.set_many([1], [CHECKSUM_FLAG | 1])
    array.close()
    again = make(tmp_path)
    assert again.clean
    again.set_many([1], [CHECKSUM_FLAG | 2])
    assert not again.clean


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checksums").write_bytes(b"something else entirely".ljust(8192, b"!"))
    with pytest.raises(CorruptStore):
        make(tmp_path)


def test_entries_that_a_power_cut_left_without_their_head_do_not_count(tmp_path: Path) -> None:
    """The head says that all is clean and empty; of the entries some are on the disk."""
    make(tmp_path)
    with open(tmp_path / "checksums", "r+b") as file:
        file.seek(4096 + 8)
        file.write((12345).to_bytes(8, "little"))
    array = make(tmp_path)
    array.reset(512)
    array.set_many([1, 2, 3], [7, 8, 9])
    assert array.rolling == fold({1: 7, 2: 8, 3: 9}) and array.adds_up
