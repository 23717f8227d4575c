"""Hazard 1: a commit frame in the file is no commit before the wal-index shows it.

The writer's death between the two is arranged by taking the published head of the
wal-index back to what it was before the commit, while another program stays connected.
"""

from __future__ import annotations

from pathlib import Path

from sqlitecluster.shared import Word
from support.capture_rig import RigDatabase
from support.program import Program

HEADS = slice(0, 96)


def started(app: RigDatabase) -> tuple[Program, Program]:
    """A captured WAL database, a writer and a program that only stays connected."""
    writer = app.connect("wal")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    app.spool()
    writer.execute("CREATE TABLE t(v)")
    writer.execute("INSERT INTO t VALUES (1)")
    app.look()
    app.captured()
    other = app.connect(None)
    other.execute("PRAGMA wal_autocheckpoint=0")
    other.execute("SELECT count(*) FROM t")
    return writer, other


def commit_and_die_before_publication(app: RigDatabase, writer: Program) -> None:
    index = Path(f"{app.path}-shm")
    before = index.read_bytes()[HEADS]
    writer.execute("INSERT INTO t VALUES (2)")
    writer.kill()
    with open(index, "r+b") as file:
        file.write(before)
    app.look()


def test_it_is_not_captured_however_long_it_stands_there(app: RigDatabase) -> None:
    writer, _other = started(app)
    before = app.txid
    commit_and_die_before_publication(app, writer)
    app.captured(quiet=True)
    assert app.txid == before
    assert app.words[Word.CAPTURED_END] < app.words[Word.WAL_END]


def test_the_writer_that_overwrites_it_is_captured_instead(app: RigDatabase) -> None:
    writer, other = started(app)
    commit_and_die_before_publication(app, writer)
    app.captured()
    other.execute("INSERT INTO t VALUES (3)")
    assert other.execute("SELECT v FROM t") == [[1], [3]]
    app.look()
    app.captured()
    assert app.replayed() == app.image()


def test_a_restart_of_the_log_does_not_bring_it_back(app: RigDatabase) -> None:
    writer, other = started(app)
    before = app.txid
    commit_and_die_before_publication(app, writer)
    log = Path(f"{app.path}-wal")
    old = log.read_bytes()
    other.execute("PRAGMA wal_checkpoint(RESTART)")
    other.execute("INSERT INTO t VALUES (4)")
    new = log.read_bytes()
    # The moment in which a mount holds the new header back: the index is ahead, the file is old.
    log.write_bytes(old)
    app.captured()
    assert app.txid == before
    assert app.words[Word.CAPTURED_END] >= app.words[Word.WAL_END]
    log.write_bytes(new)
    app.look()
    app.captured()
    assert app.replayed() == app.image()


def test_a_last_close_does_not_bring_it_back(app: RigDatabase) -> None:
    writer, other = started(app)
    commit_and_die_before_publication(app, writer)
    other.close()
    app.look()
    app.captured()
    assert app.replayed() == app.image()


def test_the_next_program_recovers_it_when_nobody_is_connected_and_then_it_counts(app: RigDatabase) -> None:
    writer, other = started(app)
    before = app.txid
    commit_and_die_before_publication(app, writer)
    other.kill()
    app.captured(quiet=True)
    assert app.txid == before + 1
    assert app.connect(None).execute("SELECT v FROM t") == [[1], [2]]
    assert app.replayed() == app.image()


def test_the_first_commit_of_a_new_log_is_waited_for(app: RigDatabase) -> None:
    writer, other = started(app)
    other.kill()
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    app.look()
    app.captured()
    before = app.txid
    commit_and_die_before_publication_of_a_new_log(app, writer)
    app.captured()
    assert app.txid == before


def commit_and_die_before_publication_of_a_new_log(app: RigDatabase, writer: Program) -> None:
    stays = app.connect(None)
    stays.execute("SELECT count(*) FROM t")
    commit_and_die_before_publication(app, writer)
