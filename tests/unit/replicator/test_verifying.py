"""When the background verifier counts a difference."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sqlitecluster.replicator.verifying import BackgroundVerifier
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_PRIMARY, ROLE_REPLICA, NodeWord, Word
from support.store_model import make


@pytest.mark.parametrize(
    ("role", "in_flight", "applied", "settled"),
    [
        (ROLE_PRIMARY, 0, 0, True),
        (ROLE_PRIMARY, 2, 0, False),
        (ROLE_REPLICA, 0, 2, True),
        (ROLE_REPLICA, 0, 1, False),
        (ROLE_DISCONNECTED, 0, 1, False),
    ],
)
def test_not_while_a_transaction_waits_to_be_committed_or_shown(
    tmp_path: Path, role: int, in_flight: int, applied: int, settled: bool
) -> None:
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0", 2: b"a"})
    model.write({2: b"b"})
    model.store.set_applied(applied)
    model.store.set_in_flight(in_flight)
    assert verifier_of(role)._is_settled(model.store) is settled
    store.close()


def verifier_of(role: int, *, dirty: int = 0) -> BackgroundVerifier:
    words = {Word.DIRTY_RAW: dirty}
    state = SimpleNamespace(node={NodeWord.ROLE: role}, find=lambda _name: 0, slot=lambda _slot: words)
    return BackgroundVerifier(cast(Any, SimpleNamespace(state=state)), cast(Executor, None), cast(Any, None))


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST"])
def test_not_while_a_transaction_that_has_spilled_pages_is_open(tmp_path: Path, mode: str) -> None:
    """Those pages are in the database file, and taken for damaged ones they would cost the program its locks."""
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0", 2: b"a"})
    verifier = verifier_of(ROLE_PRIMARY)
    program = sqlite3.connect(tmp_path / "program.db", isolation_level=None)
    program.execute(f"PRAGMA journal_mode={mode}")
    program.executescript("CREATE TABLE t(v); PRAGMA cache_size=1; PRAGMA cache_spill=1; PRAGMA synchronous=FULL")
    program.executemany("INSERT INTO t VALUES(zeroblob(900))", [()] * 100)
    journal = model.store.dir / "journal"
    journal.symlink_to(tmp_path / "program.db-journal")
    assert verifier._is_settled(model.store)
    program.execute("BEGIN")
    program.execute("UPDATE t SET v = randomblob(900)")
    assert not verifier._is_settled(model.store)
    program.execute("ROLLBACK")
    assert verifier._is_settled(model.store)
    program.close()
    store.close()


def test_not_while_pages_are_written_without_a_journal(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0", 2: b"a"})
    assert not verifier_of(ROLE_PRIMARY, dirty=1)._is_settled(model.store)
    assert verifier_of(ROLE_PRIMARY)._is_settled(model.store)
    store.close()
