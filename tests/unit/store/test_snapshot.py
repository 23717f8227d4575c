"""Reading a committed image beside programs, and telling damage from change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqlitecluster.errors import Unavailable
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.snapshot import BATCH_BYTES, SnapshotReader
from sqlitecluster.store.verifier import PATIENCE, Verifier
from sqlitecluster.store.walfile import WalPages
from support.store_image import PAGE, LiveDatabase
from support.store_model import ManualClock


class Rig:
    def __init__(self, folder: Path) -> None:
        self.store = NodeStore(folder / "data", clock=ManualClock(), segment_size=1 << 18)
        self.db = self.store.open("app.db")
        self.live = LiveDatabase(folder / "live")

    def commits(self, count: int) -> None:
        for _ in range(count):
            self.live.insert()
            self.live.capture(self.store, self.db)

    def reader(self, **options: object) -> SnapshotReader:
        return SnapshotReader(self.live.path, self.live.wal, self.db.checksums, self.db.commit, **options)  # type: ignore[arg-type]

    def verifier(self) -> Verifier:
        return Verifier(self.live.path, self.live.wal, self.db.checksums)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def image_of(pages: dict[int, bytes]) -> bytes:
    return b"".join(pages[n] for n in sorted(pages))


def test_pages_come_from_the_wal_and_from_the_file(rig: Rig) -> None:
    rig.commits(3)
    rig.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    rig.commits(3)
    pages = dict(page for batch in rig.reader().batches() for page in batch)
    assert image_of(pages) == rig.live.image()


def test_batches_are_bounded_and_every_page_comes_once(rig: Rig) -> None:
    rig.live.insert(8000)
    rig.commits(1)
    batches = list(rig.reader().batches())
    assert len(batches) > 1
    assert max(len(batch) * PAGE for batch in batches) <= BATCH_BYTES
    numbers = [pgno for batch in batches for pgno, _page in batch]
    assert sorted(numbers) == list(range(1, rig.db.commit + 1))


def test_a_base_read_while_commits_go_on_is_exact_after_the_transactions_between(rig: Rig) -> None:
    from sqlitecluster.ltx import decode

    rig.live.insert(5000)
    rig.commits(1)
    start = rig.db.position
    pages: dict[int, bytes] = {}
    for batch in rig.reader().batches():
        pages.update(batch)
        rig.live.connection.execute("UPDATE t SET b=randomblob(200) WHERE a % 97 = 5")
        rig.commits(1)
    assert rig.db.position.txid >= start.txid + 2
    for blob in rig.db.since(start.txid) or ():
        pages.update(decode(blob).pages)
    assert image_of(pages) == rig.live.image()


def test_a_page_that_is_written_but_not_captured_yet_is_waited_for(rig: Rig) -> None:
    rig.commits(2)
    rig.live.connection.execute("UPDATE t SET b=zeroblob(100) WHERE a=1")
    rig.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pauses: list[float] = []

    def captured_meanwhile(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 2:
            rig.live.capture(rig.store, rig.db)

    reader = rig.reader(pause=captured_meanwhile)
    pages = dict(page for batch in reader.batches() for page in batch)
    assert image_of(pages) == rig.live.image()
    assert len(pauses) == 2
    assert reader.retried > 0


def test_a_damaged_page_ends_the_snapshot_with_a_reason(rig: Rig) -> None:
    rig.commits(3)
    rig.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(rig.live.path, "r+b") as file:
        file.seek(PAGE + 100)
        file.write(b"damage")
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(Unavailable, match="first 2"):
        list(rig.reader(pause=pause, clock=lambda: now[0]).batches())


def test_pages_cut_off_meanwhile_are_left_out(rig: Rig) -> None:
    rig.commits(6)
    reader = rig.reader()
    rig.live.connection.execute("DELETE FROM t")
    rig.live.connection.execute("VACUUM")
    rig.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    rig.live.capture(rig.store, rig.db)
    pages = dict(page for batch in reader.batches() for page in batch)
    assert image_of(pages) == rig.live.image()


def test_an_empty_database_has_no_batches(rig: Rig) -> None:
    assert list(rig.reader().batches()) == []


def test_the_verifier_finds_nothing_in_a_living_database(rig: Rig) -> None:
    rig.commits(4)
    verifier = rig.verifier()
    for _ in range(10):
        assert verifier.step() == []
        rig.commits(1)
    assert verifier.rounds > 2
    assert verifier.verified > rig.db.commit


def test_the_verifier_reports_a_damaged_page_once_a_walk(rig: Rig) -> None:
    rig.commits(4)
    rig.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(rig.live.path, "r+b") as file:
        file.seek(2 * PAGE)
        file.write(b"damage")
    verifier = rig.verifier()
    found = [page for _ in range(PATIENCE + 1) for page in verifier.step()]
    assert found == [3]


def test_the_verifier_suspects_nothing_while_the_image_lacks_what_the_checksums_have(rig: Rig) -> None:
    rig.commits(4)
    rig.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(rig.live.path, "r+b") as file:
        file.seek(2 * PAGE)
        file.write(b"another")
    verifier = rig.verifier()
    assert [page for _ in range(2 * PATIENCE) for page in verifier.step(lambda: False)] == []
    assert [page for _ in range(PATIENCE) for page in verifier.step(lambda: True)] == [3]


def test_wal_pages_read_on_from_where_they_stopped_and_ignore_what_is_not_committed(rig: Rig) -> None:
    rig.commits(2)
    pages = WalPages(rig.live.wal)
    pages.refresh()
    end = pages.end
    assert end == rig.live.wal.stat().st_size
    with open(rig.live.wal, "ab") as file:
        file.write(bytes(5000))
    pages.refresh()
    assert pages.end == end
    with open(rig.live.wal, "r+b") as file:
        file.truncate(end)
    rig.commits(2)
    pages.refresh()
    fresh = WalPages(rig.live.wal)
    fresh.refresh()
    assert (pages.pages, pages.commit, pages.end) == (fresh.pages, fresh.commit, fresh.end)


def test_wal_pages_start_anew_after_a_restart_of_the_log(rig: Rig) -> None:
    rig.commits(3)
    pages = WalPages(rig.live.wal)
    pages.refresh()
    before = pages.header
    rig.live.connection.execute("PRAGMA wal_checkpoint(RESTART)")
    rig.commits(1)
    pages.refresh()
    assert pages.header != before
    assert pages.end < rig.live.wal.stat().st_size


def test_a_transaction_larger_than_one_read_is_followed_across(rig: Rig) -> None:
    rig.live.insert(12000)
    rig.commits(1)
    pages = WalPages(rig.live.wal)
    pages.refresh()
    assert pages.end == rig.live.wal.stat().st_size > 2 * BATCH_BYTES
