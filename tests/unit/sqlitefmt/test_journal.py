"""Rollback journals of SQLite are read; what is damaged ends them."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest

from sqlitecluster.errors import JournalError
from sqlitecluster.sqlitefmt import journal
from sqlitecluster.sqlitefmt.journal import JournalHeader


def journal_of_sqlite(folder: Path) -> tuple[bytes, bytes]:
    path = folder / "a.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("CREATE TABLE t (a, b)")
    database.executemany("INSERT INTO t VALUES (?, zeroblob(1000))", [(i,) for i in range(50)])
    before = path.read_bytes()
    database.execute("PRAGMA cache_size = 5")
    database.execute("BEGIN")
    database.execute("UPDATE t SET b = randomblob(1000)")
    found = path.with_name("a.db-journal").read_bytes()
    database.execute("ROLLBACK")
    database.close()
    return before, found


def test_a_spilled_journal_of_sqlite_holds_the_pages_as_they_were(tmp_path: Path) -> None:
    before, raw = journal_of_sqlite(tmp_path)
    header = JournalHeader.parse(raw)
    assert (journal.is_hot(raw), header.initial_pages) == (True, len(before) // header.page_size)
    records = list(header.records(raw))
    assert len(records) == header.record_count
    for pgno, page in records:
        assert page == before[(pgno - 1) * header.page_size : pgno * header.page_size]


@pytest.mark.parametrize(("first", "hot"), [(b"", False), (journal.ZEROED, False), (journal.MAGIC, True)])
def test_empty_and_zeroed_journals_are_not_hot(first: bytes, hot: bool) -> None:
    assert journal.is_hot(first) is hot


def segment(count: int, records: list[tuple[int, bytes]], nonce: int = 5) -> bytes:
    head = journal.MAGIC + struct.pack(">5I", count, nonce, 9, 512, 512)
    header = JournalHeader.parse(head)
    body = head + bytes(512 - 28)
    for pgno, page in records:
        body += struct.pack(">I", pgno) + page + struct.pack(">I", header.record_checksum(page))
    return body


def test_a_journal_that_was_not_synced_goes_to_its_end() -> None:
    raw = segment(0xFFFFFFFF, [(1, b"a" * 512), (2, b"b" * 512)])
    assert [pgno for pgno, _ in JournalHeader.parse(raw).records(raw)] == [1, 2]


def test_records_end_at_the_count_and_at_the_first_damage() -> None:
    raw = bytearray(segment(2, [(1, b"a" * 512), (2, b"b" * 512), (3, b"c" * 512)]))
    assert len(list(JournalHeader.parse(raw).records(raw))) == 2
    raw[512 + 520 + 4 + 312] ^= 1  # the only byte of the second page that the checksum covers
    assert [pgno for pgno, _ in JournalHeader.parse(raw).records(raw)] == [1]


@pytest.mark.parametrize(
    "fields", [(1, 1, 1, 513, 512), (1, 1, 1, 16, 512), (1, 1, 1, 131072, 512), (1, 1, 1, 512, 500), (1, 1, 1, 512, 0)]
)
def test_an_illegal_header_is_refused(fields: tuple[int, ...]) -> None:
    with pytest.raises(JournalError):
        JournalHeader.parse(journal.MAGIC + struct.pack(">5I", *fields))


def test_other_bytes_are_no_journal() -> None:
    for raw in (bytes(28), journal.MAGIC):
        with pytest.raises(JournalError):
            JournalHeader.parse(raw)
