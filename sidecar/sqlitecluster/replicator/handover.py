"""Ends writing on a primary, database by database, while everything else goes on.

Used by ``rolechange`` in a worker thread: before a hand-off (``drain``; given back when it
is called off), and when the node stops being the primary.

Rules:
    1. Programs that wait see "database is locked"; what runs may finish until the deadline.
    2. Databases are tried in turns, so that one long transaction does not keep the others writing.
    3. Only databases that a program has open for writing are locked. Others are locked when
       they are opened; until the role has changed such an open waits in the mount.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Final

from sqlitecluster.errors import DrainTimeout, LockTimeout, NotADatabase
from sqlitecluster.replicator import through
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.replicator.replica_locks import CUT_OFF
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import NodeWord, Word

log = logging.getLogger(__name__)

_TRY_S: Final = 0.05


class Handover:
    """What was taken from programs so far."""

    def __init__(self, node: NodeServices) -> None:
        self._node = node
        self.databases: dict[str, ReplicaDb] = {}
        """Those that programs cannot write any more."""
        self._tried: dict[str, ReplicaDb] = {}
        self._stuck: dict[str, str] = {}

    def begin(self) -> None:
        """From now on no database is made, opened or dropped."""
        self._node.state.node[NodeWord.DRAINING] = 1
        self.meet_mount()

    def seize(self, deadline: float) -> None:
        """Wait for running transactions; let no new one begin.

        Raises:
            DrainTimeout: it names who holds what (``databases`` holds the others).
        """
        left = self._written()
        while left:
            late = time.monotonic() >= deadline
            left = [name for name in left if not self._try(name, min(deadline, time.monotonic() + _TRY_S))]
            if left and late:
                raise DrainTimeout("; ".join(f"{name}: {self._stuck[name]}" for name in left))

    def cut_off(self) -> None:
        """The role has changed: who still holds a write lock gets errors, so that it lets go."""
        for name, why in self._stuck.items():
            slot = self._node.state.find(name)
            if slot is None:
                continue
            words = self._node.state.slot(slot)
            words[Word.POISONED] = words[Word.OPEN_GEN]
            text = f"a write transaction did not end in time and was cut off: {why}. Its program must open it again"
            self._node.problems.report(CUT_OFF, text, name)
        if self._stuck:
            self._node.state.node[NodeWord.MOUNT_ASKED] += 1
            self._node.bells.mount.ring()

    def release(self) -> None:
        """Programs may write again: the hand-off was called off."""
        for db in self._tried.values():
            db.close()
        self.databases.clear()
        self._tried.clear()
        self.end()

    def end(self) -> None:
        """Let waiting opens go on, in whatever role the node has now."""
        self._node.state.node[NodeWord.DRAINING] = 0
        self._node.bells.mount.ring()

    def meet_mount(self) -> None:
        """Return when the mount has answered what it was asked before now: it takes one request at a time."""
        with contextlib.suppress(OSError):
            through.stat(self._node.mount_dir / ".role")

    def _written(self) -> list[str]:
        """Databases that programs have open for writing."""
        state = self._node.state
        return [state.name(int(slot)) for slot in state.column(Word.WRITERS).nonzero()[0]]

    def _try(self, name: str, deadline: float) -> bool:
        db = self._tried.get(name)
        if db is None:
            db = self._tried[name] = ReplicaDb(self._node, name)
        try:
            db.seize(deadline)
        except LockTimeout as error:
            self._stuck[name] = error.message
            return False
        except (NotADatabase, FileNotFoundError):
            return True  # nothing that is replicated
        self._stuck.pop(name, None)
        if db.is_seized:
            self.databases[name] = db
        return True
