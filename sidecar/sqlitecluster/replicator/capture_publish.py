"""From captured pages to the log, and from there to everybody who waits.

``CapturedDatabase`` is one database of a primary as the capture thread sees it; its
``publish`` is the only place where a transaction of this node enters the log.

Rules:
    1. Order: log, page checksums, WAL mark, shared words, bell, listeners. A kill between
       two of them loses nothing: recovery repeats from the log.
    2. The first LTX file of a database, and one with another page size, is a snapshot
       (min TXID 1): it must hold every page.
    3. ``CAPTURED_END`` is lowered before ``CAPTURED_GEN`` moves on, so that the mount never
       takes an old end for one of the new generation.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlitecluster.errors import StoreError
from sqlitecluster.ltx import Header, encode, page_checksums
from sqlitecluster.ltx.checksum import fold
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.capture_group import Cursor, Pages
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.writers import HEAD_BYTES, READ_VERSION_AT
from sqlitecluster.shared import Word
from sqlitecluster.sqlitefmt.writerversion import VERSION_AT
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.units import Bytes, lock_page

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WalSpan:
    """Which frames of which WAL content a transaction came from."""

    cursor: Cursor
    """Behind the last frame."""
    start: int
    """Byte offset of the first frame."""
    generation: int


@dataclass(frozen=True, slots=True)
class HeldPublication:
    """A transaction that was appended while its commit waits."""

    header: Header
    span: WalSpan | None
    pgnos: list[int]
    commit_before: int
    """Pages of the database before it."""


def is_whole(pgnos: list[int], commit: int, page_size: int) -> bool:
    """Whether ascending page numbers are every page of a database of ``commit`` pages."""
    return commit > 0 and len(pgnos) == commit - (commit >= lock_page(page_size))


class CapturedDatabase:
    """One database of the primary."""

    def __init__(self, node: NodeServices, slot: int, store: DatabaseStore) -> None:
        self.node = node
        self.slot = slot
        self.store = store
        self.name = store.name
        self.words = node.state.slot(slot)
        self.compare_wanted = False
        """The image must be compared with the checksums: something could not be proved."""
        self.holding = 0
        """Number of the held commit that is being captured (``HELD_SEQ``); 0: none."""
        self.held: HeldPublication | None = None
        """What came of it."""
        self._node_id = node.store.node_id
        self._head = bytes(HEAD_BYTES)
        """Of page 1, as ``Writers`` knows it."""
        with suppress(OSError):
            self.note_writer(1, self.page_on_disk(1, HEAD_BYTES))

    @property
    def directory(self) -> Path:
        """``dbs/<enc>`` of the data directory."""
        return self.store.dir

    @property
    def mounted(self) -> Path:
        """The database as programs see it."""
        return self.node.mount_dir / self.name

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever captured."""
        return self.store.position.txid == 0

    @property
    def is_dropped(self) -> bool:
        """Whether the newest transaction is a deletion."""
        return self.store.commit == 0

    def want_compare(self, why: str) -> None:
        """Have the image compared with the checksums."""
        if not self.compare_wanted:
            log.info("%s: the image will be compared: %s", self.name, why)
            self.compare_wanted = True

    def needs_whole(self, page_size: int) -> bool:
        """Whether the next transaction must hold every page."""
        return self.is_new or self.is_dropped or page_size != self.store.page_size

    def header(self, page_size: int, commit: int, commits: int, wal: WalSpan | None = None) -> Header:
        """The LTX header of the next transaction(s)."""
        before = self.store.position
        whole = commit > 0 and (before.txid == 0 or page_size != self.store.page_size)
        at = wal.cursor if wal else None
        return Header(
            page_size=page_size,
            commit=commit,
            min_txid=1 if whole else before.txid + 1,
            max_txid=before.txid + commits,
            timestamp_ms=time.time_ns() // 1_000_000,
            pre_apply=0 if whole else before.checksum,
            wal_offset=wal.start if wal else 0,
            wal_size=at.end - wal.start if wal and at else 0,
            wal_salt1=at.header.salt1 if at else 0,
            wal_salt2=at.header.salt2 if at else 0,
            node_id=self._node_id,
        )

    def page_on_disk(self, pgno: int, page_size: int) -> bytes:
        """A page of the database file; zeros where the file is too short."""
        try:
            fd = os.open(self.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return bytes(page_size)
        try:
            return os.pread(fd, page_size, (pgno - 1) * page_size).ljust(page_size, b"\0")
        finally:
            os.close(fd)

    def holes(self, pgnos: list[int], commit: int, page_size: int) -> list[int]:
        """Add to ascending pages those between the old and the new end that nobody wrote (freelist leaves)."""
        before = self.store.commit
        if commit <= before or self.needs_whole(page_size):
            return pgnos
        skip = lock_page(page_size)
        known = {pgno for pgno in pgnos if pgno > before}
        if len(known) == commit - before - (before < skip <= commit):
            return pgnos
        missing = [pgno for pgno in range(before + 1, commit + 1) if pgno not in known and pgno != skip]
        return sorted(pgnos + missing)

    def with_holes(self, pages: Pages, commit: int, page_size: int) -> Pages:
        """The same for pages that are in memory; the added ones come from the database file."""
        pgnos = [pgno for pgno, _page in pages]
        wanted = self.holes(pgnos, commit, page_size)
        if wanted is pgnos:
            return pages
        known = dict(pages)
        return [
            (pgno, known[pgno] if pgno in known else memoryview(self.page_on_disk(pgno, page_size))) for pgno in wanted
        ]

    def publish(self, pages: Pages, page_size: int, commit: int, commits: int, wal: WalSpan | None = None) -> None:
        """Put one group of transactions into the log and tell everybody.

        Raises:
            StoreError: a snapshot is needed and these are not all pages (nothing was changed).
            NoSpace: the disk is full (nothing was changed).
        """
        header = self.header(page_size, commit, commits, wal)
        pgnos = [pgno for pgno, _page in pages]
        if header.is_snapshot and not is_whole(pgnos, commit, page_size):
            raise StoreError(f"{self.name}: the first transaction needs all {commit} pages, {len(pgnos)} are known")
        if pages:
            self.note_writer(*pages[0])
        sums = page_checksums(pgnos, [page for _pgno, page in pages])
        post = fold(sums) if header.is_snapshot else self.store.checksums.rolling_after(pgnos, sums, commit)
        data = encode(header, pages, post, compress=self.node.config.compression == "LZ4")
        before = self.about_to_append(header, pgnos)
        self.store.append(data, header, post, pgnos, sums)
        self.node.failpoint("capture.after-append")
        self.finish(header, post, wal, pgnos, before)

    def note_writer(self, pgno: int, page: Bytes) -> None:
        """The first page of a transaction passes: another SQLite than before? Called for every commit."""
        if pgno != 1:
            return
        head = self._head
        if page[VERSION_AT:HEAD_BYTES] != head[VERSION_AT:HEAD_BYTES] or page[READ_VERSION_AT] != head[READ_VERSION_AT]:
            self._head = bytes(page[:HEAD_BYTES])
            self.node.writers.saw(self.name, self._head)

    def about_to_append(self, header: Header, pgnos: list[int]) -> int:
        """Say what is in doubt from now on; the size of the database before, in pages."""
        before = self.store.commit
        if self.holding:
            self.store.set_in_flight(header.max_txid)
            known = [pgno for pgno in pgnos if pgno <= before]
            self.store.sums_before = dict(zip(known, self.store.checksums.get_many(known).tolist(), strict=True))
        self.node.failpoint("capture.before-append")
        return before

    def finish(self, header: Header, post: int, wal: WalSpan | None, pgnos: list[int], commit_before: int) -> None:
        """What follows an append whose page checksums are stored."""
        position = Position(header.max_txid, post)
        if self.holding:
            self.held = HeldPublication(header, wal, pgnos, commit_before)
            self.node.quorum.published(self.name, position, self.words, self.holding)
            self.node.on_transaction(self.name, header, position)
            return
        if self.node.quorum.holds:
            self.node.quorum.published(self.name, position)
            if self.store.in_flight >= header.min_txid:
                self.store.set_in_flight(0)  # that was never appended: the disk was full
            if not self.store.in_flight:  # else ``hold`` tells it, with what becomes of that
                self.node.quorum.commit(self.name, position.txid)
        if wal is not None:
            at = wal.cursor
            self.store.set_wal_mark(at.header.salt1, at.header.salt2, at.end, wal.generation)
            self.node.failpoint("capture.after-mark")
            self.captured(wal.generation, wal.cursor.end)
        self.show_position()
        self.node.on_transaction(self.name, header, position)

    def captured(self, generation: int, end: int, *, ring: bool = True) -> None:
        """Tell the mount how much of the WAL is safe; ``ring``: somebody may wait for that."""
        words = self.words
        if words[Word.CAPTURED_GEN] != generation:
            words[Word.CAPTURED_END] = 0
            words[Word.CAPTURED_GEN] = generation
        words[Word.CAPTURED_END] = end
        if ring:
            self.node.bells.mount.ring()

    def show_position(self) -> None:
        """Publish the store's position in shared memory."""
        position = self.store.position
        value = (position.txid, position.checksum, self.store.timestamp_ms, self.store.commit)
        self.node.state.set_position(self.slot, value)
