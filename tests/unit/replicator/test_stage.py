"""An image is put together aside and believed only when it adds up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sqlitecluster.errors import Diverged, NoSuchDatabase, PositionMismatch, WireError
from sqlitecluster.replication import pages
from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.replication.wire import Frame, Parser
from sqlitecluster.replicator.copy import copy_database
from sqlitecluster.replicator.snapshot_send import read_pages
from sqlitecluster.replicator.stage import Stage
from support.two_nodes import PAGE, Writer, make_services


def writer(tmp_path: Path, count: int = 10) -> Writer:
    made = Writer(make_services(tmp_path, "n1"), "app.db")
    made.commit({i + 1: os.urandom(PAGE) for i in range(count)})
    return made


def test_a_base_and_later_transactions_make_the_exact_image(tmp_path: Path) -> None:
    source = writer(tmp_path)
    db = source.node.store.open("app.db")
    stage = Stage(tmp_path / "image", PAGE, db.commit, db.position)
    first = dict(source.pages)
    source.commit({3: b"three", 11: b"eleven"})
    stage.add(list(first), b"".join(first.values()))
    for ltx in db.since(1) or ():
        stage.apply(ltx)
    stage.finish()
    stage.close(remove=False)
    assert stage.position == db.position
    assert (tmp_path / "image").read_bytes() == source.image()


def test_a_shrunk_database_loses_its_last_pages(tmp_path: Path) -> None:
    source = writer(tmp_path)
    db = source.node.store.open("app.db")
    stage = Stage(tmp_path / "image", PAGE, db.commit, db.position)
    stage.add(list(source.pages), source.image())
    source.commit({1: b"small"}, size=4)
    for ltx in db.since(1) or ():
        stage.apply(ltx)
    stage.finish()
    assert (tmp_path / "image").read_bytes() == source.image()
    stage.close(remove=True)
    assert not (tmp_path / "image").exists()


def test_an_image_that_does_not_add_up_is_not_believed(tmp_path: Path) -> None:
    source = writer(tmp_path)
    db = source.node.store.open("app.db")
    stage = Stage(tmp_path / "image", PAGE, db.commit, db.position)
    stage.add([1, 2], bytes(2 * PAGE))
    with pytest.raises(Diverged, match="adds up"):
        stage.finish()
    stage.close(remove=True)


def test_a_gap_between_base_and_transaction_is_an_error(tmp_path: Path) -> None:
    source = writer(tmp_path)
    source.commit({1: b"x"})
    source.commit({1: b"y"})
    db = source.node.store.open("app.db")
    stage = Stage(tmp_path / "image", PAGE, db.commit, Position(1, 1 << 63))
    *_rest, last = db.since(1) or ()
    with pytest.raises(PositionMismatch):
        stage.apply(last)
    stage.close(remove=True)


def test_a_page_far_beyond_what_was_announced_is_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "image", PAGE, 10, ZERO)
    with pytest.raises(WireError, match="page number"):
        stage.add([0xFFFF_FFFE], bytes(PAGE))
    stage.close(remove=True)


def test_a_copy_of_a_living_database_belongs_to_one_position(tmp_path: Path) -> None:
    source = writer(tmp_path, 300)
    db = source.node.store.open("app.db")
    copy = copy_database(db, tmp_path / "staging", read_pages)
    assert copy.position == db.position
    assert copy.path.read_bytes() == source.image()


def test_there_is_no_copy_of_nothing(tmp_path: Path) -> None:
    node = make_services(tmp_path, "n1")
    with pytest.raises(NoSuchDatabase):
        copy_database(node.store.open("app.db"), tmp_path / "staging", read_pages)


@pytest.mark.parametrize("content", [os.urandom(PAGE), b"\0" * PAGE])
def test_pages_survive_the_wire(content: bytes) -> None:
    batch = [(n, content) for n in (1, 2, 3, 900)]
    numbers, data = pages.decode_pages(frame(pages.encode_pages("a.db", PAGE, batch)), PAGE)
    assert (numbers, data) == ([1, 2, 3, 900], content * 4)


def test_damaged_pages_are_refused() -> None:
    good = frame(pages.encode_pages("a.db", PAGE, [(1, b"\0" * PAGE)]))
    for payload in (good.payload[:7], good.payload[:-1], good.payload[:10], b"\xff" * 200):
        with pytest.raises(WireError):
            pages.decode_pages(Frame(good.type, good.flags, good.name, payload), PAGE)
    with pytest.raises(WireError, match="page size"):
        pages.decode_pages(good, 512)


def frame(data: bytes) -> Frame:
    [found] = Parser().feed(data)
    return found
