"""B5: the page at 1 GiB that SQLite never uses is in no checksum, no snapshot and no suspicion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.ltx import image_checksums
from sqlitecluster.ltx.growth import missing_growth
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.judging import judge
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.snapshot import LogicalImage
from sqlitecluster.units import lock_page

SIZE = 65536
LOCK = lock_page(SIZE)
PAGES = LOCK + 2


def sums_of(path: Path, where: Path) -> ChecksumArray:
    """The checksums of the last pages; those before stay unknown."""
    checksums = ChecksumArray(where, Disk())
    checksums.reset(SIZE)
    with path.open("rb") as file:
        file.seek((LOCK - 2) * SIZE)
        sums = image_checksums(LOCK - 1, file.read(), SIZE)
    checksums.set_many(range(LOCK - 1, PAGES + 1), sums)
    return checksums


@pytest.fixture
def across(tmp_path: Path) -> Iterator[tuple[Path, ChecksumArray]]:
    """A sparse database that reaches two pages beyond the lock page."""
    path = tmp_path / "database"
    with path.open("wb") as file:
        file.write(b"SQLite format 3\0")
        file.truncate(PAGES * SIZE)
    yield path, sums_of(path, tmp_path / "checksums")


def change(path: Path, pgno: int) -> None:
    with path.open("r+b") as file:
        file.seek((pgno - 1) * SIZE + 10)
        file.write(b"\x01")


def test_what_stands_on_it_changes_no_checksum(across: tuple[Path, ChecksumArray], tmp_path: Path) -> None:
    path, checksums = across
    before = checksums.rolling
    change(path, LOCK)
    assert sums_of(path, tmp_path / "again").rolling == before
    change(path, LOCK + 1)
    assert sums_of(path, tmp_path / "once more").rolling != before


def test_a_snapshot_leaves_it_out_and_has_its_neighbours(across: tuple[Path, ChecksumArray], tmp_path: Path) -> None:
    path, checksums = across
    batch, missing = LogicalImage(path, tmp_path / "wal", checksums).read_run(LOCK - 1, 4)
    assert [pgno for pgno, _page in batch] == [LOCK - 1, LOCK + 1, LOCK + 2]
    assert missing == []


def test_the_verifier_does_not_mend_it(across: tuple[Path, ChecksumArray]) -> None:
    path, checksums = across
    change(path, LOCK)
    change(path, LOCK + 1)

    def read(pgno: int) -> bytes:
        with path.open("rb") as file:
            file.seek((pgno - 1) * SIZE)
            return file.read(SIZE)

    found = judge(checksums, Position(1, checksums.rolling), read, [LOCK - 1, LOCK, LOCK + 1], {LOCK + 1: bytes(SIZE)})
    assert list(found.mend) == [LOCK + 1]
    assert (found.left, found.rebuilt) == ([], [])


def test_growth_across_it_is_whole_without_it() -> None:
    assert missing_growth(LOCK - 1, LOCK + 1, [LOCK + 1], SIZE) == 0
    assert missing_growth(LOCK - 1, LOCK + 2, [LOCK + 1], SIZE) == LOCK + 2
