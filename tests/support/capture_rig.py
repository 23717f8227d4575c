"""A stand-in for the mount: databases in a plain folder, shared words set from their files.

SQLite works on ``mnt/<name>`` on an ordinary disk; ``data/dbs/<enc>/`` links to the same
files. ``look`` does what the mount would do while it passes writes on: it counts WAL
contents and commit ends, makes spools, keeps unlinked WALs. Tests call it where a mount
would have told the replicator, so that every interleaving can be arranged.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.ltx import decode, fold, image_checksums
from sqlitecluster.replicator.capture_database import DatabaseCapture
from sqlitecluster.replicator.capture_pace import NEVER
from sqlitecluster.replicator.services import Bells, NodeServices
from sqlitecluster.shared import KIND_DATABASE, KIND_EMPTY, KIND_OTHER, Bell, NodeWord, State, Word
from sqlitecluster.sqlitefmt import wal
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.spool import spool_path, write_spool
from sqlitecluster.units import encode_name
from support.program import Program

_SERIALIZE = """
import sqlite3, sys
sys.stdout.buffer.write(sqlite3.connect(sys.argv[1], uri=True).serialize())
"""
QUIET = 10.0
"""Seconds since the last event that count as a quiet moment."""


class Rig:
    """One primary without a mount process."""

    def __init__(self, folder: Path) -> None:
        self.mnt, self.data = folder / "mnt", folder / "data"
        self.mnt.mkdir(parents=True)
        self._fds = [State.create(), Bell.create(), Bell.create()]
        self.state = State(self._fds[0])
        bells = Bells(
            Bell(self._fds[1], self.state, NodeWord.MOUNT_SLEEPING),
            Bell(self._fds[2], self.state, NodeWord.REPLICATOR_SLEEPING),
        )
        self.store = NodeStore(self.data)
        config = NodeConfig(name="n1", data_dir=self.data, mount_dir=self.mnt, runtime_dir=folder / "run")
        self.node = NodeServices(config=config, store=self.store, state=self.state, bells=bells, mount_dir=self.mnt)
        self.databases: dict[str, RigDatabase] = {}

    def database(self, name: str = "app.db") -> RigDatabase:
        """The database of a name; its slot is made when asked for first."""
        if name not in self.databases:
            self.databases[name] = RigDatabase(self, name)
        return self.databases[name]

    def restart(self, *, kill: bool = False) -> None:
        """A new replicator process: the shared memory stays, the store is opened again."""
        for database in self.databases.values():
            database.stop()
        if not kill:
            self.store.close()
        self.store = NodeStore(self.data)
        self.node.store = self.store

    def close(self) -> None:
        for database in self.databases.values():
            database.end_programs()
            database.stop()
        self.store.close()
        for fd in self._fds:
            os.close(fd)


class RigDatabase:
    """One database: its files, its slot, its capture."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name
        self.path = rig.mnt / name
        self.dir = rig.data / "dbs" / encode_name(name)
        self.dir.mkdir(parents=True, exist_ok=True)
        for kind, suffix in (("database", ""), ("wal", "-wal"), ("journal", "-journal")):
            (self.dir / kind).symlink_to(f"{self.path}{suffix}")
        self.slot = rig.state.add_slot(name)
        self.words = rig.state.slot(self.slot)
        self._capture: DatabaseCapture | None = None
        self._programs: list[Program] = []
        self._salts: tuple[int, int] | None = None
        self._spooled = b""
        self._clock = 0.0

    # what a mount does

    def look(self) -> None:
        """Tell the replicator what the files say now."""
        self._look_database()
        self._look_wal()
        self.words[Word.HAS_JOURNAL] = int(Path(f"{self.path}-journal").exists())
        self.rig.state.touch(self.slot)

    def spool(self) -> None:
        """A journal ended: hand over what changed in the database file since the last spool."""
        data = self.path.read_bytes()
        size = int.from_bytes(data[16:18], "big") if len(data) >= 100 else 512
        size = 65536 if size == 1 else size
        before = self._spooled
        starts = [at for at in range(0, len(data), size) if data[at : at + size] != before[at : at + size]]
        self.words[Word.SPOOL_SEQ] += 1
        write_spool(
            spool_path(self.rig.data, self.slot, self.words[Word.SPOOL_SEQ]),
            [(at, data[at : at + size]) for at in starts],
            len(data),
            wal_gen=self.words[Word.WAL_GEN],
            gone_seq=self.words[Word.GONE_SEQ],
        )
        self._spooled = data
        self.look()

    def seen(self) -> None:
        """The database file changed by a checkpoint: later spools need only what follows."""
        self._spooled = self.path.read_bytes()

    def _look_database(self) -> None:
        try:
            with open(self.path, "rb") as file:
                head = file.read(16)
        except FileNotFoundError:
            head = b""
        kind = KIND_DATABASE if head == b"SQLite format 3\0" else KIND_OTHER
        self.words[Word.KIND] = kind if head else KIND_EMPTY

    def _look_wal(self) -> None:
        path, kept = Path(f"{self.path}-wal"), self.dir / "wal.kept"
        words = self.words
        if not path.exists():
            if kept.exists():
                kept.rename(self.dir / f"wal.{words[Word.WAL_GEN]}.gone")
            words[Word.HAS_WAL] = 0
            self._salts = None
            return
        if not kept.exists():
            os.link(path, kept)
        data = path.read_bytes()
        if len(data) < wal.HEADER_SIZE:
            return
        header = wal.WALHeader.parse(data[:32])
        if self._salts != (header.salt1, header.salt2):
            self._salts = header.salt1, header.salt2
            words[Word.WAL_END] = words[Word.WAL_SIZE] = 0
            words[Word.WAL_GEN] += 1
        found = wal.scan(data[32:], header)
        words[Word.WAL_END] = 32 + found.committed * wal.frame_size(header.page_size)
        words[Word.WAL_SIZE] = max(words[Word.WAL_SIZE], 32 + found.valid * wal.frame_size(header.page_size))
        words[Word.HAS_WAL] = 1

    # what a replicator does

    @property
    def capture(self) -> DatabaseCapture:
        """The capture of this database, begun when first asked for."""
        if self._capture is None:
            self._capture = DatabaseCapture(self.rig.node, self.slot)
        return self._capture

    def captured(self, *, quiet: bool = False, turns: int = 2000) -> None:
        """Let capture work until it waits for something."""
        now = self._clock = self._clock + 1000.0
        self.capture.last_event = now - (QUIET if quiet else 0.0)
        for _ in range(turns):
            before = self.progress()
            pause = self.capture.turn(now)
            if pause == NEVER or (pause > 0 and self.progress() == before):
                return
            if pause == 0 and self.progress() == before and self._is_tail():
                return
        raise AssertionError("capture does not come to rest")

    def wait(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Until the capture thread has done something; only for tests that run the thread."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, "the capture thread did not get there"
            time.sleep(0.002)

    def _is_tail(self) -> bool:
        """Whether frames are left that are not captured; some may have been let go."""
        content = self.capture.wal.content
        end = self.words[Word.WAL_END]
        return end > self.words[Word.CAPTURED_END] or (content is not None and end > content.cursor.end)

    def progress(self) -> tuple[object, ...]:
        names = (Word.CAPTURED_END, Word.CAPTURED_GEN, Word.SPOOL_DONE, Word.RAW_HINT_DONE, Word.GONE_DONE)
        return (*(self.words[n] for n in names), self.txid, self.capture.db.compare_wanted)

    def stop(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None

    def end_programs(self) -> None:
        for program in self._programs:
            program.kill()

    # what a test asks

    @property
    def txid(self) -> int:
        return self.rig.store.open(self.name).position.txid

    def connect(self, mode: str | None = "wal") -> Program:
        """A program with a connection in autocommit; it ends with the rig."""
        program = Program(self.path)
        self._programs.append(program)
        if mode is not None:
            program.execute(f"PRAGMA journal_mode={mode}")
        return program

    def image(self) -> bytes:
        """What programs see: the committed image, page by page."""
        command = [sys.executable, "-c", _SERIALIZE, f"file:{self.path}?mode=ro"]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    def replayed(self) -> bytes:
        """The image that the LTX chain makes, each file checked against its predecessor."""
        return replay(self.blobs())

    def blobs(self) -> list[bytes]:
        blobs = self.rig.store.open(self.name).since(0)
        assert blobs is not None
        return list(blobs)


def replay(blobs: list[bytes]) -> bytes:
    """Apply LTX files in order; every position and the checksum of every image are verified."""
    pages: dict[int, bytes] = {}
    txid, checksum, size, commit = 0, 0, 0, 0
    for blob in blobs:
        file = decode(blob)
        header = file.header
        if header.is_snapshot:
            pages = {}
        else:
            assert (header.min_txid, header.pre_apply) == (txid + 1, checksum)
        assert header.max_txid > txid
        pages.update((pgno, bytes(data)) for pgno, data in file.pages)
        size, commit, txid = header.page_size, header.commit, header.max_txid
        pages = {pgno: data for pgno, data in pages.items() if pgno <= commit}
        image = b"".join(pages.get(pgno, bytes(size)) for pgno in range(1, commit + 1))
        checksum = file.trailer.post_apply
        assert fold(image_checksums(1, image, size)) == checksum
    return b"".join(pages.get(pgno, bytes(size)) for pgno in range(1, commit + 1))


@contextlib.contextmanager
def rig_in(folder: Path) -> Iterator[Rig]:
    """A rig that is closed at the end."""
    rig = Rig(folder)
    try:
        yield rig
    finally:
        rig.close()
