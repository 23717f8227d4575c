"""One database on a replica: its role locks, its WAL, and how transactions become visible.

``apply.Applier`` owns one per database and calls it from the apply thread only.

Rules:
    1. The log first, then frames, index, header; then ``applied``, then the shared words.
       A kill between any two is repaired by ``open``: it applies again from ``applied``.
    2. The checksum of the database after a transaction is computed before anything is
       written; one that does not fit changes nothing.
    3. Nothing is written without the role locks. They are kept by the supervisor while no
       replicator runs, under ``<slot>:database`` and ``<slot>:shm``.
    4. A database that programs have written (this node was the primary) is taken over first:
       writing ends (``seize``), what is committed is captured, frames that were never
       published are cut off; only then is anything applied.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from sqlitecluster import failpoints
from sqlitecluster.errors import Diverged, LockTimeout, NotADatabase, PositionMismatch, StoreError
from sqlitecluster.ltx import Header, LTXFile, decode, fold, page_checksums
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import install, locks, through
from sqlitecluster.replicator.capture import FINISH_S
from sqlitecluster.replicator.capture_database import DatabaseCapture
from sqlitecluster.replicator.capture_publish import CapturedDatabase
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.walfile import Page
from sqlitecluster.replicator.walsession import WalSession
from sqlitecluster.replicator.walwriter import BATCH_BYTES, WalWriter
from sqlitecluster.replicator.work import Install
from sqlitecluster.shared import NodeWord, Word
from sqlitecluster.store import lostfound
from sqlitecluster.store.state import OWNER_PROGRAMS

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore

log = logging.getLogger(__name__)

LOCK_WAIT_S: Final = 0.5
_WAL_VERSION: Final = 2
CUT_OFF: Final = "WriterCutOff"
_DRAIN_S: Final = 2.0
_KINDS: Final = ("database", "shm")


class ReplicaDb:
    """A database that follows the primary."""

    def __init__(self, node: NodeServices, name: str, paths: DbPaths | None = None) -> None:
        self.name = name
        self._node = node
        self.store: DatabaseStore = node.store.open(name)
        self.paths = paths or DbPaths(node.mount_dir / name, self.store.dir / "wal")
        self.session: WalSession | None = None
        self.writer: WalWriter | None = None
        self._empty_fd = -1
        self._slot: int | None = None
        self._seized: WalSession | None = None
        self._changes_role = node.config.role == "elected"

    # gate and locks

    @property
    def slot(self) -> int | None:
        """The mount's slot; None until the mount knows the name."""
        if self._slot is None:
            self._slot = self._node.state.find(self.name)
        return self._slot

    def open(self, wait_s: float = LOCK_WAIT_S) -> None:
        """Take or adopt the locks, apply what the log has and readers do not see, open the gate.

        Without a database file (dropped, or not yet made) there is nothing to lock.

        Raises:
            LockTimeout: a program holds a lock.
            NotADatabase: the file holds something else.
            StoreError: the log cannot give what is missing.
        """
        if self.session is not None:
            return
        unfinished = install.Image.find(self.store.dir)
        if unfinished is not None:
            install.clear_unfinished(self.paths)
            self._finish_install(unfinished)
        elif install.state_of(self.paths.database) == "database":
            if self._is_programs:
                self._take_over(wait_s)
            else:
                self._open_session(wait_s)
        elif self._is_programs:
            self._take_over_nothing()
        self.catch_up()
        if self.session is not None:
            self._let_in()

    def hold(self) -> None:
        """Make it safe that programs open this file: role locks, or a bare hold on an empty one."""
        unfinished = install.Image.find(self.store.dir) is not None
        try:
            state = "database" if unfinished else install.state_of(self.paths.database)
        except NotADatabase:
            self._set_gate(True)  # no database: it stays on this node, nobody applies to it
            return
        if state == "database":
            self.open()
        elif state == "empty":
            self._hold_empty()
            self._set_gate(True)

    # from programs, and to programs

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
    def _is_programs(self) -> bool:
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
        capture = DatabaseCapture(self._node, slot)
        try:
            capture.finish(time.monotonic() + FINISH_S)
        finally:
            capture.close()

    def _is_ours(self) -> None:
        self.store.set_applied(self.store.position.txid, self.store.position.checksum)
        self.store.set_wal_owner(1)
        self._node.problems.clear(CUT_OFF, self.name)

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

    def _let_in(self) -> None:
        self.show_position()
        self._set_gate(True)

    def _set_gate(self, is_open: bool) -> None:
        if self.slot is not None:
            self._node.state.slot(self.slot)[Word.LOCKED] = int(is_open)
            self._node.bells.mount.ring()

    # transactions

    def apply(self, data: bytes) -> Header | None:
        """Take one LTX file in and show it; None when it is known already.

        Raises:
            PositionMismatch: it does not continue; nothing was changed.
            Diverged: the database would not be what the primary has; nothing was changed.
            LTXError: it is damaged.
        """
        if self._is_programs:
            self.open()
        file = decode(data)
        header, post = file.header, file.trailer.post_apply
        if header.max_txid <= self.store.position.txid:
            return None
        self.store.check_continues(header)
        if not header.commit:
            self.store.append(data, header, post, [], [])
        elif header.is_snapshot or not self.store.commit:
            self._append_whole(file, data)
        else:
            self._append_increment(file, data)
        failpoints.hit("apply.after-log")
        self._show(file)
        return header

    def _append_whole(self, file: LTXFile, data: bytes) -> None:
        """Log a file that holds every page: a snapshot, or the first transaction after a drop."""
        header, post = file.header, file.trailer.post_apply
        if not header.is_snapshot:  # of a snapshot, decode has proved this
            sums = page_checksums([pgno for pgno, _page in file.pages], [page for _pgno, page in file.pages])
            if len(file.pages) != header.snapshot_pages or fold(sums) != post:
                raise Diverged(f"transaction {header.max_txid:016x} does not hold the whole database")
        self._keep_untracked()
        self.store.append(data, header, post)

    def _append_increment(self, file: LTXFile, data: bytes) -> None:
        header, post, store = file.header, file.trailer.post_apply, self.store
        if header.page_size != store.page_size:
            raise PositionMismatch(store.position, f"a page size of {header.page_size} bytes")
        self.open()
        if self.session is None:
            raise StoreError(f"{self.name}: the database file is missing")
        numbers = [pgno for pgno, _page in file.pages]
        sums = page_checksums(numbers, [page for _pgno, page in file.pages])
        after = store.checksums.rolling_after(numbers, sums, header.commit)
        if after != post and header.is_tracked:
            have = Position(header.max_txid, after)
            raise Diverged(f"the database would be at {have}, the primary is at {Position(header.max_txid, post)}")
        failpoints.hit("apply.before-log")
        store.append(data, header, post, numbers, sums)

    def _show(self, file: LTXFile) -> None:
        """Make a logged transaction visible."""
        header = file.header
        if not header.commit:
            self._remove()
        elif self._is_whole(file):
            work = install.from_ltx(file, self.store.dir)
            self._finish_install(install.Image.take(work, self.store.dir), logged=True)
        else:
            self._append(file.pages, header.commit)
        failpoints.hit("apply.before-applied")
        self.store.set_applied(header.max_txid, file.trailer.post_apply)
        self.show_position(header, file.trailer.post_apply)

    def _is_whole(self, file: LTXFile) -> bool:
        if len(file.pages) != file.header.snapshot_pages:
            return False
        return file.header.is_snapshot or self.session is None

    def _append(self, pages: Sequence[Page], commit: int) -> None:
        session, writer = self.session, self.writer
        if session is None or writer is None:
            raise StoreError(f"{self.name}: the database file is missing")
        if not pages:
            pages = [(1, install.ContentReader(session).read(1, 1))]
        try:
            if len(pages) * session.page_size <= BATCH_BYTES:
                writer.append(pages, commit)
            else:
                writer.append_many(_batches(pages, BATCH_BYTES // session.page_size), commit)
        except OSError:
            writer.abandon()
            raise

    def catch_up(self) -> None:
        """Show what the log has beyond ``applied``: after a kill, or a full disk.

        Raises:
            StoreError: the log no longer has it.
        """
        store = self.store
        if store.applied < store.position.txid:
            self._apply_again()
        self._compare()

    def _apply_again(self) -> None:
        store = self.store
        blobs = store.since(store.applied)
        if blobs is None:
            raise StoreError(f"transactions after {store.applied:016x} are not stored any more")
        for blob in blobs:
            file = decode(blob, verify=False)
            if file.header.max_txid > store.applied:
                self._show(file)

    def _compare(self) -> None:
        """The page checksums were lost: make them from the image, if it is what the position says."""
        store, session = self.store, self.session
        if not store.needs_compare or session is None:
            return
        log.info("%s: comparing the image with position %s", self.name, store.position)
        checksum = install.store_checksums(install.ContentReader(session), store.checksums, store.position)
        if checksum != store.position.checksum:
            raise Diverged(f"the image adds up to {checksum:016x}, the position is {store.position}")
        store.set_needs_compare(False)

    # whole images

    def install_image(self, work: Install) -> None:
        """Replace the content by a received image; the own history goes to lost+found where it differs."""
        if self._is_programs:
            self.open()
        self._keep_untracked()
        image = install.Image.take(work, self.store.dir)
        failpoints.hit("install.taken")
        if work.diverged:
            self.store.keep_tail(0, "diverged from the primary")
        self._finish_install(image)

    def _finish_install(self, image: install.Image, *, logged: bool = False) -> None:
        state = install.state_of(self.paths.database)
        if state == "database" and self._page_size() != image.page_size:
            self._remove(poison=True)
            state = "missing"
        if state == "database":
            if self.session is None:
                self._open_session(LOCK_WAIT_S)
            assert self.session is not None
            assert self.writer is not None
            self.writer.append_many(install.differences(image, self.session), image.pages)
        else:
            self._release_empty()
            install.create(image, self.paths)
            self._open_session(LOCK_WAIT_S)
        failpoints.hit("install.visible")
        self._note_installed(image, logged)
        self._let_in()

    def _note_installed(self, image: install.Image, logged: bool) -> None:
        store = self.store
        checksum = install.store_checksums(image, store.checksums, image.position)
        if checksum != image.position.checksum:
            raise Diverged(f"the image adds up to {checksum:016x}, it should be at {image.position}")
        if not logged and store.position != image.position:
            store.reset(image.position, page_size=image.page_size, commit=image.pages, timestamp_ms=image.timestamp_ms)
        store.set_applied(image.position.txid, image.position.checksum)
        store.set_needs_compare(False)
        failpoints.hit("install.noted")
        image.discard()

    def _page_size(self) -> int:
        size = int.from_bytes(through.read_start(self.paths.database, 18)[16:], "big")
        return 65536 if size == 1 else size

    def _keep_untracked(self) -> None:
        """A database that was never replicated is copied to lost+found before it is replaced."""
        database = self.paths.database
        if install.Image.find(self.store.dir) is not None:
            install.clear_unfinished(self.paths)
        if self.store.position.is_zero and install.state_of(database) == "database":
            node = self._node.store
            with os.fdopen(through.open_fd(database, os.O_RDONLY), "rb") as file:
                reason = "not replicated before"
                lostfound.copy_open(
                    node.data_dir, node.disk, node.clock.now_ms(), self.name, reason, database.name, file
                )

    def drop(self, position: Position) -> None:
        """The primary has no such database any more, at this position."""
        if self._is_programs:
            self.open()
        self._remove()
        self.store.reset(position, page_size=self.store.page_size, commit=0, timestamp_ms=self.store.timestamp_ms)
        self.store.checksums.truncate(0)
        self.store.checksums.mark(position.txid)
        self.store.set_applied(position.txid, position.checksum)
        self.show_position()

    def _remove(self, *, poison: bool = False) -> None:
        """Take the files away; ``poison`` makes handles that are open answer EIO, so that programs reopen."""
        words = self._node.state.slot(self.slot) if self.slot is not None else None
        if words is not None:
            words[Word.FROZEN] = 1
        try:
            if poison and words is not None:
                self._poison(words)
            self._unlink_files()
        finally:
            self.close()
            if words is not None:
                words[Word.FROZEN] = 0

    def _poison(self, words: memoryview) -> None:
        """No open handle may mix the old file with the new one.

        Snapshots may end first. Then the index that the old handles have mapped is made
        invalid: their next look must read the log, and that answers EIO.
        """
        if self.session is not None:
            try:
                self.session.end_readers(time.monotonic() + _DRAIN_S)
            except LockTimeout as error:
                log.warning("%s: a snapshot is cut off by a new page size: %s", self.name, error.message)
            self.session.index.invalidate()
        words[Word.POISONED] = words[Word.OPEN_GEN]
        self._node.state.node[NodeWord.MOUNT_ASKED] += 1
        self._node.bells.mount.ring()
        deadline = time.monotonic() + _DRAIN_S
        while words[Word.OPEN_GEN] <= words[Word.POISONED] and time.monotonic() < deadline:
            time.sleep(0.001)  # the mount opens a new generation once the old handles are cut off

    def _unlink_files(self) -> None:
        install.remove(self.paths)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.paths.backing_wal)

    # what others see

    def show_position(self, header: Header | None = None, checksum: int = 0) -> None:
        """Publish the position that readers see now."""
        store = self.store
        if header is None:
            position, timestamp_ms, pages = store.position, store.timestamp_ms, store.commit
        else:
            position, timestamp_ms, pages = Position(header.max_txid, checksum), header.timestamp_ms, header.commit
        if self.slot is not None:
            self._node.state.set_position(self.slot, (position.txid, position.checksum, timestamp_ms, pages))
        if header is not None:
            self._node.on_transaction(self.name, header, position)


def _batches(pages: Sequence[Page], size: int) -> Iterator[Sequence[Page]]:
    for at in range(0, len(pages), size):
        yield pages[at : at + size]
