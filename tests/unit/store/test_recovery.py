"""What a node makes of its data directory before it mounts, after every kind of end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sqlitecluster import failpoints
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.ltx import fold, image_checksums
from sqlitecluster.store import cutter
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.marks import ImageLog
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.recovery import prepare_node
from sqlitecluster.store.spool import spool_path, write_spool
from support.store_image import PAGE, LiveDatabase, check_image
from support.store_model import ManualClock


class Scene:
    """A data directory with one database that a live program fills."""

    def __init__(self, folder: Path, mode: str = "WAL") -> None:
        self.data = folder / "data"
        self.store = NodeStore(self.data, clock=ManualClock(), segment_size=1 << 18)
        self.db = self.store.open("app.db")
        self.live = LiveDatabase(folder / "live", mode)

    @property
    def database(self) -> Path:
        return self.db.dir / "database"

    @property
    def wal(self) -> Path:
        return self.db.dir / "wal"

    def commits(self, count: int) -> None:
        for _ in range(count):
            self.live.insert()
            self.live.capture(self.store, self.db)

    def prepare(self, role: str) -> DatabaseStore:
        prepare_node(NodeConfig(name="n", data_dir=self.data, mount_dir=self.data.parent / "mnt", role=role))
        return NodeStore(self.data, clock=ManualClock()).open("app.db")

    def lost(self) -> list[Path]:
        return sorted((self.data / "lost+found").glob("*/*"))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def as_replica(scene: Scene, applied: int) -> None:
    scene.db.set_wal_owner(1)
    scene.db.set_applied(applied, 1)


def test_a_replicas_wal_is_written_back(scene: Scene) -> None:
    scene.commits(5)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 5)
    db = scene.prepare("replica")
    check_image(scene.database, db.position)
    assert not scene.wal.exists()
    assert (db.applied, db.durable) == (5, 5)
    assert not db.needs_compare


def test_logged_transactions_that_readers_never_saw_are_applied(scene: Scene) -> None:
    scene.commits(2)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 2)
    scene.commits(4)
    db = scene.prepare("replica")
    assert db.position.txid == 6
    check_image(scene.database, db.position)
    assert db.applied == 6


@pytest.mark.parametrize("role", ["replica", "elected", "primary"])
def test_what_a_replica_may_not_show_yet_stays_in_the_log(scene: Scene, role: str) -> None:
    scene.commits(2)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 2)
    scene.commits(2)
    committed = scene.db.position
    scene.db.set_commit_limit(committed.txid)
    scene.commits(1)
    shown = scene.db.position if role == "primary" else committed
    for _ in range(2):
        db = scene.prepare(role)
        check_image(scene.database, shown)
        assert (db.applied, db.durable, db.position.txid) == (shown.txid, shown.txid, 5)
        assert db.checksums.rolling == db.position.checksum
        assert not db.needs_compare


def test_a_first_transaction_that_a_replica_may_not_show_yet_makes_no_file(scene: Scene) -> None:
    scene.commits(1)
    as_replica(scene, 0)
    scene.db.set_commit_limit(0)
    db = scene.prepare("replica")
    assert (db.applied, db.position.txid) == (0, 1)
    assert not scene.database.exists()


def test_a_replica_without_any_image_gets_it_from_the_chain(scene: Scene) -> None:
    scene.commits(3)
    as_replica(scene, 0)
    db = scene.prepare("replica")
    check_image(scene.database, db.position)


def test_a_replica_that_lost_its_unsynced_wal_in_a_power_cut_is_rolled_forward(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.commits(2)
    scene.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    scene.live.copy_to(scene.db.dir)
    scene.db.set_durable(2)
    scene.commits(6)
    scene.live.copy_to(scene.db.dir)
    os.truncate(scene.wal, scene.wal.stat().st_size // 2)
    shutil.copy(scene.live.path, scene.database)
    as_replica(scene, 8)
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)
    db = scene.prepare("replica")
    assert db.position.txid == 8
    check_image(scene.database, db.position)
    assert not db.after_power_cut


def test_after_a_power_cut_the_start_of_an_older_log_is_not_written_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log started over, and its new content never reached the disk; the database file did."""
    scene.commits(2)
    old = scene.live.wal.read_bytes()
    scene.commits(6)
    scene.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    scene.live.copy_to(scene.db.dir)
    scene.wal.write_bytes(old)
    as_replica(scene, 8)
    scene.db.set_durable(8)
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)
    db = scene.prepare("replica")
    assert db.position.txid == 8
    check_image(scene.database, db.position)


