"""What a simulated node does while it is a replica, and how it finds itself again at a start.

Production parts: the store, ``committed.merged``, ``recovery.prepare_database`` (Async). Replaced:
the wal-index and the locks; a replica's image is its database file, written in place
after the transaction is in the log. In Quorum a start shows the oldest state that
checksums prove and that is not older than what was shown before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlitecluster.errors import Diverged
from sqlitecluster.ltx import Header, encode, fold, page_checksum, page_checksums
from sqlitecluster.ltx.decoder import LTXFile, decode
from sqlitecluster.replication import wire
from sqlitecluster.replication.committed import merged
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.replication.wire import FrameType
from sqlitecluster.replicator.stage import Stage
from sqlitecluster.store import recovery
from sqlitecluster.store.state import OWNER_SIDECAR
from sqlitecluster.store.walfile import WalPages
from support.simulation.pagestream import PAGE_SIZE
from support.simulation.pending import Pending
from support.simulation.streams import NAME

if TYPE_CHECKING:
    from support.simulation.node import Node

__all__ = ["Replica"]


class Replica:
    """The replica's side of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pages: list[bytes] = []
        self.shown = ZERO
        self.pending: Pending[tuple[LTXFile, int]] = Pending()
        self._hidden: list[bytes] | None = None
        """The image at the log's position, of which it is not known what of it is committed."""
        self._hidden_at = ZERO
        self._since_sync = 0

    # -- a start ---------------------------------------------------------------------------

    def recover(self) -> None:
        """Find out what the image shows."""
        node, database = self.node, self.node.database
        self.pages, self.shown = [], ZERO
        if database.position.is_zero:
            return
        if node.world.quorum:
            self._recover_shown()
            database.recovered()
        else:
            programs = database.owner != OWNER_SIDECAR
            recovery.prepare_database(node.store, NAME, is_replica=True, takes_over=True)
            self.pages = self._read()
            if programs:
                self._capture_rest()
            self.shown = database.position
        self._settle()
        if not node.wants_snapshot:
            self._make_checksums()  # as the comparison does after a power cut: the array may be older than the pages
            database.set_needs_compare(False)

    def _settle(self) -> None:
        """The database file is what is shown, without a log beside it."""
        database = self.node.database
        total = fold(page_checksums(range(1, len(self.pages) + 1), self.pages)) if self.pages else 0
        if self._hidden is not None:
            database.set_wal_mark(0, 0, 0, 0)
            database.set_wal_owner(1)
            database.set_applied(self._hidden_at.txid, self._hidden_at.checksum)
            database.set_durable(self._hidden_at.txid)
            database.set_commit_limit(self._hidden_at.txid - 1)  # another start must not show it either
            database.flush()
            self.node.primary.own_image(self._hidden)
            self.pending = Pending()
            self._add_rest(self._hidden_at.txid)
            return
        if not self.pages or total != self.shown.checksum:
            self.node.world.say(f"{self.node.name}: image and position {self.shown} do not agree")
            self.node.wants_snapshot, self.pages, self.shown = True, [], ZERO
            return
        self._write_all()
        database.set_wal_owner(1)
        database.set_wal_mark(0, 0, 0, 0)
        database.set_wal_owner(1)
        database.set_applied(self.shown.txid, self.shown.checksum)
        database.set_durable(self.shown.txid)
        self.queue_rest()

    def _make_checksums(self) -> None:
        """Of the pages at the log's position."""
        pages, checksums = self.everything(), self.node.database.checksums
        checksums.reset(PAGE_SIZE)
        checksums.set_many(range(1, len(pages) + 1), page_checksums(range(1, len(pages) + 1), pages))
        checksums.mark(self.node.database.position.txid)

    def queue_rest(self) -> None:
        """What is in the log and not shown waits."""
        if self._hidden is not None:
            return
        self.pending = Pending(self.shown.txid)
        self._add_rest(self.shown.txid)

    def _add_rest(self, txid: int) -> None:
        for blob in self.node.database.since(txid) or ():
            file = decode(blob)
            if file.header.max_txid > txid:
                self.pending.add(file.header.min_txid, file.header.max_txid, (file, file.trailer.post_apply))

    def _read(self) -> list[bytes]:
        """The logical image: database file and committed frames."""
        folder = self.node.folder
        try:
            data = (folder / "database").read_bytes()
        except FileNotFoundError:
            return []
        pages = [data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE)]
        found = WalPages(folder / "wal")
        found.refresh()
        if found.commit:
            raw = (folder / "wal").read_bytes()
            pages = (pages + [bytes(PAGE_SIZE)] * found.commit)[: found.commit]
            for pgno, at in found.pages.items():
                if pgno <= found.commit:
                    pages[pgno - 1] = raw[at : at + PAGE_SIZE]
        return pages

    def _capture_rest(self) -> None:
        """What programs published and nobody captured: the image is compared with the checksums."""
        database, node = self.node.database, self.node
        sums = page_checksums(range(1, len(self.pages) + 1), self.pages)
        if fold(sums) == database.position.checksum:
            return
        changed = [n for n, total in enumerate(sums.tolist(), 1) if database.checksums.get(n) != total]
        content = node.world.content_of(self.pages)
        before = database.position
        header = Header(
            page_size=PAGE_SIZE, commit=len(self.pages), min_txid=before.txid + 1, max_txid=before.txid + 1,
            timestamp_ms=node.now().real_ns // 1_000_000, pre_apply=before.checksum, node_id=node.store.node_id,
        )  # fmt: skip
        pages = [(n, self.pages[n - 1]) for n in changed]
        blob = encode(header, pages, fold(sums), compress=False)
        database.append(blob, header, fold(sums), changed, [page_checksum(n, p) for n, p in pages])
        node.world.oracle.made_again(database.position, content)
        node.world.note_operations(blob, content)
        node.store.log.sync()

    def _recover_shown(self) -> None:
        """The first state from ``applied`` on to which the image's checksums add up."""
        database = self.node.database
        pages = self._read()
        start = database.durable if database.owner == OWNER_SIDECAR else database.earliest()
        posts = {database.applied: int(database.state.words[19])} if database.owner == OWNER_SIDECAR else {}
        files = [decode(blob) for blob in database.since(start) or ()]
        posts |= {file.header.max_txid: file.trailer.post_apply for file in files}
        least = database.applied if database.owner == OWNER_SIDECAR else 0
        for upto in sorted(posts):
            if upto < least:
                continue
            candidate = list(pages)
            if database.owner == OWNER_SIDECAR:
                for file in files:
                    if file.header.max_txid <= upto:
                        _apply(candidate, dict(file.pages), file.header.commit)
            if candidate and fold(page_checksums(range(1, len(candidate) + 1), candidate)) == posts[upto]:
                limit = database.commit_limit
                if database.owner == OWNER_SIDECAR and limit is not None and limit < upto:
                    self._hidden, self._hidden_at = candidate, Position(upto, posts[upto])
                else:
                    self.pages, self.shown = candidate, Position(upto, posts[upto])
                return
        for file in files:
            _apply(pages, dict(file.pages), file.header.commit)
        if pages and fold(page_checksums(range(1, len(pages) + 1), pages)) == database.position.checksum:
            self._hidden, self._hidden_at = pages, database.position

    def _write_all(self) -> None:
        node = self.node
        node.primary.own_image(self.pages)

    # -- receiving -------------------------------------------------------------------------

    def take(self, ltx: bytes, epoch: int) -> None:
        """A transaction arrived: into the log first."""
        node, database = self.node, self.node.database
        file = decode(ltx)
        header = file.header
        if header.max_txid <= database.position.txid:
            return
        numbers = [pgno for pgno, _ in file.pages]
        sums = page_checksums(numbers, [page for _, page in file.pages])
        if database.checksums.rolling_after(numbers, sums, header.commit) != file.trailer.post_apply:
            # As apply does: a file that overlaps a tail of another history, which positions alone cannot tell.
            node.resync = True
            raise Diverged(f"{node.name}: transaction {header.max_txid} leads somewhere else")
        database.append(ltx, header, file.trailer.post_apply, numbers, sums)
        node.world.count("transactions received")
        if not node.world.quorum:
            self._show([(file, file.trailer.post_apply)])
            self.acknowledge()
            return
        if database.commit_limit is None:
            database.set_commit_limit(self.shown.txid)
        self.pending.add(header.min_txid, header.max_txid, (file, file.trailer.post_apply))
        node.later(node.world.sync_delay(), self.acknowledge)

    def acknowledge(self) -> None:
        """Say what is on this disk."""
        node = self.node
        if node.world.quorum:
            node.store.log.sync()
            if self._hidden is None:
                self._show(self.pending.commit(0))
        if node.up is not None and node.up.client.epoch >= node.epochs.value:
            node.up.up.send(wire.encode_position(FrameType.ACK, NAME, node.database.position))

    def committed(self, txid: int) -> None:
        """The primary says what may be shown."""
        if self._hidden is not None:
            if txid < self._hidden_at.txid:
                return
            self.pages, self.shown, self._hidden = self._hidden, self._hidden_at, None
        database = self.node.database
        if (limit := database.commit_limit) is not None and txid > limit:
            database.set_commit_limit(txid)
        if not self.node.wants_snapshot:
            self._show(self.pending.commit(txid))

    def _show(self, files: Sequence[tuple[LTXFile, int]]) -> None:
        if not files or self.node.wants_snapshot:
            return
        pages, size = merged([(file.pages, file.header.commit) for file, _ in files])
        last, post = files[-1]
        new = {pgno: bytes(page) for pgno, page in pages}
        _apply(self.pages, new, size)
        self._write(new, size)
        self.shown = Position(last.header.max_txid, post)
        self.node.database.set_applied(self.shown.txid, self.shown.checksum)

    def _write(self, new: dict[int, bytes], size: int) -> None:
        node = self.node
        fd = os.open(node.folder / "database", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        for pgno, page in new.items():
            if pgno <= size:
                node.disk.pwritev(fd, (page,), (pgno - 1) * PAGE_SIZE)
        if os.fstat(fd).st_size != size * PAGE_SIZE:
            os.ftruncate(fd, size * PAGE_SIZE)
        self._since_sync += 1
        if self._since_sync > 40:
            self._since_sync = 0
            node.store.log.sync()
            node.disk.fsync(fd)
            os.close(fd)
            node.database.set_durable(node.database.applied)
            return
        os.close(fd)

    def install(self, stage: Stage, reason: Reason) -> None:
        """A whole image replaces everything; a diverged tail is kept first."""
        node, database = self.node, self.node.database
        if reason.diverged or node.resync:
            database.keep_tail(0, "diverged")
        data = stage.path.read_bytes()
        self.pages = [data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE)]
        self.shown, self._hidden = stage.position, None
        node.wants_snapshot = node.resync = False
        if database.commit_limit is not None:
            database.set_commit_limit(stage.position.txid)
        self._write_all()
        database.reset(
            stage.position, page_size=PAGE_SIZE, commit=len(self.pages), timestamp_ms=stage.timestamp_ms,
        )  # fmt: skip
        checksums = database.checksums
        checksums.reset(PAGE_SIZE)
        checksums.set_many(range(1, len(self.pages) + 1), page_checksums(range(1, len(self.pages) + 1), self.pages))
        checksums.mark(stage.position.txid)
        database.set_needs_compare(False)
        database.set_wal_owner(1)
        database.set_applied(self.shown.txid, self.shown.checksum)
        database.set_durable(self.shown.txid)
        self.pending = Pending(self.shown.txid)
        node.world.count("snapshots")
        self.acknowledge()

    def adopt(self, pages: Sequence[bytes], shown: Position) -> None:
        """This node was the primary until now."""
        self.pages, self.shown, self._hidden = list(pages), shown, None
        database = self.node.database
        database.set_wal_mark(0, 0, 0, 0)
        database.set_wal_owner(1)
        database.set_applied(shown.txid, shown.checksum)
        database.set_durable(shown.txid)
        self.queue_rest()

    def everything(self) -> list[bytes]:
        """The image at the log's position."""
        hidden = self._hidden is not None
        pages = list(self._hidden or self.pages)
        start = self._hidden_at.txid if hidden else self.shown.txid
        for blob in self.node.database.since(start) or ():
            file = decode(blob)
            if file.header.max_txid > start:
                _apply(pages, dict(file.pages), file.header.commit)
        return pages


def _apply(pages: list[bytes], new: dict[int, bytes | memoryview] | dict[int, bytes], size: int) -> None:
    del pages[size:]
    if len(pages) < size:
        pages.extend(bytes(PAGE_SIZE) for _ in range(size - len(pages)))
    for pgno, page in new.items():
        if pgno <= size:
            pages[pgno - 1] = bytes(page)
