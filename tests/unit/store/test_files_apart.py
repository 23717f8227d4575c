"""Spools, trash, lost+found and the reserve."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from sqlitecluster.errors import BadName, ClusterMismatch, CorruptStore, DatabaseExists, NoSpace, NoSuchDatabase
from sqlitecluster.store import lostfound, trash
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.reserve import MIN_RESERVE, DiskRoom, is_low, reserve_bytes, room
from sqlitecluster.store.spool import FLAG_RAW, copy_spool, list_spools, read_spool, spool_path, write_spool


def test_a_spool_gives_back_what_was_written(tmp_path: Path) -> None:
    path = spool_path(tmp_path, 3, 7)
    write_spool(path, [(0, b"first page"), (8192, memoryview(b"third"))], 12288, FLAG_RAW, wal_gen=4, gone_seq=5)
    spool = read_spool(path)
    assert (spool.is_raw, spool.db_size, spool.wal_gen, spool.gone_seq) == (True, 12288, 4, 5)
    assert list(spool.read()) == [(0, b"first page"), (8192, b"third")]
    assert list_spools(tmp_path) == [(3, 7, path)]


def test_a_spool_copies_ranges_of_a_file_and_leaves_out_what_is_beyond_its_end(tmp_path: Path) -> None:
    content = bytes(range(256)) * 32
    path = spool_path(tmp_path, 0, 1)
    copy_spool(path, [(0, 512), (7680, 2048), (20000, 512)], lambda at, n: content[at : at + n], len(content))
    assert list(read_spool(path).read()) == [(0, content[:512]), (7680, content[7680:])]


def test_a_spool_without_ranges_tells_the_size(tmp_path: Path) -> None:
    path = spool_path(tmp_path, 0, 1)
    write_spool(path, [], 4096)
    assert (read_spool(path).db_size, list(read_spool(path).read())) == (4096, [])


@pytest.mark.parametrize("cut", [0, 10, 47, 60, -1])
def test_a_damaged_spool_is_refused(tmp_path: Path, cut: int) -> None:
    path = spool_path(tmp_path, 0, 1)
    write_spool(path, [(0, b"x" * 100)], 100)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorruptStore):
        read_spool(path)


def test_a_full_disk_leaves_no_spool(tmp_path: Path) -> None:
    def full(_at: int, _n: int) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = spool_path(tmp_path, 0, 1)
    with pytest.raises(NoSpace):
        copy_spool(path, [(0, 512)], full, 512)
    assert list(path.parent.iterdir()) == []


def make_database(data: Path, name: str) -> Path:
    folder = data / "dbs" / name
    folder.mkdir(parents=True)
    for part in ("database", "wal", "state"):
        (folder / part).write_text(part)
    return folder


def test_a_deleted_database_can_be_restored(tmp_path: Path) -> None:
    folder = make_database(tmp_path, "app.db")
    trash.throw(tmp_path, "app.db", 1000)
    assert [path.name for path in folder.iterdir()] == ["state"]
    (found,) = trash.contents(tmp_path)
    assert (found.name, found.deleted_ms, found.size) == ("app.db", 1000, 11)
    trash.restore(tmp_path, "app.db", 1000)
    assert sorted(path.name for path in folder.iterdir()) == ["database", "state", "wal"]
    assert trash.contents(tmp_path) == []


def test_restoring_never_replaces_a_new_database(tmp_path: Path) -> None:
    folder = make_database(tmp_path, "app.db")
    trash.throw(tmp_path, "app.db", 1000)
    (folder / "database").write_text("new")
    with pytest.raises(DatabaseExists):
        trash.restore(tmp_path, "app.db", 1000)
    with pytest.raises(NoSuchDatabase):
        trash.restore(tmp_path, "other.db", 1000)


def test_deleting_twice_in_one_millisecond_keeps_both(tmp_path: Path) -> None:
    folder = make_database(tmp_path, "app.db")
    trash.throw(tmp_path, "app.db", 1000)
    (folder / "database").write_text("second")
    trash.throw(tmp_path, "app.db", 1000)
    assert [each.deleted_ms for each in trash.contents(tmp_path)] == [1000, 1001]


def test_the_trash_is_emptied_after_the_retention(tmp_path: Path) -> None:
    make_database(tmp_path, "a%2Fb.db")
    trash.throw(tmp_path, "a/b.db", 1000)
    assert trash.purge(tmp_path, 5000, 10) == []
    assert [each.name for each in trash.purge(tmp_path, 12_000, 10)] == ["a/b.db"]
    assert list((tmp_path / "trash").iterdir()) == []


def test_lost_and_found_says_what_and_why(tmp_path: Path) -> None:
    (tmp_path / "x.ltx").write_bytes(b"tail")
    folder = lostfound.keep(
        tmp_path, Disk(), 1_700_000_000_123, "a/b.db", "Diverged: from the primary", [tmp_path / "x.ltx"], [("y", b"1")]
    )
    assert folder.name == "20231114T221320.123000Z-a%2Fb.db-diverged-from-the-primary"
    reason = json.loads((folder / "reason.json").read_text())
    assert reason["database"] == "a/b.db"
    assert sorted(reason["files"]) == ["x.ltx", "y"]
    assert (folder / "x.ltx").read_bytes() == b"tail"
    assert not (tmp_path / "x.ltx").exists()


def test_lost_and_found_never_overwrites(tmp_path: Path) -> None:
    folders = set()
    for text in (b"1", b"2"):
        (tmp_path / "x").write_bytes(text)
        folders.add(lostfound.keep(tmp_path, Disk(), 5, "db", "same", [tmp_path / "x"]))
    assert {(folder / "x").read_bytes() for folder in folders} == {b"1", b"2"}


def test_a_very_long_name_still_finds_room(tmp_path: Path) -> None:
    name = "/".join(["n" * 100] * 2)
    assert lostfound.keep(tmp_path, Disk(), 5, name, "w" * 300, []).is_dir()


@pytest.mark.parametrize(
    ("configured", "total", "expected"),
    [(5, 1 << 40, 5), (0, 1 << 40, (1 << 40) // 50), (0, 1 << 31, MIN_RESERVE)],
)
def test_the_reserve_fits_the_disk(configured: int, total: int, expected: int) -> None:
    assert reserve_bytes(configured, DiskRoom(total, total)) == expected


def test_room_is_low_below_the_reserve(tmp_path: Path) -> None:
    assert is_low(DiskRoom(1000, 9), 10)
    assert not is_low(room(tmp_path), 1)


def test_the_node_id_is_made_once(tmp_path: Path) -> None:
    first = NodeStore(tmp_path).node_id
    assert first == NodeStore(tmp_path).node_id
    assert len((tmp_path / "node-id").read_text().strip()) == 16


def test_the_cluster_id_is_remembered_and_checked(tmp_path: Path) -> None:
    store = NodeStore(tmp_path)
    assert store.cluster_id() is None
    store.set_cluster_id("LFSC0123456789ABCDEF")
    assert NodeStore(tmp_path).cluster_id() == "LFSC0123456789ABCDEF"
    with pytest.raises(ClusterMismatch):
        store.set_cluster_id("lfsc0123456789abcdef")
    (tmp_path / "cluster-id").write_text("nonsense")
    with pytest.raises(CorruptStore):
        store.cluster_id()


def test_folders_that_are_no_databases_are_left_alone(tmp_path: Path) -> None:
    store = NodeStore(tmp_path)
    for name in ("good.db", "sub%2Fgood.db", ".hidden", "bad name"):
        (tmp_path / "dbs" / name).mkdir()
    assert store.names() == ["good.db", "sub/good.db"]
    with pytest.raises(BadName):
        store.open("bad\nname")
