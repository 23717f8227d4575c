"""Logs of a primary are written back beside its programs, as far as these allow, and never more."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from sqlitecluster.config.model import Replication
from sqlitecluster.replicator import backfill_primary, checkpointing, facts, locks
from sqlitecluster.replicator.backfill_primary import Joined, reader_in_the_way
from sqlitecluster.replicator.checkpoint import Backfill
from sqlitecluster.replicator.checkpointing import Checkpoints, captured_frames, committed_frames
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.shm import IndexHeader
from sqlitecluster.shared import ROLE_PRIMARY, ROLE_REPLICA, NodeWord, Word
from support.capture_rig import Rig, RigDatabase, rig_in
from support.program import Program

PAGES = 40
MANY = 30
"""Rows that make a log longer than ``PAGES``, and shorter than four times that."""


@dataclass
class Scene:
    """A WAL database whose program never runs a checkpoint, and who looks after its log."""

    rig: Rig
    app: RigDatabase
    program: Program
    checkpoints: Checkpoints
    told: list[tuple[str, int]] = field(default_factory=list)

    def write(self, rows: int, *, captured: bool = True) -> None:
        for _ in range(rows):
            self.program.execute("INSERT INTO t VALUES (randomblob(3000))")
        self.note(captured=captured)

    def note(self, *, captured: bool = True) -> None:
        """What the mount and the capture would do."""
        self.app.words[Word.PAGE_SIZE] = 4096
        self.app.look()
        if captured:
            self.app.captured(quiet=True)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.checkpoints.look()

    @property
    def index(self) -> tuple[int, int]:
        """(published frames, frames in the database file)."""
        found = facts.read_index(self.rig.mnt, "app.db")
        assert found is not None
        return found

    def pages_in_file(self) -> int:
        return self.app.path.stat().st_size // 4096


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with rig_in(tmp_path) as rig:
        rig.state.node[NodeWord.ROLE] = ROLE_PRIMARY
        rig.node.config = replace(rig.node.config, replication=Replication(checkpoint_pages=PAGES))
        app = rig.database("app.db")
        program = app.connect()
        program.execute("PRAGMA wal_autocheckpoint=0")
        program.execute("CREATE TABLE t (v)")
        told: list[tuple[str, int]] = []
        checkpoints = Checkpoints(rig.node, lambda name, txid: told.append((name, txid)))
        made = Scene(rig, app, program, checkpoints, told)
        made.note()
        yield made


def test_a_log_that_no_program_writes_back_is_written_back_at_the_second_look(scene: Scene) -> None:
    scene.write(MANY)
    scene.look()
    assert scene.index[1] == 0, "a program's own checkpoint gets its chance first"
    scene.look()
    frames, done = scene.index
    assert frames == done > PAGES
    assert scene.program.execute("PRAGMA integrity_check") == [["ok"]]
    assert scene.pages_in_file() == scene.program.execute("PRAGMA page_count")[0][0]


def test_the_next_writer_starts_the_log_over_and_nobody_else_does(scene: Scene) -> None:
    scene.write(MANY)
    before = (scene.app.dir / "wal").read_bytes()
    scene.look(2)
    assert (scene.app.dir / "wal").read_bytes() == before, "the log itself is not touched"
    scene.write(1)
    assert scene.index[0] < 10
    assert scene.app.replayed() == scene.app.image()


def test_a_long_log_is_written_back_in_pieces(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (backfill_primary, checkpointing):
        monkeypatch.setattr(module, "MOST_AT_ONCE", 50)
    scene.write(2 * MANY)
    frames = scene.index[0]
    seen = []
    for _ in range(8):
        scene.look()
        seen.append(scene.index[1])
    assert seen[-1] == frames
    assert all(after - before <= 50 or after == frames for before, after in pairwise(seen)), seen
    assert scene.rig.node.pins == {}


def test_a_short_log_is_left_alone(scene: Scene) -> None:
    scene.write(3)
    scene.look(3)
    assert scene.index[1] == 0


def test_frames_that_are_not_captured_stay_in_the_log(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointing, "_STAYS_S", 0.0)
    scene.write(MANY)
    captured = captured_frames(scene.app.words, 4096)
    scene.write(20, captured=False)
    scene.look(2)
    frames, done = scene.index
    assert (done, captured) == (captured, done)
    assert frames > captured
    assert scene.rig.node.pins == {}, "no reader is blamed for that"
    scene.note()
    scene.checkpoints._logs[scene.app.slot].not_before = 0.0
    scene.look(2)
    assert scene.index == (frames, frames)


def test_an_open_snapshot_keeps_what_is_newer_in_the_log(scene: Scene) -> None:
    scene.write(20)
    frames, _ = scene.index
    reader = scene.app.connect(None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT count(*), sum(instr(v, x'0a')) FROM t")
    scene.write(MANY)
    scene.program.execute("UPDATE t SET v = randomblob(3000)")
    scene.note()
    scene.look(2)
    assert scene.index[1] == frames
    assert reader.execute("SELECT count(*), sum(instr(v, x'0a')) FROM t") == before


def test_a_reader_that_stays_is_named_until_it_goes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointing, "_STAYS_S", 0.0)
    monkeypatch.setattr(checkpointing, "_LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(checkpointing, "LOOK_S", 0.0)
    reader = scene.app.connect(None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t")
    scene.write(checkpointing.PINNED * PAGES)
    scene.look(3)
    assert scene.rig.node.pins["app.db"].pid == reader.pid
    assert scene.rig.node.pins["app.db"].pages > PAGES
    assert [(p.code, str(reader.pid) in p.message) for p in scene.rig.node.problems.all()] == [("WalPinned", True)]
    reader.execute("COMMIT")
    scene.checkpoints._logs[scene.app.slot].not_before = 0.0
    scene.look()
    assert (scene.rig.node.pins, scene.rig.node.problems.all()) == ({}, [])
    assert scene.index[0] == scene.index[1]


def test_who_has_the_oldest_snapshot_is_named_not_who_reads_just_now(scene: Scene) -> None:
    scene.write(5)
    old = scene.app.connect(None)
    old.execute("BEGIN")
    old.execute("SELECT count(*) FROM t")
    scene.write(20)
    new = scene.app.connect(None)
    new.execute("BEGIN")
    new.execute("SELECT count(*) FROM t")
    scene.write(MANY)
    scene.look(2)
    assert reader_in_the_way(locks.DbPaths.plain(scene.app.path).shm) == old.pid


def test_a_program_that_keeps_its_index_to_itself_is_left_alone(scene: Scene) -> None:
    scene.program.execute("PRAGMA locking_mode=EXCLUSIVE")
    scene.write(MANY)
    before = scene.app.path.read_bytes()
    scene.look(3)
    assert scene.app.path.read_bytes() == before
    scene.program.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("word", [NodeWord.ROLE, NodeWord.DRAINING])
def test_nothing_is_written_while_the_role_changes(scene: Scene, word: int) -> None:
    scene.write(MANY)
    scene.rig.state.node[word] = ROLE_REPLICA if word == NodeWord.ROLE else 1
    scene.look(3)
    assert scene.index[1] == 0


def test_nothing_is_written_beside_a_rollback_journal(scene: Scene) -> None:
    scene.write(MANY)
    scene.app.words[Word.HAS_JOURNAL] = 1
    scene.look(3)
    assert scene.index[1] == 0


def test_the_log_of_nobody_is_left_to_whoever_opens_it(scene: Scene) -> None:
    scene.write(MANY)
    scene.program.kill()
    scene.look(3)
    assert (scene.app.path.with_name("app.db-wal")).stat().st_size > PAGES * 4096
    assert scene.app.connect(None).execute("SELECT count(*) FROM t") == [[MANY]]


def test_a_last_close_that_met_our_locks_is_made_up_for(scene: Scene) -> None:
    scene.write(MANY)
    joined = Joined.open(DbPaths(scene.app.path, scene.app.dir / "wal"))
    assert joined is not None
    scene.program.close()
    log = scene.app.path.with_name("app.db-wal")
    assert log.exists(), "the close could not remove it"
    size, words = joined.page_size, scene.app.words
    captured = functools.partial(captured_frames, words, size)
    committed = functools.partial(committed_frames, words, size)
    joined.close_for_programs(captured, committed, lambda: False, lambda: True)
    assert log.exists(), "a program that lost its locks may have it open"
    joined.close_for_programs(captured, committed, lambda: False, lambda: False)
    joined.close()
    assert not log.exists()
    assert not log.with_name("app.db-shm").exists()
    assert scene.app.connect(None).execute("SELECT count(*) FROM t") == [[MANY]]


def test_a_close_is_not_made_up_for_while_another_program_is_there(scene: Scene) -> None:
    other = scene.app.connect(None)
    other.execute("SELECT count(*) FROM t")
    scene.write(MANY)
    joined = Joined.open(DbPaths(scene.app.path, scene.app.dir / "wal"))
    assert joined is not None
    scene.program.close()
    joined.close_for_programs(lambda: 10**6, lambda: joined.frames, lambda: False, lambda: False)
    joined.close()
    assert scene.app.path.with_name("app.db-wal").exists()
    assert other.execute("INSERT INTO t VALUES (1)") == []


def test_a_log_that_was_started_over_between_two_looks_is_not_written_back(scene: Scene) -> None:
    """SQLite's WAL-reset bug: the frames that were counted are not those that are there now."""
    scene.write(MANY)
    joined = Joined.open(DbPaths(scene.app.path, scene.app.dir / "wal"))
    assert joined is not None
    before, real = scene.app.path.read_bytes(), joined.index.read
    header = real()
    assert header is not None
    answers: list[Callable[[], IndexHeader | None]] = [lambda: header, lambda: replace(header, salt=os.urandom(8))]
    joined.index.read = lambda: answers.pop(0)()  # type: ignore[method-assign]
    assert Backfill(joined).run(sync=True) == 0
    assert scene.app.path.read_bytes() == before
    joined.close()