@pytest.mark.parametrize("lost", [False, True])
def test_after_a_power_cut_a_received_image_is_completed_from_its_log(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """An image came as one transaction of the log; no LTX has its pages, so they must be in one of the two files."""
    scene.commits(2)
    scene.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = scene.live.path.read_bytes()
    scene.commits(4)
    head = scene.live.wal.read_bytes()[:32]
    salts = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    end = scene.live.wal.stat().st_size
    scene.commits(3)
    as_replica(scene, 9)
    scene.db.set_image_log(ImageLog(6, *salts, end))
    scene.db.set_durable(6)
    scene.wal.write_bytes(scene.live.wal.read_bytes())
    scene.database.write_bytes(before)
    if lost:  # the log started over, so the database has it all
        scene.live.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        scene.live.copy_to(scene.db.dir)
        scene.wal.write_bytes(head + bytes(500))
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)
    db = scene.prepare("replica")
    assert db.position.txid == 9
    check_image(scene.database, db.position)
    assert db.image_log is None


@pytest.mark.parametrize("at", ["recovery.after-backfill", "recovery.before-remove-wal"])
def test_killed_during_recovery_it_is_simply_done_again(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    scene.commits(3)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 3)
    scene.commits(2)

    def die(name: str) -> None:
        if name == at:
            shutil.copytree(scene.data, tmp_path / "dead")

    monkeypatch.setattr(failpoints, "hit", die)
    scene.prepare("replica")
    monkeypatch.undo()
    shutil.rmtree(scene.data)
    shutil.move(tmp_path / "dead", scene.data)
    db = scene.prepare("replica")
    assert db.position.txid == 5
    check_image(scene.database, db.position)


def test_an_orderly_stopped_replica_is_not_touched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.commits(3)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 3)
    scene.prepare("replica")
    before = scene.database.stat().st_mtime_ns
    monkeypatch.setattr("sqlitecluster.store.image.write_chain", None)
    scene.prepare("replica")
    assert scene.database.stat().st_mtime_ns == before


def test_a_replica_whose_chain_is_damaged_falls_back_to_what_it_shows(scene: Scene) -> None:
    scene.commits(2)
    shown = scene.db.position
    scene.live.copy_to(scene.db.dir)
    scene.db.set_wal_owner(1)
    scene.db.set_applied(2)
    cutter.cut(scene.db, scene.store.log)
    scene.commits(3)
    cutter.cut(scene.db, scene.store.log)
    scene.store.close()
    newest = scene.db.files.file_path(scene.db.files.files[-1])
    newest.write_bytes(newest.read_bytes()[:-1])
    db = scene.prepare("replica")
    assert db.position == shown
    assert db.needs_compare
    check_image(scene.database, shown)
    assert any(path.name == newest.name for path in scene.lost())


def test_a_dropped_database_of_a_replica_goes_to_the_trash(scene: Scene) -> None:
    from sqlitecluster.ltx import CHECKSUM_FLAG, Header, encode

    scene.commits(2)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 2)
    at = scene.db.position
    header = Header(page_size=PAGE, commit=0, min_txid=3, max_txid=3, timestamp_ms=1, pre_apply=at.checksum)
    scene.db.append(encode(header, [], CHECKSUM_FLAG), header, CHECKSUM_FLAG, [], [])
    db = scene.prepare("replica")
    assert not scene.database.exists()
    assert len(list((scene.data / "trash" / "app.db").glob("*/database"))) == 1
    assert db.applied == 3


def test_a_primary_keeps_wal_and_journal_as_they_are(scene: Scene) -> None:
    scene.commits(3)
    scene.live.copy_to(scene.db.dir)
    scene.live.mark(scene.db)
    (scene.db.dir / "journal").write_bytes(b"\xd9 something hot")
    before = {
        path.name: path.read_bytes() for path in scene.db.dir.iterdir() if path.name in ("database", "wal", "journal")
    }
    db = scene.prepare("primary")
    assert {name: (scene.db.dir / name).read_bytes() for name in before} == before
    assert not db.needs_compare
    assert db.wal_mark is not None


def test_a_primary_that_lost_the_end_of_its_wal_gets_it_back_from_the_log(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.commits(2)
    size = scene.live.wal.stat().st_size
    scene.commits(3)
    scene.live.copy_to(scene.db.dir)
    scene.live.mark(scene.db)
    os.truncate(scene.wal, size + 100)
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)
    db = scene.prepare("primary")
    assert db.position.txid == 5
    assert not scene.wal.exists()
    check_image(scene.database, db.position)
    assert db.needs_compare


