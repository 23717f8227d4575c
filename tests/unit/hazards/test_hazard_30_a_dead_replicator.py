"""Hazard 30 and 4: while the replicator is dead commits go on; its successor continues where the log says."""

from __future__ import annotations

import pytest

from sqlitecluster.shared import Word
from support.capture_rig import Rig, RigDatabase
from support.program import Program


class Killed(Exception):
    """Stands for SIGKILL at a failpoint."""


def started(app: RigDatabase) -> Program:
    db = app.connect("wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    db.execute("CREATE TABLE t(v)")
    app.look()
    app.captured()
    return db


def test_what_was_committed_meanwhile_is_captured_afterwards(app: RigDatabase, rig: Rig) -> None:
    db = started(app)
    rig.restart(kill=True)
    for _ in range(3):
        db.execute("INSERT INTO t VALUES (randomblob(3000))")
    app.look()
    before = app.txid
    app.captured()
    assert app.txid == before + 3
    assert app.replayed() == app.image()


@pytest.mark.parametrize("point", ["capture.before-append", "capture.after-append", "capture.after-mark"])
def test_a_kill_between_two_steps_neither_loses_nor_repeats_a_transaction(
    app: RigDatabase, rig: Rig, point: str
) -> None:
    db = started(app)
    before = app.txid

    def die(name: str) -> None:
        if name == point:
            raise Killed

    rig.node.failpoint = die
    db.execute("INSERT INTO t VALUES (randomblob(3000))")
    app.look()
    with pytest.raises(Killed):
        app.captured()
    rig.node.failpoint = lambda _name: None
    rig.restart(kill=True)
    app.captured()
    db.execute("INSERT INTO t VALUES (2)")
    app.look()
    app.captured()
    assert app.txid == before + 2
    assert app.replayed() == app.image()


@pytest.mark.parametrize("point", ["capture.after-append", "capture.before-spool-unlink"])
def test_a_spool_that_was_captured_and_not_removed_is_no_second_transaction(
    app: RigDatabase, rig: Rig, point: str
) -> None:
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    app.spool()

    def die(name: str) -> None:
        if name == point:
            raise Killed

    rig.node.failpoint = die
    with pytest.raises(Killed):
        app.captured()
    rig.node.failpoint = lambda _name: None
    rig.restart(kill=True)
    app.captured()
    assert app.txid == 1
    assert app.words[Word.SPOOL_DONE] == app.words[Word.SPOOL_SEQ]
    assert app.replayed() == app.image()
