"""B14: a database file that was written while its node was stopped is found out, never replicated in silence."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from support.capture_rig import Rig, RigDatabase


@pytest.fixture
def stopped(app: RigDatabase, rig: Rig) -> RigDatabase:
    """A captured database of a node that stopped in order."""
    db = app.connect("delete")
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES (zeroblob(20000))")
    app.spool()
    app.captured()
    db.close()
    rig.store.close()  # notes what the file looks like
    return app


def problems(rig: Rig) -> list[str]:
    return [problem.code for problem in rig.node.problems.all()]


def test_what_sqlite_wrote_is_told_and_becomes_one_transaction(stopped: RigDatabase, rig: Rig) -> None:
    with closing(sqlite3.connect(stopped.path)) as db:
        db.execute("INSERT INTO t VALUES ('behind')")
        db.commit()
    rig.restart(kill=True)
    stopped.captured(quiet=True)
    assert problems(rig) == ["ChangedBehind"]
    assert stopped.txid == 2
    assert stopped.replayed() == stopped.image()


def test_a_changed_byte_is_no_transaction(stopped: RigDatabase, rig: Rig) -> None:
    before = stopped.image()
    with stopped.path.open("r+b") as file:
        file.seek(3 * 4096 + 1000)
        file.write(b"rot")
    rig.restart(kill=True)
    stopped.captured(quiet=True)
    assert stopped.txid == 1, "damage was replicated"
    assert stopped.replayed() == before
    wrong: list[int] = []
    from sqlitecluster.store.verifier import PATIENCE, Verifier

    verifier = Verifier(stopped.dir / "database", stopped.dir / "wal", rig.store.open("app.db").checksums)
    for _ in range(PATIENCE + 2):
        wrong += verifier.step()
    assert wrong == [4]


def test_damage_of_the_first_page_is_not_taken_for_a_write(stopped: RigDatabase, rig: Rig) -> None:
    with stopped.path.open("r+b") as file:
        file.seek(2000)
        file.write(b"\x01")
    rig.restart(kill=True)
    stopped.captured(quiet=True)
    assert problems(rig) == []
    assert stopped.txid == 1


def test_an_untouched_file_is_not_compared(stopped: RigDatabase, rig: Rig) -> None:
    rig.restart(kill=True)
    stopped.captured(quiet=True)
    assert problems(rig) == []
    assert stopped.txid == 1