def test_while_the_end_is_written_back_a_reader_waits_and_gets_no_error(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(MANY)
    seen: list[object] = []

    def look_in(_name: str) -> None:
        fd = os.open(locks.DbPaths.plain(scene.app.path).shm, os.O_RDWR)
        seen.append([locks.holder(fd, locks.READ0 + reader) for reader in range(1, 5)])
        os.close(fd)

    monkeypatch.setattr(backfill_primary.failpoints, "hit", look_in)
    joined = Joined.open(DbPaths(scene.app.path, scene.app.dir / "wal"))
    assert joined is not None
    monkeypatch.setattr(backfill_primary, "MOST_AT_END", 10)
    assert joined._close_in(lambda: joined.frames, lambda: False) is False, "too many frames to let anybody wait"
    assert not joined.is_in_database
    monkeypatch.setattr(backfill_primary, "MOST_AT_END", 10**6)
    assert joined._close_in(lambda: joined.frames, lambda: False)
    assert joined.is_in_database
    assert seen[0] == [(1, -1)] * 4, "READ1 … READ4 are ours while the last frames are written"
    joined.close()
    assert scene.program.execute("PRAGMA integrity_check") == [["ok"]]


def test_what_is_in_the_database_file_is_announced_once(scene: Scene) -> None:
    scene.write(20)
    scene.look()
    assert scene.told == []
    scene.program.execute("PRAGMA wal_checkpoint(PASSIVE)")
    scene.look(3)
    assert scene.told == [("app.db", scene.app.txid)]


def test_a_log_that_starts_over_announces_what_was_in_the_one_before(scene: Scene) -> None:
    scene.write(3)
    scene.look()
    txid = scene.app.txid
    scene.program.execute("PRAGMA wal_checkpoint(RESTART)")
    scene.write(1)
    scene.look()
    assert scene.told == [("app.db", txid)]
    assert scene.app.txid > txid
