"""The capture thread: finds work by its words, sleeps on its bell, keeps one failure to itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.errors import NotADatabase, Unavailable
from sqlitecluster.replicator.capture import Capture
from sqlitecluster.replicator.importing import wait_captured
from sqlitecluster.shared import NodeWord
from support.capture_rig import Rig, RigDatabase


@pytest.fixture
def capture(rig: Rig) -> Iterator[Capture]:
    running = Capture(rig.node)
    running.start()
    yield running
    running.stop()


def commit(app: RigDatabase, rig: Rig) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE IF NOT EXISTS t(v)")
    db.execute("INSERT INTO t VALUES (1)")
    db.close()
    app.spool()
    rig.node.bells.replicator.ring()


def test_a_commit_rings_the_thread_awake(app: RigDatabase, rig: Rig, capture: Capture) -> None:
    app.wait(lambda: rig.state.node[NodeWord.REPLICATOR_SLEEPING] == 1)
    commit(app, rig)
    app.wait(lambda: app.txid == 1)
    assert app.replayed() == app.image()


def test_every_listener_hears_of_a_transaction_after_its_position_is_published(
    app: RigDatabase, rig: Rig, capture: Capture
) -> None:
    heard: list[tuple[str, int, int]] = []
    rig.node.on_transaction = lambda name, header, position: heard.append(
        (name, position.txid, rig.state.position(app.slot)[0])
    )
    commit(app, rig)
    app.wait(lambda: bool(heard))
    assert heard == [("app.db", 1, 1)]


def test_one_failing_database_does_not_stop_the_others(app: RigDatabase, rig: Rig, capture: Capture) -> None:
    other = rig.database("other.db")
    (rig.data / "dbs" / "other.db" / "state").mkdir()
    other.look()
    commit(other, rig)
    commit(app, rig)
    app.wait(lambda: app.txid == 1)
    app.wait(lambda: any(problem.database == "other.db" for problem in rig.node.problems.all()))


def test_what_is_committed_before_the_stop_is_captured(app: RigDatabase, rig: Rig) -> None:
    capture = Capture(rig.node)
    capture.start()
    commit(app, rig)
    capture.stop()
    assert app.txid == 1


def test_nothing_is_imported_while_it_stops(rig: Rig, tmp_path: Path) -> None:
    capture = Capture(rig.node)
    capture.start()
    capture.stop()
    with pytest.raises(Unavailable):
        capture.import_image("app.db", tmp_path / "x")


def test_a_file_that_is_no_database_is_not_imported(rig: Rig, capture: Capture, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello" * 100)
    with pytest.raises(NotADatabase):
        capture.import_image("app.db", tmp_path / "x")


def test_waiting_for_capture_gives_the_position(app: RigDatabase, rig: Rig, capture: Capture) -> None:
    commit(app, rig)
    assert wait_captured(rig.node, "app.db").txid == 1
