"""A process that dies anywhere leaves a store that opens, contiguous, with nothing acknowledged missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sqlitecluster import failpoints
from sqlitecluster.replication.position import Position
from sqlitecluster.store import compaction, cutter
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.state import OWNER_PROGRAMS, OWNER_SIDECAR
from support.store_model import Model, make, rebuilt


class Deaths:
    """Copies the data directory at every failpoint, as a SIGKILL there would leave it."""

    def __init__(self, data: Path, copies: Path) -> None:
        self.data, self.copies = data, copies
        self.found: list[tuple[str, Path]] = []

    def hit(self, name: str) -> None:
        target = self.copies / f"{len(self.found):04d}"
        shutil.copytree(self.data, target)
        self.found.append((name, target))


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deaths:
    found = Deaths(tmp_path / "data", tmp_path / "copies")
    monkeypatch.setattr(failpoints, "hit", found.hit)
    return found


def test_killed_after_any_append_the_chain_is_whole(tmp_path: Path, deaths: Deaths) -> None:
    _store, model = make(tmp_path / "data", segment_size=1 << 16)
    positions = []
    for _ in range(12):
        model.write_many(1)
        positions.append(model.store.position)
    assert [name for name, _ in deaths.found] == ["log.after-append", "store.before-sums"] * 12
    for expected, (_name, copy) in zip([p for p in positions for _ in range(2)], deaths.found, strict=True):
        db = make(copy)[0].open("app.db")
        assert db.position == expected
        assert db.checksums.rolling == expected.checksum
        assert len(list(db.since(0) or ())) == expected.txid


def test_killed_while_cutting_nothing_is_lost_or_doubled(tmp_path: Path, deaths: Deaths) -> None:
    store, model = make(tmp_path / "data", segment_size=1 << 14, ring_bytes=0)
    for _ in range(4):
        model.write_many(30)
        cutter.cut(model.store, store.log)
    cuts = [copy for name, copy in deaths.found if name == "cutter.before-release"]
    assert len(cuts) == 5  # the first time also the snapshot, alone
    for count, copy in zip([1, 1, 2, 3, 4], cuts, strict=True):
        db = make(copy)[0].open("app.db")
        assert db.position.txid == 30 * count
        assert rebuilt(db).keys() == model.pages.keys()


def test_killed_while_compacting_the_files_are_as_before(tmp_path: Path, deaths: Deaths) -> None:
    store, model = make(tmp_path / "data", segment_size=1 << 16, ring_bytes=0)
    for _ in range(6):
        model.write_many(3)
        cutter.cut(model.store, store.log)
    compaction.compact_level(model.store, 1)
    (copy,) = [copy for name, copy in deaths.found if name == "compaction.before-adopt"]
    db = make(copy)[0].open("app.db")
    assert rebuilt(db) == model.pages
    assert not list(copy.rglob("*.tmp"))


def test_killed_during_a_reset_the_old_history_is_there_or_set_aside(tmp_path: Path, deaths: Deaths) -> None:
    _store, model = make(tmp_path / "data", segment_size=1 << 16)
    model.write_many(4)
    at = model.store.position
    model.store.keep_tail(0, "diverged")
    model.store.reset(Position(9, at.checksum), page_size=512, commit=1, timestamp_ms=1)
    (copy,) = [copy for name, copy in deaths.found if name == "store.before-reset"]
    db = make(copy)[0].open("app.db")
    assert db.position == at
    assert list((copy / "lost+found").glob("*/*.ltx"))
    db.reset(Position(9, at.checksum), page_size=512, commit=1, timestamp_ms=1)
    assert make(copy)[0].open("app.db").position.txid == 9


def test_killed_between_log_and_checksums_the_sums_are_completed(tmp_path: Path) -> None:
    _store, model = make(tmp_path)
    model.write_many(5)
    blob, header, post = model.transaction({1: b"SQLite format 3\0!", 4: b"new"})
    model.store.append(blob, header, post)  # and no checksums
    db = make(tmp_path)[0].open("app.db")
    assert db.checksums.rolling == post == model.checksum()
    assert db.checksums.txid == 6
    assert not db.needs_compare


def test_restarting_again_and_again_changes_nothing(tmp_path: Path) -> None:
    _store, model = make(tmp_path, segment_size=1 << 14)
    model.write_many(50)
    for _ in range(3):
        store, _again = make(tmp_path, segment_size=1 << 14)
        db = store.open("app.db")
        assert db.position == Position(50, model.checksum())
        assert rebuilt(db) == model.pages
    model = _go_on(store, model)
    cutter.cut(model.store, store.log)
    assert rebuilt(make(tmp_path)[0].open("app.db")) == model.pages


def _go_on(store: NodeStore, model: Model) -> Model:
    successor = Model(store.open("app.db"))
    successor.pages = dict(model.pages)
    successor.write_many(5)
    return successor


def test_an_orderly_stop_leaves_an_empty_log(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(20)
    cutter.cut(model.store, store.log)
    store.close()
    assert sum(path.stat().st_size for path in (tmp_path / "log").iterdir()) == 0
    db = make(tmp_path)[0].open("app.db")
    assert db.position == Position(20, model.checksum())
    assert db.checksums.clean


def power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)


def damage(words: Path, offset: int) -> None:
    with open(words, "r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 8)


def test_after_a_power_cut_sound_checksums_are_proved_by_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store, model = make(tmp_path)
    model.write_many(9)
    power_cut(monkeypatch)
    db = make(tmp_path)[0].open("app.db")
    assert db.after_power_cut
    assert db.checksums.rolling == model.checksum()
    assert not db.needs_compare


def test_after_a_power_cut_lost_checksums_ask_for_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _store, model = make(tmp_path)
    model.write_many(9)
    model.store.flush()
    damage(tmp_path / "dbs/app.db/checksums", 4096)
    power_cut(monkeypatch)
    db = make(tmp_path)[0].open("app.db")
    assert db.position == Position(9, model.checksum())
    assert db.checksums.count == 0
    assert db.needs_compare


@pytest.mark.parametrize(("is_own", "owner"), [(True, OWNER_PROGRAMS), (False, OWNER_SIDECAR)])
def test_whose_image_it_is_is_told_by_the_history_when_the_words_are_older_than_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_own: bool, owner: int
) -> None:
    """Else a torn image of a replica would be taken for what programs wrote."""
    store, model = make(tmp_path)
    model.store.state.touch()  # the first write of its words
    shutil.copy(tmp_path / "dbs/app.db/state", tmp_path / "first-state")
    (tmp_path / "dbs/app.db/database").write_bytes(b"torn")
    model.write({1: b"SQLite format 3\0"}, node_id=store.node_id if is_own else store.node_id ^ 1)
    store.log.sync()
    shutil.copy(tmp_path / "first-state", tmp_path / "dbs/app.db/state")
    power_cut(monkeypatch)
    db = make(tmp_path)[0].open("app.db")
    assert db.position == Position(1, model.checksum())
    assert db.owner == owner


def test_after_a_power_cut_old_words_are_corrected_by_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = make(tmp_path)
    model.write_many(4)
    shutil.copy(tmp_path / "dbs/app.db/state", tmp_path / "old-state")
    model.write_many(4)
    cutter.cut(model.store, store.log)
    model.write_many(2)
    shutil.copy(tmp_path / "old-state", tmp_path / "dbs/app.db/state")
    power_cut(monkeypatch)
    db = make(tmp_path)[0].open("app.db")
    assert db.position == Position(10, model.checksum())
    assert db.commit == model.commit


def test_a_second_kill_does_not_hide_the_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _store, model = make(tmp_path)
    model.write_many(4)
    power_cut(monkeypatch)
    make(tmp_path)[0].open("app.db")
    again = make(tmp_path)[0].open("app.db")
    assert again.after_power_cut
    again.recovered()
    assert not make(tmp_path)[0].open("app.db").after_power_cut


def test_the_log_moves_the_wal_mark_on_after_a_power_cut(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.store.set_wal_mark(5, 6, 568, 3)
    fields = {"wal_offset": 568, "wal_size": 536, "wal_salt1": 5, "wal_salt2": 6, "node_id": store.node_id}
    model.write({1: b"SQLite format 3\0"}, **fields)
    mark = make(tmp_path)[0].open("app.db").wal_mark
    assert mark is not None
    assert (mark.end, mark.generation) == (1104, 3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-20],
        lambda data: b"",
        lambda data: b"\0" * len(data),
        lambda data: data[:150] + b"!" + data[151:],
    ],
    ids=["short", "empty", "zeros", "flipped"],
)
def test_a_damaged_newest_file_goes_to_lost_and_found_and_the_store_opens(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(4)
    cutter.cut(model.store, store.log)
    model.write_many(4)
    cutter.cut(model.store, store.log)
    store.close()
    path = model.store.files.file_path(model.store.files.files[-1])
    path.write_bytes(spoil(path.read_bytes()))
    again, _ = make(tmp_path)
    db = again.open("app.db")
    assert db.position == Position(8, model.checksum())
    for blob in db.since(4) or ():
        pytest.fail(f"{len(blob)} damaged bytes given out")
    assert again.corrupt_files == 1
    assert len(list((tmp_path / "lost+found").glob("*corrupt/*.ltx"))) == 1
    assert db.since(4) is None


def test_without_state_words_a_damaged_newest_file_moves_the_position_back(tmp_path: Path) -> None:
    store, model = make(tmp_path, ring_bytes=0)
    model.write_many(4)
    cutter.cut(model.store, store.log)
    at = model.store.position
    model.write_many(4)
    cutter.cut(model.store, store.log)
    store.close()
    path = model.store.files.file_path(model.store.files.files[-1])
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "dbs/app.db/state").unlink()
    assert make(tmp_path)[0].open("app.db").position == at


def test_a_name_that_is_no_database_in_the_log_does_not_stop_the_node(tmp_path: Path) -> None:
    store, _model = make(tmp_path)
    store.log.append(b"../evil", b"blob")
    again, model = make(tmp_path)
    again.open_recovered()
    model.write_many(2)
    assert model.store.position.txid == 2


def test_a_thousand_databases_hold_no_descriptor_each(tmp_path: Path) -> None:
    import os

    store, _model = make(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(1000):
        Model(store.open(f"db{n}")).write({1: b"SQLite format 3\0"})
    assert len(os.listdir("/proc/self/fd")) < before + 10
    assert sum(db.position.txid for db in store.opened()) == 1000


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_primary_of_the_past_keeps_its_image_through_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_noted: bool
) -> None:
    """What it captured itself is the newest; only words older than that may be of its time as a replica before."""
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0"})
    model.store.set_applied(1)
    model.store.flush()
    shutil.copy(tmp_path / "dbs/app.db/state", tmp_path / "as-replica")
    model.write({1: b"captured"}, node_id=store.node_id, wal_offset=32, wal_size=536, wal_salt1=5, wal_salt2=6)
    if is_noted:
        model.store.set_applied(2)  # demoted
        model.store.flush()
    else:
        store.log.sync()
        shutil.copy(tmp_path / "as-replica", tmp_path / "dbs/app.db/state")
    power_cut(monkeypatch)
    db = make(tmp_path)[0].open("app.db")
    assert db.position == Position(2, model.checksum())
    assert db.owner == (OWNER_SIDECAR if is_noted else OWNER_PROGRAMS)
