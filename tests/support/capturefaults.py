"""Capture on a disk that fails: commits of a real program, each with a fault while it is captured.

``CaptureFaults.round`` does some commits, lets one call of capture or cut fail, then takes the fault away and
lets capture go on. ``CaptureFaults.compare`` says whether the chain is what the program has, after a new
start too.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from sqlitecluster.errors import NoSpace, SQLiteClusterError
from support.capture_rig import Rig
from support.faultwork import Fault
from support.storeoracle import Wrong
from support.syscalls import FULL, Calls

MODES: Final = ("wal", "delete", "truncate", "persist")
_TRIES: Final = 6


class CaptureFaults:
    """One primary whose data directory fails when told."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._rng = rng
        self._mode = rng.choice(MODES)
        self._calls = Calls(folder / "data")
        self._calls.__enter__()
        try:
            self._rig = Rig(folder)
            self._database = self._rig.database()
            self._program = self._database.connect(self._mode)
            self._program.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
            self._tell()
            self._database.captured()
        except BaseException:
            self._calls.__exit__(None, None, None)
            raise

    def close(self) -> None:
        """End program and primary."""
        try:
            self._rig.close()
        finally:
            self._calls.__exit__(None, None, None)

    def round(self, fault: Fault) -> bool:
        """Commits under a fault; False when it never came."""
        for _ in range(self._rng.choice((1, 1, 3))):
            self._commit()
            self._tell()
        self._calls.fault = fault
        for _ in range(_TRIES):
            try:
                self._work()
            except (SQLiteClusterError, OSError) as error:
                self._check(error, fault)
                self._database.capture.wal.forget()  # as the capture thread does
        self._calls.fault = None
        self._work()
        self._rig.store.log.sync()
        return fault.fired > 0

    def _work(self) -> None:
        self._database.captured()
        self._rig.store.cut(self._rig.store.open(self._database.name))

    def _check(self, error: Exception, fault: Fault) -> None:
        if not fault.fired:
            raise error
        if isinstance(error, OSError) and error.errno in FULL:
            raise Wrong(f"a full disk came as {error!r}, not as NoSpace")
        if fault.number in FULL and not isinstance(error, NoSpace):
            raise Wrong(f"a full disk came as {error!r}")

    def _commit(self) -> None:
        rng = self._rng
        kind = rng.random()
        if kind < 0.6:
            self._program.execute(
                "INSERT INTO t(b) VALUES (randomblob(?))", [[rng.randint(1, 3000)]] * rng.randint(1, 9)
            )
        elif kind < 0.8:
            self._program.execute("UPDATE t SET b = randomblob(50) WHERE a % 3 = 0")
        elif kind < 0.9:
            self._program.execute("DELETE FROM t WHERE a % 5 = 0")
        else:
            self._program.execute("VACUUM")

    def _tell(self) -> None:
        if self._mode == "wal":
            self._database.look()
        else:
            self._database.spool()

    def compare(self, *, killed: bool) -> None:
        """The chain makes what the program sees; so it does after a new start."""
        for again in (False, True):
            if again:
                self._rig.restart(kill=killed)
                self._database.captured()
            if self._database.replayed() != self._database.image():
                raise Wrong(f"{self._mode}: the chain is not what the program has{', after a new start' * again}")
