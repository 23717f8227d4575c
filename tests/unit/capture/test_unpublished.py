"""A writer died between its commit frame and the publication: what came of it is not captured unless it stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sqlitecluster.replicator.capture_proof import Users
from sqlitecluster.replicator.capture_wal import Turn
from sqlitecluster.shared import NodeWord, Word
from support.capture_rig import RigDatabase
from support.dyingwriter import TABLE
from support.program import Program

LARGE = 6 << 20
"""Bytes: more than capture looks at in one go."""


def start(app: RigDatabase) -> Program:
    db = app.connect("wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    db.execute(TABLE)
    db.execute("INSERT INTO t VALUES (1, 1)")
    app.look()
    app.captured()
    return db


def let_die(app: RigDatabase, point: str, size: int = 10, *, padded: bool = False) -> None:
    """A program whose last commit is whole in the log, and nowhere else; or that has begun to restart the log."""
    name = f"file:{app.path}?psow=0" if padded else str(app.path)
    arguments = [name, str(app.dir / "record"), point, "0", "FULL" if padded else "NORMAL", "0", str(size)]
    done = subprocess.run([sys.executable, "-m", "support.dyingwriter", *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    app.look()


@pytest.mark.parametrize(("size", "padded"), [(10, False), (LARGE, False), (10, True)])
def test_a_last_close_drops_what_was_never_published(app: RigDatabase, size: int, *, padded: bool) -> None:
    db = start(app)
    let_die(app, "synced" if padded else "written", size, padded=padded)
    app.captured(quiet=True)
    db.close()
    app.look()
    app.captured(quiet=True)
    assert app.replayed() == app.image()
    assert app.txid == 3


@pytest.mark.parametrize(("size", "padded"), [(10, False), (LARGE, False), (10, True)])
def test_a_restart_drops_what_was_never_published(app: RigDatabase, size: int, *, padded: bool) -> None:
    db = start(app)
    let_die(app, "synced" if padded else "written", size, padded=padded)
    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
    let_die(app, "restart")
    app.captured(quiet=True)
    assert app.words[Word.CAPTURED_END] == app.words[Word.WAL_END], "the next writer may begin"
    db.execute("INSERT INTO t VALUES (5, 5)")
    app.look()
    app.captured(quiet=True)
    assert app.replayed() == app.image()


def test_a_large_commit_that_was_published_is_captured_from_an_unlinked_log(app: RigDatabase) -> None:
    db = start(app)
    db.execute(f"INSERT INTO t VALUES (2, randomblob({LARGE}))")
    app.look()
    db.close()
    app.look()
    app.captured(quiet=True)
    assert app.replayed() == app.image()
    assert app.txid == 4


def test_who_is_connected_is_asked_of_the_file_that_has_the_name_now(app: RigDatabase) -> None:
    """A file that is renamed over a database brings its own locks."""
    start(app).kill()
    app.captured(quiet=True)
    let_die(app, "written")
    app.captured(quiet=True)  # nobody is connected
    new = app.path.with_name("new.db")
    db = Program(new)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute(TABLE)
    db.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{app.path}{suffix}").unlink(missing_ok=True)
    app.look()
    new.rename(app.path)
    app.words[Word.RAW_HINT] += 1
    app.look()
    app.captured(quiet=True)
    db = app.connect("wal")
    app.spool()
    db.execute("INSERT INTO t VALUES (1, 1)")
    app.look()
    app.captured(quiet=True)
    before = app.txid
    let_die(app, "written")
    app.captured(quiet=True)
    assert app.txid == before, "nobody has published it"
    db.execute("INSERT INTO t VALUES (5, 5)")
    app.look()
    app.captured(quiet=True)
    assert app.replayed() == app.image()


def test_a_slow_writer_that_publishes_what_was_let_go_and_closes_is_captured(app: RigDatabase) -> None:
    """It was slow between the first commit of a new log and its publication, while somebody else waited."""
    start(app).close()
    app.look()
    app.captured(quiet=True)
    holder = app.connect(None)
    holder.execute("SELECT count(*) FROM t")
    let_die(app, "written")  # stands for the slow writer: its commit is not published yet
    app.rig.state.node[NodeWord.PARKED] = 1
    app.captured(quiet=True)
    app.rig.state.node[NodeWord.PARKED] = 0
    assert app.words[Word.CAPTURED_END] == app.words[Word.WAL_END], "it was let go"
    assert app.rig.store.open(app.name).needs_compare
    holder.kill()
    closing = app.connect(None)
    closing.execute("SELECT count(*) FROM t")
    closing.close()  # it published it, wrote it back and removed the log: the mount keeps nothing that is captured
    (app.dir / "wal.kept").unlink()
    app.look()
    app.captured(quiet=True)
    app.captured(quiet=True)
    assert app.replayed() == app.image()
    assert not app.rig.store.open(app.name).needs_compare


def test_what_was_let_go_and_recovered_is_captured(app: RigDatabase) -> None:
    """Everybody died before the new header of the log was written: a recovery finds the old frames."""
    db = start(app)
    let_die(app, "written")
    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
    let_die(app, "restart")
    app.captured(quiet=True)
    assert app.capture.wal_state is Turn.TAIL, "it is looked at again without an event"
    before = app.txid
    db.kill()
    app.connect(None).execute("SELECT count(*) FROM t")
    app.captured(quiet=True)
    assert app.txid == before + 1
    assert app.replayed() == app.image()
    assert not app.rig.store.open(app.name).needs_compare


def test_an_exclusive_program_that_goes_on_with_the_index_is_believed(app: RigDatabase) -> None:
    """However long it does nothing: what it has not published is not there."""
    db = start(app)
    let_die(app, "written")
    app.captured(quiet=True)
    before = app.txid
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("BEGIN IMMEDIATE")
    db.execute("ROLLBACK")
    for _ in range(3):
        app.captured(quiet=True)
        assert app.txid == before
    db.execute("INSERT INTO t VALUES (5, 5)")
    app.look()
    app.captured(quiet=True)
    db.close()
    assert app.replayed() == app.image()


def test_captured_frames_that_are_written_over_are_compared(app: RigDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever made capture believe in them: same place, same page, same size, another row."""
    db = start(app)
    let_die(app, "written")
    before = app.txid
    with monkeypatch.context() as wrong:
        wrong.setattr(app.capture.wal, "_users", lambda: Users.NONE)
        app.captured(quiet=True)
    assert app.txid == before + 1
    db.execute("INSERT INTO t VALUES (5, 5)")
    app.look()
    app.captured(quiet=True)
    assert app.replayed() == app.image()
