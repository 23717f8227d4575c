"""Headers of databases that SQLite wrote."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sqlitecluster.errors import NotADatabase
from sqlitecluster.sqlitefmt.dbheader import DatabaseHeader, looks_like_database


def first_bytes(path: Path, *pragmas: str) -> bytes:
    database = sqlite3.connect(path, isolation_level=None)
    for pragma in pragmas:
        database.execute(f"PRAGMA {pragma}")
    database.execute("CREATE TABLE t (a)")
    database.close()
    return path.read_bytes()[:100]


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_fields_of_a_new_database(tmp_path: Path, page_size: int) -> None:
    raw = first_bytes(tmp_path / "a.db", f"page_size = {page_size}", "user_version = 77", "application_id = 88")
    header = DatabaseHeader.parse(raw)
    assert looks_like_database(raw)
    assert (header.page_size, header.pages, header.user_version, header.application_id) == (page_size, 2, 77, 88)
    assert not header.is_wal


def test_a_database_in_wal_mode_says_so(tmp_path: Path) -> None:
    assert DatabaseHeader.parse(first_bytes(tmp_path / "a.db", "journal_mode = WAL")).is_wal


def test_a_size_from_another_change_is_not_believed(tmp_path: Path) -> None:
    raw = bytearray(first_bytes(tmp_path / "a.db"))
    raw[27] ^= 1
    assert DatabaseHeader.parse(raw).pages == 0


@pytest.mark.parametrize(
    "raw", [b"", bytes(100), b"SQLite format 3\0" + bytes(84), b"SQLite format 4\0\x10" + bytes(83)]
)
def test_other_bytes_are_no_database(raw: bytes) -> None:
    with pytest.raises(NotADatabase):
        DatabaseHeader.parse(raw)
