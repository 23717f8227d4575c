"""A snapshot of a node that may not show all that is in its log: of what is shown, the rest follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqlitecluster.replication import wire
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.pages import decode_pages
from sqlitecluster.replication.position import Position
from sqlitecluster.replication.wire import FrameType, Parser
from sqlitecluster.replicator.snapshot_send import SnapshotSender, read_settled
from sqlitecluster.replicator.stage import Stage
from support.store_model import Model, make


def received(model: Model, folder: Path) -> tuple[Stage, wire.SnapshotInfo]:
    """What a replica puts together of it, and what it is told at the end."""
    sender, parser = SnapshotSender(model.store, Reason.NEW, read_settled), Parser()
    stage: Stage | None = None
    while (data := sender.next_frame()) is not None:
        for frame in parser.feed(data):
            if frame.type is FrameType.SNAPSHOT_PAGES:
                assert stage is not None
                stage.add(*decode_pages(frame, stage.page_size))
                continue
            info = wire.decode_snapshot(frame)
            if frame.type is FrameType.SNAPSHOT_BEGIN:
                stage = Stage(folder / "received", info.page_size, info.pages, info.position)
    assert stage is not None
    stage.pages = info.pages
    return stage, info


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Three transactions are shown; two more, of which one makes the database longer, are only in the log."""
    _store, made = make(tmp_path / "data", ring_bytes=0)
    made.write_many(3)
    (made.store.dir / "database").write_bytes(made.image())
    made.store.set_applied(3, made.store.position.checksum)
    made.store.set_commit_limit(3)
    made.write({2: b"in doubt"})
    made.write({max(made.pages) + 1: b"new and in doubt", 1: b"SQLite format 3\0 in doubt"})
    return made


def test_it_is_of_what_is_shown_and_the_rest_follows(model: Model, tmp_path: Path) -> None:
    stage, info = received(model, tmp_path)
    assert info.position.txid == 3 and info.position == model.store.settled
    stage.finish()
    for blob in model.store.since(3) or ():
        stage.apply(blob)
    stage.finish()
    assert stage.position == model.store.position == Position(5, model.store.position.checksum)
    stage.close(remove=True)


def test_once_all_is_committed_it_is_of_everything(model: Model, tmp_path: Path) -> None:
    (model.store.dir / "database").write_bytes(model.image())
    model.store.set_applied(5, model.store.position.checksum)
    model.store.set_commit_limit(5)
    stage, info = received(model, tmp_path)
    assert info.position == model.store.position
    stage.finish()
    stage.close(remove=True)
