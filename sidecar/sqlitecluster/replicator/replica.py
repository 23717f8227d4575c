"""One database on a replica: its WAL, and how transactions become visible. Its locks: ``replica_locks``.

``apply.Applier`` owns one per database and calls it from the apply thread only.

Rules:
    1. The log first, then frames, index, header; then ``applied``, then the shared words.
       A kill between any two is repaired by ``open``: it applies again from ``applied``.
    2. The checksum of the database after a transaction is computed before anything is
       written; one that does not fit changes nothing.
    3. Nothing is written without the role locks, nor before what programs wrote (this node
       was the primary) is taken over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from sqlitecluster import failpoints
from sqlitecluster.errors import Diverged, LockTimeout, NotADatabase, PositionMismatch, StoreError
from sqlitecluster.ltx import Header, LTXFile, decode, fold, page_checksums
from sqlitecluster.replication.committed import merged
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import install, through
from sqlitecluster.replicator.own_tail import keep_covered
from sqlitecluster.replicator.replica_locks import LOCK_WAIT_S, LockedDb
from sqlitecluster.replicator.walfile import Page
from sqlitecluster.replicator.walwriter import BATCH_BYTES
from sqlitecluster.replicator.work import Install
from sqlitecluster.shared import NodeWord, Word
from sqlitecluster.store import lostfound

log = logging.getLogger(__name__)

_DRAIN_S: Final = 2.0


class ReplicaDb(LockedDb):
    """A database that follows the primary."""

    _is_other_history = False
    """A transaction that holds several, some of which are here with other content, showed it."""

    # gate and locks

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
            if self.is_programs:
                self._take_over(wait_s)
            else:
                self._open_session(wait_s)
        elif self.is_programs:
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
        if state == "database" or self.is_programs:
            self.open()
        if state == "empty":
            self._hold_empty()
            self._set_gate(True)

    def _let_in(self) -> None:
        self.show_position()
        self._set_gate(True)

    # transactions

    def apply(self, data: bytes, *, is_held: bool = False) -> Header | None:
        """Take one LTX file in and show it; None when it is known already.

        ``is_held``: it is shown once it is committed (``commit``), which may be known already.

        Raises:
            PositionMismatch: it does not continue; nothing was changed.
            Diverged: the database would not be what the primary has; nothing was changed.
            LTXError: it is damaged.
        """
        if self.is_programs:
            self.open()
        file = decode(data)
        header, post = file.header, file.trailer.post_apply
        if header.max_txid <= self.store.position.txid:
            return None
        self.store.check_continues(header)
        if is_held and self.store.commit_limit is None:
            self.store.set_commit_limit(self.store.applied)
        if not header.commit:
            self.store.append(data, header, post, [], [])
        elif header.is_snapshot or not self.store.commit:
            self._append_whole(file, data, is_held=is_held)
        else:
            self._append_increment(file, data)
        failpoints.hit("apply.after-log")
        if is_held:
            self._pending.append(file)
            self.catch_up()
        else:
            self._show([file])
        return header

    def commit(self, txid: int | None) -> None:
        """Show everything up to ``txid`` (None: everything that is here, and what comes).

        Raises:
            StoreError: the log no longer has it.
        """
        limit = self.store.commit_limit
        if txid is None:
            self.store.set_commit_limit(None)
        elif limit is None or txid > limit:
            self.store.set_commit_limit(txid)
        if self.session is not None or self.store.commit == 0:
            self.catch_up()
        elif not self.is_programs and self.store.applied < min(self.store.position.txid, self._limit()):
            self.open()  # its image waited to be committed: there is no file yet

    def _limit(self) -> int:
        """Up to where this node may show what it has."""
        limit = self.store.commit_limit
        return self.store.position.txid if limit is None else limit

    def _append_whole(self, file: LTXFile, data: bytes, *, is_held: bool) -> None:
        """Log a file that holds every page: a snapshot, or the first transaction after a drop.

        Its page checksums are stored when it is installed; of one that waits at once, because what
        follows it may come before that.
        """
        header, post = file.header, file.trailer.post_apply
        numbers = [pgno for pgno, _page in file.pages]
        sums = page_checksums(numbers, [page for _pgno, page in file.pages])
        whole = len(file.pages) == header.snapshot_pages and fold(sums) == post
        if not header.is_snapshot and not whole:  # of a snapshot, decode has proved it
            raise Diverged(f"transaction {header.max_txid:016x} does not hold the whole database")
        self._keep_untracked()
        if is_held:
            self.store.append(data, header, post, numbers, sums)
        else:
            self.store.append(data, header, post)

    def _append_increment(self, file: LTXFile, data: bytes) -> None:
        header, post, store = file.header, file.trailer.post_apply, self.store
        if header.page_size != store.page_size:
            raise PositionMismatch(store.position, f"a page size of {header.page_size} bytes")
        self.open()
        if self.session is None and store.applied == store.position.txid:  # else its image waits to be committed
            raise StoreError(f"{self.name}: the database file is missing")
        numbers = [pgno for pgno, _page in file.pages]
        sums = page_checksums(numbers, [page for _pgno, page in file.pages])
        after = store.checksums.rolling_after(numbers, sums, header.commit)
        if after != post and header.is_tracked:
            have = Position(header.max_txid, after)
            self._is_other_history = True
            raise Diverged(f"the database would be at {have}, the primary is at {Position(header.max_txid, post)}")
        keep_covered(self._node, store, header)
        failpoints.hit("apply.before-log")
        store.append(data, header, post, numbers, sums)

    def _show(self, files: Sequence[LTXFile]) -> None:
        """Make logged transactions visible, all at once."""
        file = files[0] if len(files) == 1 else _together(files)
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
        for file in files:
            self.show_position(file.header, file.trailer.post_apply)

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
        target, limit = store.position.txid, store.commit_limit
        if limit is not None:
            target = min(target, limit)
        if store.applied < target:
            self._apply_again(target)
        if store.needs_compare and store.applied == store.position.txid:
            self._compare()

    def _apply_again(self, target: int) -> None:
        """What became visible together is shown together, of any size: nobody sees what was taken back."""
        files = [file for file in self._waiting() if file.header.max_txid <= target]
        behind = max((at for at, file in enumerate(files, 1) if not file.header.commit), default=0)
        if behind:  # what was there before a drop need not be shown any more
            self._show(files[behind - 1 : behind])
        if files[behind:]:
            self._show(files[behind:])

    def _waiting(self) -> list[LTXFile]:
        """Transactions that are in the log and not shown, in order."""
        store, pending = self.store, self._pending
        while pending and pending[0].header.max_txid <= store.applied:
            pending.popleft()
        if pending and pending[0].header.min_txid <= store.applied + 1:
            return list(pending)
        blobs = store.since(store.applied)
        if blobs is None:
            raise StoreError(f"transactions after {store.applied:016x} are not stored any more")
        files = (decode(blob, verify=False) for blob in blobs)
        return [file for file in files if file.header.max_txid > store.applied]

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
        if self.is_programs:
            self.open()
        self._keep_untracked()
        image = install.Image.take(work, self.store.dir)
        failpoints.hit("install.taken")
        if work.diverged or self._is_other_history:
            self.store.keep_tail(0, "diverged from the primary")
            self._is_other_history = False
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
        if not logged or store.position == image.position:  # else the checksums are those of what follows it
            checksum = install.store_checksums(image, store.checksums, image.position)
            if checksum != image.position.checksum:
                raise Diverged(f"the image adds up to {checksum:016x}, it should be at {image.position}")
        if not logged:
            self._pending.clear()
        limit = store.commit_limit
        if limit is not None and (limit < image.position.txid or not logged):  # it may be of another history
            store.set_commit_limit(image.position.txid)
        if not logged and store.position != image.position:
            store.reset(image.position, page_size=image.page_size, commit=image.pages, timestamp_ms=image.timestamp_ms)
        if self.session is not None:  # what is acknowledged from here on must not need the image again
            os.fsync(self.session.wal_fd)
            os.fsync(self.session.db_fd)
            self.session.holds_image = True
            store.set_image_log(install.log_of(image, self.session))
        store.set_applied(image.position.txid, image.position.checksum)
        store.set_durable(image.position.txid)
        store.set_needs_compare(False)
        store.flush()
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
        if self.is_programs:
            self.open()
        self._remove()
        self._pending.clear()
        if self.store.commit_limit is not None:
            self.store.set_commit_limit(position.txid)
        self.store.reset(position, page_size=self.store.page_size, commit=0, timestamp_ms=self.store.timestamp_ms)
        self.store.checksums.truncate(0)
        self.store.checksums.mark(position.txid)
        self.store.set_applied(position.txid, position.checksum)
        self.show_position()

    def _remove(self, *, poison: bool = False) -> None:
        """Take the files away; ``poison`` makes handles that are open answer EIO, so that programs reopen."""
        self.before_close()
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


def _together(files: Sequence[LTXFile]) -> LTXFile:
    """What several transactions leave, as one."""
    pages, _commit = merged((file.pages, file.header.commit) for file in files)
    last = files[-1]
    first = min(file.header.min_txid for file in files)
    return replace(last, header=replace(last.header, min_txid=first), pages=pages)


def _batches(pages: Sequence[Page], size: int) -> Iterator[Sequence[Page]]:
    for at in range(0, len(pages), size):
        yield pages[at : at + size]
