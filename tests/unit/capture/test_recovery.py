"""Starts of a primary's replicator."""

from __future__ import annotations

from sqlitecluster.replicator.capture import Capture
from sqlitecluster.shared import Word
from sqlitecluster.store.spool import spool_path
from support.capture_rig import Rig, RigDatabase


def started(app: RigDatabase) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (randomblob(9000))")
    app.spool()
    app.captured()
    db.close()


def test_a_clean_start_shows_the_position_and_captures_nothing(app: RigDatabase, rig: Rig) -> None:
    started(app)
    rig.restart()
    position = rig.state.position(app.slot)
    rig.state.set_position(app.slot, (0, 0, 0, 0))
    app.captured()
    assert rig.state.position(app.slot) == position
    assert app.txid == 1


def test_a_start_that_is_in_doubt_compares_the_image(app: RigDatabase, rig: Rig) -> None:
    started(app)
    app.connect(None).execute("INSERT INTO t VALUES ('written while no node ran')")
    rig.restart()
    rig.store.open("app.db").set_needs_compare(True)
    app.captured(quiet=True)
    assert app.txid == 2
    assert app.replayed() == app.image()
    assert not rig.store.open("app.db").needs_compare


def test_checksums_that_do_not_add_up_are_made_again_from_the_image(app: RigDatabase, rig: Rig) -> None:
    started(app)
    app.stop()
    checksums = rig.store.open("app.db").checksums
    checksums.set_many([2], [1 << 63 | 12345])
    app.captured(quiet=True)
    assert checksums.rolling == rig.store.open("app.db").position.checksum
    assert app.replayed() == app.image()


def test_spools_of_an_earlier_life_are_removed_and_the_images_compared(app: RigDatabase, rig: Rig) -> None:
    started(app)
    app.connect(None).execute("INSERT INTO t VALUES ('spooled, and then the node died')")
    app.spool()
    app.stop()
    stale = spool_path(rig.data, app.slot, app.words[Word.SPOOL_SEQ])
    app.words[Word.SPOOL_SEQ] = app.words[Word.SPOOL_DONE] = 0  # a new life: the words begin anew
    capture = Capture(rig.node)
    capture.start()
    try:
        app.wait(lambda: app.txid == 2)
    finally:
        capture.stop()
    assert not stale.exists()
    assert app.replayed() == app.image()