def test_a_wal_that_is_newer_than_the_log_is_left_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.commits(2)
    scene.live.mark(scene.db)
    scene.live.insert()  # never captured: the log was lost
    scene.live.copy_to(scene.db.dir)
    before = scene.wal.read_bytes()
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)
    db = scene.prepare("primary")
    assert scene.wal.read_bytes() == before
    assert db.needs_compare


def test_a_replica_becomes_a_primary(scene: Scene) -> None:
    scene.commits(4)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 3)
    db = scene.prepare("primary")
    check_image(scene.database, db.position)
    assert db.wal_mark is None
    assert db.wal_owner == 0


def test_a_primary_becomes_a_replica(scene: Scene) -> None:
    scene.commits(4)
    scene.live.copy_to(scene.db.dir)
    scene.live.mark(scene.db)
    db = scene.prepare("replica")
    check_image(scene.database, db.position)
    assert not scene.wal.exists()
    assert (db.applied, db.durable) == (4, 4)
    assert scene.lost() == []


def test_commits_that_were_never_captured_are_kept_when_a_primary_becomes_a_replica(scene: Scene) -> None:
    scene.commits(3)
    scene.live.mark(scene.db)
    scene.live.insert()
    scene.live.copy_to(scene.db.dir)
    spool = spool_path(scene.data, 0, 1)
    write_spool(spool, [(0, b"page")], 4096)
    db = scene.prepare("replica")
    check_image(scene.database, db.position)
    assert {"wal", "0-1"} <= {path.name for path in scene.lost()}
    assert db.needs_compare
    assert not spool.exists()


def test_a_transaction_that_was_cut_off_is_undone_when_a_primary_becomes_a_replica(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "DELETE")
    scene.commits(3)
    live = scene.live.connection
    live.execute("PRAGMA cache_size=2")
    live.execute("BEGIN")
    live.executemany("INSERT INTO t(b) VALUES(?)", [(bytes(3000),) for _ in range(100)])
    scene.live.copy_to(scene.db.dir)
    scene.db.set_wal_mark(0, 0, 0, 0)
    assert (scene.db.dir / "journal").stat().st_size > 0
    db = scene.prepare("replica")
    check_image(scene.database, db.position)
    assert sorted(path.name for path in scene.db.dir.iterdir()) == ["checksums", "database", "state"]


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_a_file_that_is_no_database_is_never_touched(scene: Scene, role: str) -> None:
    scene.commits(2)
    scene.database.write_bytes(b"precious notes " * 1000)
    as_replica(scene, 0)
    scene.prepare(role)
    assert scene.database.read_bytes() == b"precious notes " * 1000


def test_an_unfinished_install_is_left_to_apply(scene: Scene) -> None:
    scene.commits(2)
    as_replica(scene, 0)
    scene.database.write_bytes(bytes(8192))
    (scene.db.dir / "install-1-2-3-4-5").write_bytes(b"image")
    scene.prepare("replica")
    assert scene.database.read_bytes() == bytes(8192)


@pytest.mark.parametrize("sound", [True, False])
def test_an_unfinished_install_is_finished_on_a_new_primary(scene: Scene, sound: bool) -> None:
    scene.commits(2)
    as_replica(scene, 2)
    scene.database.write_bytes(bytes(8192))
    scene.live.insert(100)
    content = scene.live.image()
    at = page_fold(content)
    (scene.db.dir / f"install-9-{at:x}-{PAGE:x}-{len(content) // PAGE:x}-5").write_bytes(
        content if sound else content[:-PAGE]
    )
    db = scene.prepare("primary")
    if sound:
        assert str(db.position) == f"{9:016x}/{at:016x}"
        check_image(scene.database, db.position)
        assert db.checksums.rolling == at
    else:
        assert db.position.txid == 2
        assert db.needs_compare
        assert len(scene.lost()) == 2


def page_fold(content: bytes) -> int:
    return fold(image_checksums(1, content, PAGE))


def test_one_broken_database_does_not_keep_the_node_from_starting(scene: Scene) -> None:
    scene.commits(2)
    scene.live.copy_to(scene.db.dir)
    as_replica(scene, 0)
    broken = scene.data / "dbs" / "broken.db"
    broken.mkdir()
    (broken / "state").mkdir()
    db = scene.prepare("replica")
    check_image(scene.database, db.position)
    assert (broken / "state").is_dir()


def test_an_empty_data_directory_is_ready_at_once(tmp_path: Path) -> None:
    prepare_node(NodeConfig(name="n", data_dir=tmp_path / "data", mount_dir=tmp_path / "mnt"))
    assert (tmp_path / "data" / "node-id").exists()
