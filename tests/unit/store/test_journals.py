"""What a stopped node finds behind a journal's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqlitecluster.sqlitefmt.journal import KEPT, MAGIC, SEAL_AT, SEAL_END, is_sealed, sealed
from sqlitecluster.store.journals import drop_unfinished, has_journal

START = (MAGIC + (3).to_bytes(4, "big")).ljust(SEAL_AT, b"\0")
REST = bytes(range(256)) * 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_a_kept_file_is_removed(path: Path) -> None:
    path.write_bytes(KEPT + REST)
    assert drop_unfinished(path) and not path.exists()
    assert drop_unfinished(path), "nothing there"


@pytest.mark.parametrize("content", [b"", MAGIC, START + REST, bytes(512) + REST])
def test_a_plain_journal_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert not drop_unfinished(path)
    assert path.read_bytes() == content


def test_a_whole_sealed_journal_becomes_a_plain_one_without_what_is_older(path: Path) -> None:
    path.write_bytes(sealed(START, REST) + REST + b"older")
    for _ in range(2):
        assert not drop_unfinished(path)
        assert path.read_bytes() == START + bytes(SEAL_END - SEAL_AT) + REST


@pytest.mark.parametrize("at", [9, 13, SEAL_AT + 8, SEAL_AT + 15, SEAL_AT + 20, SEAL_END, SEAL_END + 4000])
def test_a_sealed_journal_with_one_wrong_byte_is_removed(path: Path, at: int) -> None:
    raw = bytearray(sealed(START, REST) + REST)
    raw[at] ^= 1
    path.write_bytes(raw)
    assert is_sealed(raw)
    assert drop_unfinished(path) and not path.exists()


def test_a_sealed_journal_whose_end_is_missing_is_removed(path: Path) -> None:
    path.write_bytes((sealed(START, REST) + REST)[:-1])
    assert drop_unfinished(path) and not path.exists()


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", False), (KEPT + REST, False), (START, True), (bytes(28), True)]
)
def test_a_kept_file_is_not_taken_for_a_journal(path: Path, content: bytes, expected: bool) -> None:
    assert not has_journal(path.parent)
    path.write_bytes(content)
    assert has_journal(path.parent) is expected
