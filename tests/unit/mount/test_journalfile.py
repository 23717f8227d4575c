"""A journal's backing file serves the next transaction: what programs see, and what a power cut may leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sqlitecluster.mount.descriptors import Descriptors
from sqlitecluster.mount.journalfile import JournalFile
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.syncing import Syncing
from sqlitecluster.shared import SLOT_WORDS, Word
from sqlitecluster.sqlitefmt.journal import KEPT, MAGIC, SEAL_END, is_hot, is_sealed, sealed_size

HEADER = (MAGIC + b"\0" * 20).ljust(512, b"\0")
RECORD = b"r" * 1032
OTHER = b"o" * 1032
COUNTED = MAGIC + (2).to_bytes(4, "big")


class Journal:
    """A journal file, and the database that it belongs to."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.commits = 0
        context: Any = SimpleNamespace(
            descriptors=Descriptors(100),
            syncing=Syncing(),
            space=SimpleNamespace(take=lambda _length: None),
            require_primary=lambda: None,
        )
        self.owner: Any = SimpleNamespace(
            context=context,
            name="a.db",
            words=memoryview(bytearray(SLOT_WORDS * 8)).cast("Q"),
            journal_named=True,
            journal_active=False,
            commit_journal=self._commit,
        )
        self.file = JournalFile(self.owner, Kind.JOURNAL, 1, str(path))

    def _commit(self) -> None:
        self.commits += 1

    def write(self, offset: int, data: bytes) -> int | None:
        return self.file.write(offset, data, privileged=False)

    def sync(self) -> None:
        self.file.sync(data_only=True)
        self.file.synced()

    def begin(self, records: int) -> None:
        """As SQLite begins: a header of zeros, then records."""
        assert self.write(0, bytes(512)) == 512
        for number in range(records):
            while self.write(512 + 1032 * number, RECORD) is None:
                self.sync()

    def fsync(self) -> bool:
        """A program's fsync; whether it had anything to do."""
        if needed := self.file.needs_sync():
            self.sync()
        return needed

    def commit(self, records: int) -> None:
        """SQLite's whole transaction with synchronous=FULL, up to the removal of the journal."""
        self.begin(records)
        self.fsync()
        assert self.write(0, COUNTED) == len(COUNTED)
        assert self.fsync()

    def size(self) -> int:
        return self.file.size_of(self.file.stat())

    def transaction(self, records: int) -> None:
        """One that a program makes with synchronous=FULL, up to the removal of the journal."""
        assert self.write(0, HEADER) == 512
        for number in range(records):
            while self.write(512 + 1032 * number, RECORD) is None:
                self.sync()
        self.sync()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.file.close()


def test_a_kept_file_is_empty_for_programs_and_no_journal_for_a_recovery(journal: Journal) -> None:
    journal.transaction(3)
    assert journal.file.may_be_kept()
    journal.file.keep()
    assert (journal.size(), journal.file.read(0, 100)) == (0, b"")
    assert not journal.file.is_hot()
    assert not is_hot(journal.path.read_bytes()) and journal.path.read_bytes().startswith(KEPT)


