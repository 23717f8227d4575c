"""What a primary takes for damage, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sqlitecluster.errors import LockTimeout
from sqlitecluster.replicator.mend_primary import _Mending
from support.capture_rig import Rig, RigDatabase, rig_in
from support.store_model import make


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_in(tmp_path) as made:
        yield made


@pytest.fixture
def app(rig: Rig) -> RigDatabase:
    return rig.database("app.db")


def test_the_image_of_a_commit_that_may_be_taken_back_is_not_mended(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0", 2: b"before"})
    image = dict(model.pages)
    model.store.set_in_flight(2)
    model.write({2: b"in flight"})
    node = SimpleNamespace(store=store, mount_dir=tmp_path)
    work = _Mending(node, None, model.store.name)  # type: ignore[arg-type]
    good = {2: model.pages[2]}
    with pytest.raises(LockTimeout, match="acknowledgements"):
        work._judge(image.get, [2], good)
    model.store.set_in_flight(0)
    assert work._judge(image.get, [2], good).mend == good
    store.close()


@pytest.fixture
def logged(app: RigDatabase, rig: Rig) -> _Mending:
    """A database whose newest first page is in the log only."""
    db = app.connect()
    db.execute("CREATE TABLE t(v)")
    db.execute("PRAGMA wal_checkpoint(FULL)")
    db.execute("CREATE TABLE u(v)")
    app.look()
    app.captured(quiet=True)
    return _Mending(rig.node, None, "app.db")  # type: ignore[arg-type]


def test_a_first_page_that_is_newer_in_the_log_is_not_taken_for_damaged_in_the_file(logged: _Mending) -> None:
    assert logged.is_readable()


def test_a_first_page_that_is_no_header_any_more_is_damaged_whatever_the_log_has(
    logged: _Mending, app: RigDatabase
) -> None:
    with app.path.open("r+b") as file:
        file.write(b"rot")
    assert not logged.is_readable()
