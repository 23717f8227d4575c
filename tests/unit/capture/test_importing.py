"""Import: a SQLite file replaces a database as one transaction while programs stay connected."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sqlitecluster.errors import BadName
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import importing
from sqlitecluster.replicator.services import NodeServices
from support.capture_rig import Rig, RigDatabase


@pytest.fixture(autouse=True)
def mount(app: RigDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mount and the thread would do after the import's commit."""

    def captured(node: NodeServices, name: str, timeout_s: float = 0.0) -> Position:
        if Path(f"{app.path}-wal").exists():
            app.look()
        else:
            app.spool()
        app.captured(quiet=True)
        return node.store.open(name).position

    monkeypatch.setattr(importing, "wait_captured", captured)


def make(path: Path, value: str, page_size: int = 4096, mode: str = "delete") -> Path:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (?)", (value,))
    db.close()
    return path


def test_a_new_database_is_created(app: RigDatabase, rig: Rig, tmp_path: Path) -> None:
    position = importing.import_image(rig.node, "app.db", make(tmp_path / "x", "new"))
    assert position.txid == 1
    assert app.replayed() == app.image()


def test_a_database_is_replaced_while_a_program_stays_connected(app: RigDatabase, rig: Rig, tmp_path: Path) -> None:
    db = app.connect("wal")
    app.spool()
    db.execute("CREATE TABLE old(v)")
    app.look()
    app.captured()
    before = app.txid
    importing.import_image(rig.node, "app.db", make(tmp_path / "x", "imported"))
    assert db.execute("SELECT v FROM t") == [["imported"]]
    assert app.txid == before + 1
    assert app.replayed() == app.image()


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_page_size_is_no_obstacle(app: RigDatabase, rig: Rig, tmp_path: Path, mode: str) -> None:
    db = app.connect(mode)
    app.spool()
    db.execute("CREATE TABLE old(v)")
    app.spool()
    app.captured()
    importing.import_image(rig.node, "app.db", make(tmp_path / "x", "imported", 1024, "wal"))
    assert db.execute("SELECT v FROM t") == [["imported"]]
    assert app.replayed() == app.image()


def test_a_bad_name_is_refused_before_anything_is_touched(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        importing.import_image(rig.node, "../app.db", make(tmp_path / "x", "v"))