def test_bytes_of_an_older_transaction_are_not_read(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.transaction(1)
    assert journal.size() == 512 + 1032
    assert journal.file.read(512, 4096) == RECORD
    assert journal.file.read(512 + 1032, 100) == b""
    assert journal.path.stat().st_size == 512 + 3 * 1032


def test_no_record_is_overwritten_before_the_old_header_is_gone_for_good(journal: Journal) -> None:
    journal.transaction(2)
    journal.file.keep()
    assert journal.write(0, HEADER) == 512, "the header itself may come first"
    assert journal.write(512, RECORD) is None
    journal.sync()
    assert journal.write(512, RECORD) == len(RECORD)


def test_a_journal_that_nobody_synced_needs_no_sync_to_be_replaced(journal: Journal) -> None:
    journal.write(0, HEADER)
    journal.write(512, RECORD)
    journal.file.keep()
    journal.write(0, HEADER)
    assert journal.write(512, RECORD) == len(RECORD)


def test_an_unsynced_transaction_between_does_not_make_the_older_header_harmless(journal: Journal) -> None:
    journal.transaction(2)
    journal.file.keep()
    journal.write(0, HEADER)
    journal.file.keep()
    journal.write(0, HEADER)
    assert journal.write(512, RECORD) is None


def test_a_successor_goes_on_from_the_word(journal: Journal) -> None:
    journal.transaction(2)
    journal.file.keep()
    journal.write(0, HEADER)
    successor = JournalFile(journal.owner, Kind.JOURNAL, 1, str(journal.path))
    successor.resume()
    assert successor.size_of(successor.stat()) == 512
    assert successor.write(512, RECORD, privileged=False) is None
    successor.close()


def test_a_gap_ends_the_reuse_and_reads_as_zeros(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.transaction(1)
    assert journal.write(2048, HEADER) == 512
    assert journal.file.read(512 + 1032, 2048 - 512 - 1032) == bytes(2048 - 512 - 1032)
    assert journal.path.stat().st_size == journal.size() == 2048 + 512
    assert journal.owner.words[Word.JOURNAL_SIZE] == 0


def test_the_name_of_a_super_journal_ends_the_file_and_the_file_is_not_kept(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.transaction(1)
    end = 512 + 1032
    assert journal.write(end, b"name-of-the-super-journal" + MAGIC) == 33
    assert journal.path.stat().st_size == end + 33
    assert not journal.file.may_be_kept()


def test_a_file_with_a_second_header_is_not_kept(journal: Journal) -> None:
    journal.transaction(1)
    assert journal.write(2048, HEADER) == 512
    assert not journal.file.may_be_kept()


def test_what_looks_like_a_header_behind_the_end_is_zeroed_where_sqlite_looks(journal: Journal) -> None:
    journal.write(0, HEADER)
    journal.write(512, b"x" * 1536 + HEADER + b"x" * 1000)  # a page with a journal's bytes in it
    journal.sync()
    journal.file.keep()
    journal.transaction(1)
    assert journal.file.read(2048, 8) == b""
    raw = journal.path.read_bytes()
    assert raw[2048:2056] == b"\0" + MAGIC[1:] and raw[512 : 512 + 1032] == RECORD
    assert journal.file.read(512, 8) == RECORD[:8]


def test_truncating_a_reused_file_leaves_nothing_behind_its_end(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.transaction(2)
    assert journal.file.truncate(600, privileged=False)
    assert journal.path.stat().st_size == journal.size() == 600
    journal.file.truncate(0, privileged=False)
    assert (journal.size(), journal.commits) == (0, 1)


def test_a_cut_waits_while_the_old_header_may_come_back(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.write(0, HEADER)
    assert journal.file.truncate(100, privileged=False) is None
    journal.sync()
    assert journal.file.truncate(100, privileged=False)


def test_large_and_open_files_are_not_kept(journal: Journal) -> None:
    journal.transaction(1)
    journal.file.handles = 1
    assert not journal.file.may_be_kept()
    journal.file.handles = 0
    journal.write(2 << 20, b"x")
    assert not journal.file.may_be_kept()


def test_a_file_that_a_recovery_removed_is_noticed(journal: Journal) -> None:
    journal.transaction(1)
    journal.file.keep()
    assert journal.file.is_there()
    journal.path.unlink()
    assert not journal.file.is_there()


def test_a_journal_without_a_header_has_nothing_to_sync_and_its_header_seals_it(journal: Journal) -> None:
    journal.transaction(2)
    journal.file.keep()
    journal.begin(2)
    assert not journal.fsync()
    assert journal.write(0, COUNTED) == len(COUNTED)
    raw = journal.path.read_bytes()
    assert is_sealed(raw) and sealed_size(raw) == journal.size() == 512 + 2 * 1032
    assert journal.fsync()


def test_a_new_file_is_synced_as_sqlite_asks(journal: Journal) -> None:
    journal.begin(1)
    assert journal.fsync()
    journal.write(0, COUNTED)
    assert not is_sealed(journal.path.read_bytes())
    assert journal.fsync()


def test_after_a_sealed_journal_nothing_must_be_settled(journal: Journal) -> None:
    journal.transaction(2)
    for _ in range(3):
        journal.file.keep()
        journal.commit(2)
    journal.file.keep()
    journal.write(0, bytes(512))
    assert journal.write(512, OTHER) == len(OTHER)


def test_a_new_record_under_an_old_sealed_header_is_no_journal(journal: Journal) -> None:
    journal.transaction(2)
    journal.file.keep()
    journal.commit(2)
    before = journal.path.read_bytes()
    journal.file.keep()
    journal.begin(1)
    journal.write(512, OTHER)
    after = journal.path.read_bytes()
    assert sealed_size(before) == len(before)
    assert sealed_size(before[:SEAL_END] + after[SEAL_END:]) is None


def test_a_write_after_the_seal_makes_a_plain_file_and_the_same_write_does_not(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.commit(2)
    assert journal.write(0, COUNTED) == len(COUNTED)
    assert is_sealed(journal.path.read_bytes())
    assert journal.write(512 + 2 * 1032, RECORD) == len(RECORD)
    raw = journal.path.read_bytes()
    assert not is_sealed(raw) and raw.startswith(COUNTED) and len(raw) == journal.size() == 512 + 3 * 1032
    journal.file.keep()
    journal.write(0, bytes(512))
    assert journal.write(512, RECORD) is None, "a header without a seal was durable"


def test_what_was_put_off_is_done_before_a_plain_file_gets_its_header(journal: Journal) -> None:
    journal.transaction(3)
    journal.file.keep()
    journal.begin(1)
    assert not journal.fsync()
    assert journal.write(4096, RECORD) == len(RECORD), "behind a gap: a plain file from here on"
    assert journal.write(0, COUNTED) is None
    journal.sync()
    assert journal.write(0, COUNTED) == len(COUNTED)


def test_a_large_journal_is_synced_twice_and_not_sealed(journal: Journal) -> None:
    journal.transaction(2)
    journal.file.keep()
    journal.begin(1)
    journal.write(512 + 1032, bytes(2 << 20))
    assert journal.fsync()
    journal.write(0, COUNTED)
    assert not is_sealed(journal.path.read_bytes())


@pytest.mark.parametrize("sealed", [False, True])
def test_a_successor_knows_what_begins_the_file(journal: Journal, sealed: bool) -> None:
    journal.transaction(2)
    journal.file.keep()
    journal.begin(2)
    if sealed:
        journal.write(0, COUNTED)
    successor = JournalFile(journal.owner, Kind.JOURNAL, 1, str(journal.path))
    successor.resume()
    assert successor.needs_sync() is sealed
    assert successor.write(0, COUNTED, privileged=False) == len(COUNTED)
    assert is_sealed(journal.path.read_bytes()) and successor.needs_sync()
    successor.close()


def test_a_journal_that_a_stopped_node_left_may_be_durable(journal: Journal) -> None:
    journal.path.write_bytes(HEADER + RECORD)
    journal.file.resume()
    journal.file.keep()
    journal.write(0, bytes(512))
    assert journal.write(512, RECORD) is None
