"""Commits that wait: captured with the bytes that are held back, settled when their end is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sqlitecluster.config.model import Replication
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.quorum import QuorumView
from sqlitecluster.shared import HELD_WAL, Word
from support.capture_rig import Rig, RigDatabase
from support.program import Program

REPLICA = 7
TIMEOUT_S = 5.0
PAGE = 4096


class Holding:
    """A database whose newest commit is held back by hand, as the mount does it."""

    def __init__(self, rig: Rig) -> None:
        rig.node.config = replace(rig.node.config, replication=Replication(mode="Quorum", ack_timeout_s=TIMEOUT_S))
        rig.node.quorum = QuorumView(rig.node)
        self.quorum = rig.node.quorum
        self.app = rig.database()
        self.words = self.app.words
        self.now = 1_000_000.0
        self.db = self._started(self.app)
        self.before = self.position
        self.image = self.app.image()
        self._held = b""
        self._at = 0

    @staticmethod
    def _started(app: RigDatabase) -> Program:
        db = app.connect(None)
        db.execute("PRAGMA journal_mode=wal")
        db.execute("PRAGMA wal_autocheckpoint=0")
        app.spool()
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        app.look()
        app.captured()
        return db

    @property
    def position(self) -> Position:
        return self.app.capture.db.store.position

    def join(self) -> None:
        self.quorum.join(REPLICA, "n2", "")

    def hold(self, size: int = 4, old: bytes = b"") -> None:
        """A program commits; the page of its last frame stays back, and its publication is not seen.

        ``old``: what stands in its place, of an earlier content of the log.
        """
        before = Path(f"{self.app.path}-wal").stat().st_size
        index = self.app.capture.wal.index
        head = index.read()
        index.read = lambda: head  # type: ignore[method-assign]
        self.db.execute("INSERT INTO t(v) VALUES (substr('held' || hex(zeroblob(?)), 1, ?))".replace("?", str(size)))
        wal = Path(f"{self.app.path}-wal").read_bytes()
        assert len(wal) > before
        self._at = len(wal) - PAGE
        self._held = wal[self._at :]
        with open(f"{self.app.path}-wal", "r+b") as file:
            file.truncate(self._at)
            file.seek(self._at)
            file.write(old)
        folder = Path(runtime_dir(self.app.rig.node.config)) / "held"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(self.app.slot)).write_bytes(self._held)
        words = self.words
        words[Word.HELD_KIND], words[Word.HELD_AT], words[Word.HELD_LEN] = HELD_WAL, self._at, PAGE
        words[Word.HELD_GEN] = words[Word.WAL_GEN]
        words[Word.HELD_SEQ] += 1

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.app.capture.turn(self.now)

    def acknowledge(self, at: Position | None = None) -> None:
        self.quorum.acknowledged(REPLICA, self.app.name, at or self.position)

    def write(self) -> None:
        """The mount completes it, and its program publishes it."""
        vars(self.app.capture.wal.index).pop("read", None)
        with open(f"{self.app.path}-wal", "r+b") as file:
            file.seek(self._at)
            file.write(self._held)
        self.words[Word.HELD_WRITTEN] = self.words[Word.HELD_OVER] = self.words[Word.HELD_SEQ]
        self.app.look()

    @property
    def verdict(self) -> str:
        seq = self.words[Word.HELD_SEQ]
        if self.words[Word.HELD_DONE] == seq:
            return "done"
        return "failed" if self.words[Word.HELD_FAILED] == seq else "waiting"


@pytest.fixture
def holding(rig: Rig) -> Holding:
    return Holding(rig)


def test_an_acknowledged_commit_is_completed_and_then_shown(holding: Holding) -> None:
    holding.join()
    holding.hold()
    holding.turn()
    assert holding.position.txid == holding.before.txid + 1
    assert holding.verdict == "waiting" and holding.quorum.committed(holding.app.name) == holding.before.txid
    holding.acknowledge()
    assert holding.verdict == "done"
    holding.turn()
    assert holding.quorum.committed(holding.app.name) == holding.before.txid, "not before programs see it"
    holding.write()
    holding.turn()
    assert holding.quorum.committed(holding.app.name) == holding.position.txid == holding.before.txid + 1
    assert holding.app.replayed() == holding.app.image()


@pytest.mark.parametrize("old", [b"", b"old" * PAGE])
def test_a_commit_larger_than_a_window_is_captured_with_what_is_held_back(holding: Holding, old: bytes) -> None:
    holding.join()
    holding.hold(6 << 20, old[:PAGE])
    holding.turn()
    holding.acknowledge()
    assert holding.verdict == "done"
    holding.write()
    holding.turn(0.01)
    assert holding.app.replayed() == holding.app.image()


def test_nothing_is_captured_while_nobody_is_connected(holding: Holding) -> None:
    holding.hold()
    holding.turn()
    assert holding.position == holding.before and holding.verdict == "waiting"
    holding.turn(TIMEOUT_S + 1)
    assert holding.position == holding.before and holding.verdict == "failed"


def test_what_was_not_acknowledged_in_time_is_taken_back(holding: Holding) -> None:
    holding.join()
    holding.hold()
    holding.turn()
    holding.turn(TIMEOUT_S + 1)
    assert holding.verdict == "failed"
    assert holding.position == Position(holding.before.txid + 2, holding.before.checksum)
    assert holding.app.replayed() == holding.image
    assert holding.quorum.committed(holding.app.name) == holding.position.txid, "both are shown together"


def test_an_acknowledgement_of_something_else_does_not_count(holding: Holding) -> None:
    holding.join()
    holding.hold()
    holding.turn()
    holding.acknowledge(holding.before)
    holding.acknowledge(Position(holding.position.txid, holding.position.checksum ^ 1))
    assert holding.verdict == "waiting"


def test_a_commit_that_the_mount_gave_up_is_taken_back(holding: Holding) -> None:
    holding.join()
    holding.hold()
    holding.turn()
    holding.acknowledge()
    holding.words[Word.HELD_OVER] = holding.words[Word.HELD_SEQ]
    holding.turn()
    assert holding.position == Position(holding.before.txid + 2, holding.before.checksum)


def test_a_successor_of_the_replicator_finds_what_became_of_it(holding: Holding) -> None:
    holding.join()
    holding.hold()
    holding.turn()
    holding.acknowledge()
    holding.write()
    name, position = holding.app.name, holding.position
    holding.app.rig.restart(kill=True)
    assert holding.app.capture.db.store.in_flight == position.txid
    holding.turn()
    assert holding.app.capture.db.store.in_flight == 0
    assert holding.app.capture.db.store.position == position, f"{name} was captured twice"
    assert not holding.app.capture.db.compare_wanted


def test_its_successor_waits_for_a_commit_that_was_released_and_is_not_written_yet(holding: Holding) -> None:
    """The mount stands still just then. Its program will be told that it is safe."""
    holding.join()
    holding.hold()
    holding.turn()
    holding.acknowledge()
    position = holding.position
    holding.app.rig.restart(kill=True)
    holding.turn()
    capture, quorum = holding.app.capture, holding.app.rig.node.quorum
    assert holding.verdict == "done" and capture.db.store.in_flight == position.txid
    assert not capture.db.compare_wanted, "it would be followed by what was there before"
    assert quorum.committed(holding.app.name) < position.txid, "no program sees it yet"
    holding.write()
    holding.turn()
    assert capture.db.store.in_flight == 0 and holding.position == position
    assert quorum.committed(holding.app.name) == position.txid
    assert holding.app.replayed() == holding.app.image()


def test_its_successor_takes_back_a_released_commit_whose_program_dies_first(holding: Holding) -> None:
    holding.join()
    holding.hold()
    holding.turn()
    holding.acknowledge()
    holding.app.rig.restart(kill=True)
    holding.turn()
    holding.words[Word.HELD_OVER] = holding.words[Word.HELD_SEQ]
    holding.turn()
    assert holding.position == Position(holding.before.txid + 2, holding.before.checksum)
    assert holding.app.capture.db.store.in_flight == 0


def test_what_its_successor_must_compare_is_not_shown_before(holding: Holding) -> None:
    holding.join()
    published = Path(f"{holding.app.path}-shm").read_bytes()
    holding.hold()
    holding.turn()
    doubtful = holding.position
    with open(f"{holding.app.path}-shm", "r+b") as file:
        file.write(published)  # its program died before
    holding.app.rig.restart(kill=True)
    assert holding.app.capture.db.compare_wanted
    assert holding.app.capture.db.store.in_flight == doubtful.txid
    quorum = holding.app.rig.node.quorum
    assert quorum.committed(holding.app.name) < doubtful.txid
    db = holding.app.capture.db
    db.publish([], PAGE, db.store.commit, 1)
    assert quorum.committed(holding.app.name) < doubtful.txid, "nor by what follows it"
    holding.app.captured()
    assert holding.position == Position(doubtful.txid + 2, holding.before.checksum)
    assert holding.app.capture.db.store.in_flight == 0
    assert quorum.committed(holding.app.name) == holding.position.txid, "both are shown together"


def test_a_last_close_between_two_looks_drops_what_was_never_published(holding: Holding) -> None:
    """The look at the log came before the close removed it, the look at the locks after: it is gone."""
    holding.join()
    holding.hold()
    holding.turn()
    holding.acknowledge()
    wal, words = holding.app.capture.wal, holding.words
    words[Word.HELD_WRITTEN] = words[Word.HELD_OVER] = words[Word.HELD_SEQ]
    words[Word.WAL_END] = holding._at + PAGE
    holding.app.capture.last_event = holding.now

    def closed_meanwhile() -> bool:
        words[Word.WAL_GEN] += 1
        words[Word.HAS_WAL] = 0
        return True

    wal.nobody_publishes = closed_meanwhile  # type: ignore[method-assign]
    holding.turn(10.0)
    assert holding.quorum.committed(holding.app.name) == holding.before.txid, "what nobody can see was shown"
    holding.turn()
    assert holding.position == Position(holding.before.txid + 2, holding.before.checksum)


def test_what_follows_a_commit_that_could_not_be_appended_is_shown(holding: Holding) -> None:
    holding.app.capture.db.store.set_in_flight(holding.before.txid + 1)
    db = holding.app.capture.db
    for _ in range(2):
        db.publish([], PAGE, db.store.commit, 1)
        assert holding.quorum.committed(holding.app.name) == holding.position.txid
