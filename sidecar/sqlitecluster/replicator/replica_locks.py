"""The locks of one database on a replica, and how it changes hands with programs.

The lower half of ``replica.ReplicaDb``: it knows locks, descriptors and the gate of the mount,
and nothing of transactions.

    seize       on a primary: writing by programs ends, nothing else changes
    take over   what programs committed is captured; then only we write
    hand over   this node becomes the primary: capture goes on behind what was applied

Rules:
    1. The locks are kept by the supervisor while no replicator runs, under
       ``<slot>:database`` and ``<slot>:shm``.
    2. Frames that were never published are cut off before anything is applied: a later
       recovery would bring them to light.
    3. What programs did not let go of stays theirs: it is tried again, never written.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlitecluster.errors import StoreError
from sqlitecluster.ltx import LTXFile
from sqlitecluster.replicator import install, locks, through
from sqlitecluster.replicator.capture import FINISH_S
from sqlitecluster.replicator.capture_database import DatabaseCapture
from sqlitecluster.replicator.capture_publish import CapturedDatabase
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.walsession import WalSession
from sqlitecluster.replicator.walwriter import WalWriter
from sqlitecluster.shared import Word
from sqlitecluster.store.journals import has_journal
from sqlitecluster.store.state import OWNER_PROGRAMS

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore

LOCK_WAIT_S: Final = 0.5
CUT_OFF: Final = "WriterCutOff"
_WAL_VERSION: Final = 2
_KINDS: Final = ("database", "shm")


def _nothing() -> None:
    pass


class LockedDb:
    """One database, and what of it is locked."""

    def __init__(self, node: NodeServices, name: str, paths: DbPaths | None = None) -> None:
        self.name = name
        self._node = node
        self.store: DatabaseStore = node.store.open(name)
        self.paths = paths or DbPaths(node.mount_dir / name, self.store.dir / "wal")
        self.session: WalSession | None = None
        self.writer: WalWriter | None = None
        self._empty_fd = -1
        self._pending: deque[LTXFile] = deque()
        """What is in the log and not shown, as far as this process received it."""
        self._slot: int | None = None
        self._seized: WalSession | None = None
        self._changes_role = node.config.role == "elected"
        self.before_close: Callable[[], None] = _nothing
        """Called before the files are taken away: ends what another thread does with the session."""

    @property
    def slot(self) -> int | None:
        """The mount's slot; None until the mount knows the name."""
        if self._slot is None:
            self._slot = self._node.state.find(self.name)
        return self._slot

    def seize(self, deadline: float) -> None:
        """On a primary: let no program begin a write transaction any more; nothing else changes.

        Raises:
            LockTimeout: a transaction does not end.
            NotADatabase: the file holds something else.
        """
        if self.is_seized:
            return
        state = install.state_of(self.paths.database)
        if state == "database":
            self._release_empty()
            self._seized = WalSession.seize(self.paths, deadline, self._take_kept(), self._keep)
            self._node.held[self.name] = self._seized
        elif state == "empty":
            self._hold_empty(deadline)

    @property
    def is_seized(self) -> bool:
        """Whether programs cannot write."""
        return self._seized is not None or self.session is not None or self._empty_fd >= 0

    @property
    def is_programs(self) -> bool:
        """Whether programs wrote it last, so that it must be taken over before anything is applied."""
        return self._changes_role and (self._seized is not None or self.store.owner == OWNER_PROGRAMS)

    def _take_over(self, wait_s: float) -> None:
        """Capture what programs committed, then be the one who writes."""
        deadline = time.monotonic() + wait_s
        if self._seized is None:
            self.seize(deadline)
        session = self._seized
        if session is None:
            raise StoreError(f"{self.name}: the database file is missing")
        self._capture_rest()
        session.complete(time.monotonic() + wait_s, self._keep)
        self._seized = None
        self._node.held.pop(self.name, None)
        self.session, self.writer = session, WalWriter(session)
        if os.fstat(session.wal_fd).st_size > self.writer.size:
            os.ftruncate(session.wal_fd, self.writer.size)  # never published: nobody may find it later
        self._is_ours()

    def _take_over_nothing(self) -> None:
        """Programs deleted the file, or left an empty one."""
        if self.slot is not None:
            self._capture_rest()
        self._is_ours()

    def _capture_rest(self) -> None:
        slot = self.slot
        if slot is None:
            raise StoreError(f"{self.name}: the mount does not know it")
        capture = DatabaseCapture(self._node, slot, leaves_doubt=True)
        try:
            capture.finish(time.monotonic() + FINISH_S)
        finally:
            capture.close()

    def _is_ours(self) -> None:
        store = self.store
        txid, checksum = store.position.txid, store.position.checksum
        store.set_commit_limit(None)
        if store.in_flight:  # the image is without it, and only the next primary knows what becomes of it
            txid, checksum = store.in_flight - 1, store.checksum_before(store.in_flight)
            store.set_commit_limit(txid)
            store.set_in_flight(0)
        store.set_applied(txid, checksum)
        self.store.set_wal_owner(1)
        self._node.problems.clear(CUT_OFF, self.name)

    def take_closed(self) -> bool:
        """Take over a database that nobody has open, without locking it; False when that is not possible."""
        wal = self.store.dir / "wal"
        if self.slot is None or (wal.exists() and wal.stat().st_size) or has_journal(self.store.dir):
            return False
        self._capture_rest()
        self._is_ours()
        return True

    def hand_over(self) -> None:
        """Before this node becomes the primary: capture shall go on behind what was applied."""
        self._change_counter()
        if self.session is None or self.writer is None or not self.writer.header.mx_frame:
            self.store.set_wal_mark(0, 0, 0, 0)
            return
        salt = self.writer.header.salt
        salts = int.from_bytes(salt[:4], "big"), int.from_bytes(salt[4:], "big")
        self.store.set_wal_mark(*salts, self.writer.size, 0)

    def _change_counter(self) -> None:
        """Rollback mode: give the database a change counter that no connection has seen, as a transaction.

        Commits through the WAL left it as it was. A connection that was idle all the while, and looks
        again when the last user of the WAL has closed it, would take its old pages for the present ones.
        """
        session, writer, slot = self.session, self.writer, self.slot
        if session is None or writer is None or slot is None or not self.store.commit:
            return
        page = bytearray(install.ContentReader(session).read(1, 1))
        if page[19] == _WAL_VERSION:
            return
        counter = int.from_bytes(page[24:28], "big") + 1 + secrets.randbits(24) & 0xFFFF_FFFF
        page[24:28] = page[92:96] = counter.to_bytes(4, "big")
        database = CapturedDatabase(self._node, slot, self.store)
        database.publish([(1, memoryview(bytes(page)))], session.page_size, self.store.commit, 1)
        writer.append([(1, bytes(page))], self.store.commit)
        self.store.set_applied(self.store.position.txid, self.store.position.checksum)

    def _open_session(self, wait_s: float) -> None:
        self._release_empty()
        self.session = WalSession.open_role(self.paths, time.monotonic() + wait_s, self._take_kept(), self._keep)
        self.writer = WalWriter(self.session)
        self.store.set_wal_owner(1)

    def _take_kept(self) -> dict[str, int]:
        """Descriptors that carry our locks since an earlier process."""
        kept = {}
        for kind in _KINDS:
            fd = self._node.supervisor.kept.pop(f"{self.slot}:{kind}", None)
            if fd is not None:
                kept[kind] = fd
        return kept

    def _keep(self, kind: str, fd: int) -> None:
        if self.slot is not None:
            self._node.supervisor.keep(f"{self.slot}:{kind}", fd)

    def _hold_empty(self, deadline: float | None = None) -> None:
        if self._empty_fd < 0:
            fd = through.open_fd(self.paths.database, os.O_RDWR)
            self._empty_fd = fd
            deadline = deadline or time.monotonic() + LOCK_WAIT_S
            try:
                locks.wait_lock(fd, fcntl.F_WRLCK, locks.RESERVED, deadline, "RESERVED on the database")
                locks.lock_shared(fd, deadline)
            except BaseException:
                self._release_empty()
                raise

    def _release_empty(self) -> None:
        if self._empty_fd >= 0:
            os.close(self._empty_fd)
            self._empty_fd = -1

    def close(self) -> None:
        """Close the gate and give the locks back."""
        self._set_gate(False)
        self._release_empty()
        for session in (self.session, self._seized):
            if session is not None:
                session.close()
        self.session = self.writer = self._seized = None
        self._node.held.pop(self.name, None)
        for fd in self._take_kept().values():
            os.close(fd)
        if self.slot is not None:
            for kind in _KINDS:
                self._node.supervisor.drop(f"{self.slot}:{kind}")

    def leave(self) -> None:
        """At the end of the process: close descriptors, but leave the locks to the supervisor's duplicates."""
        self._release_empty()
        for session in (self.session, self._seized):
            if session is not None:
                session.leave()
        self.session = self.writer = self._seized = None
        self._node.held.pop(self.name, None)

    def _set_gate(self, is_open: bool) -> None:
        if self.slot is not None:
            self._node.state.slot(self.slot)[Word.LOCKED] = int(is_open)
            self._node.bells.mount.ring()
