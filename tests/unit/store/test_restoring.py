"""After a power cut of a primary that answered commits only when the log had them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sqlitecluster.config.model import NodeConfig, Replication
from sqlitecluster.ltx import CHECKSUM_FLAG
from sqlitecluster.store import restoring
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.recovery import prepare_node
from sqlitecluster.store.state import OWNER_PROGRAMS, StateWord
from support.store_image import PAGE, LiveDatabase, check_image
from support.store_model import ManualClock


class Scene:
    """A primary whose commits are all in the log."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.store = NodeStore(self.data, clock=ManualClock())
        self.db = self.store.open("app.db")
        self.live = LiveDatabase(folder / "live", "DELETE")
        for _ in range(5):
            self.live.insert()
            self.live.capture(self.store, self.db)
        self.db.state.words[StateWord.OWNER] = OWNER_PROGRAMS
        self.live.copy_to(self.db.dir)
        self.image = self.db.dir / "database"

    def reboot(self, *, durability: str = "Always") -> DatabaseStore:
        replication = Replication(local_durability=durability)
        mount = self.data.parent / "mnt"
        prepare_node(NodeConfig(name="n", data_dir=self.data, mount_dir=mount, replication=replication))
        return NodeStore(self.data, clock=ManualClock()).open("app.db")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tmp_path)
    restoring.note(made.store, logged_first=True)
    monkeypatch.setattr("sqlitecluster.store.boot.boot_id", lambda: 4711)
    return made


@pytest.mark.parametrize("left", [0, 1, 4])
def test_pages_that_never_reached_the_disk_are_put_back(scene: Scene, left: int) -> None:
    os.truncate(scene.image, left * PAGE)
    db = scene.reboot()
    assert db.position.txid == 5
    check_image(scene.image, db.position)
    assert not db.needs_compare


def test_an_image_that_a_power_cut_took_whole_is_made_anew(scene: Scene) -> None:
    scene.image.unlink()
    check_image(scene.image, scene.reboot().position)


def test_a_tail_of_a_time_when_the_database_was_longer_is_cut_off(scene: Scene) -> None:
    os.truncate(scene.image, scene.image.stat().st_size + 3 * PAGE)
    check_image(scene.image, scene.reboot().position)


def test_what_nobody_was_answered_is_not_kept(scene: Scene) -> None:
    scene.live.insert(200)
    shutil.copy(scene.live.path, scene.image)
    (scene.db.dir / "wal").write_bytes(b"of an older time")
    db = scene.reboot()
    check_image(scene.image, db.position)
    assert not (scene.db.dir / "wal").exists()


def test_pages_that_the_chain_does_not_hold_leave_the_image_as_it_is(scene: Scene) -> None:
    position = scene.db.position
    scene.db.reset(position, page_size=PAGE, commit=scene.db.commit, timestamp_ms=1)
    with scene.image.open("r+b") as file:
        file.seek(PAGE)
        file.write(b"\xa5" * PAGE)
    found = scene.image.read_bytes()
    db = scene.reboot()
    assert scene.image.read_bytes() == found
    assert db.needs_compare


def test_without_the_marker_the_image_counts(scene: Scene) -> None:
    restoring.note(scene.store, logged_first=False)
    scene.live.insert()
    shutil.copy(scene.live.path, scene.image)
    found = scene.image.read_bytes()
    assert scene.reboot().needs_compare
    assert scene.image.read_bytes() == found


@pytest.mark.parametrize(("durability", "noted"), [("Always", True), ("SQLite", False)])
def test_a_start_notes_how_commits_are_answered_from_now_on(scene: Scene, durability: str, noted: bool) -> None:
    db = scene.reboot(durability=durability)
    assert db.position.checksum & CHECKSUM_FLAG
    assert restoring.was_logged_first(scene.store) is noted
