"""What programs of a simulated primary have written, and how it gets into the log.

The base of ``primary.Primary``. ``CapturedDatabase.publish`` is the only way into the log, as in
production; what SQLite has published and what the log has are two images.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from sqlitecluster.ltx import Header
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.capture_group import Group, Pages
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan
from sqlitecluster.replicator.writers import Writers
from support.simulation.content import Content
from support.simulation.kernel import namespace, words
from support.simulation.pagestream import PAGE_SIZE, recording
from support.simulation.programs import Program
from support.simulation.waldata import LONG_WAL, Commit, NodeWal

if TYPE_CHECKING:
    from support.simulation.node import Node


class Capturing:
    """The images and the log of one node that programs write on."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.epoch = 0
        self.content = Content.empty()
        self.pages: list[bytes] = []
        """What programs see."""
        self.wal: NodeWal | None = None
        self._log_pages: list[bytes] = []
        """What the log's position holds."""
        self._log_content = self.content
        self._uncaptured: deque[tuple[int, Content]] = deque()
        self._dirty: set[int] = set()
        services = namespace(
            store=node.store,
            state=namespace(slot=lambda _slot: words(256), set_position=lambda _slot, _value: None),
            config=namespace(compression="None"),
            failpoint=lambda _name: None,
            bells=namespace(mount=namespace(ring=lambda: None)),
            mount_dir=node.root,
            quorum=namespace(holds=False),
            writers=Writers(),
            on_transaction=self._logged,
        )
        self._captured = CapturedDatabase(cast(Any, services), 0, node.database)

        self._program: Program | None = None

    @property
    def is_holding(self) -> bool:
        """Whether a commit is held back: it is captured by itself."""
        return False

    def _create(self) -> None:
        """The first primary's program makes the database."""
        base = recording().base
        folder = self.node.folder
        fd = os.open(folder / "database", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.node.disk.pwritev(fd, (b"".join(base),), 0)
        self.node.disk.fsync(fd)
        os.close(fd)
        self._log_pages, self._log_content = list(base), Content.empty()
        self.node.world.empty = self._log_content
        self._captured.publish([(n, memoryview(p)) for n, p in enumerate(base, 1)], PAGE_SIZE, len(base), 1)

    def own_image(self, pages: Sequence[bytes]) -> None:
        """The database file holds everything; no log."""
        folder, disk = self.node.folder, self.node.disk
        fd = os.open(folder / "database", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        disk.pwritev(fd, (b"".join(pages),), 0)
        os.ftruncate(fd, len(pages) * PAGE_SIZE)
        disk.fsync(fd)
        os.close(fd)
        disk.unlink(folder / "wal")
        self._dirty.clear()

    def _checkpoint(self, wal: NodeWal) -> None:
        """Everything goes back into the database file, then the log starts anew.

        The header's rewrite is parked until all is captured.
        """
        node = self.node
        node.disk.fdatasync(wal.fd)
        fd = os.open(node.folder / "database", os.O_RDWR | os.O_CLOEXEC)
        for pgno in sorted(self._dirty):
            if pgno <= len(self.pages):
                node.disk.pwritev(fd, (self.pages[pgno - 1],), (pgno - 1) * PAGE_SIZE)
        os.ftruncate(fd, len(self.pages) * PAGE_SIZE)
        node.disk.fsync(fd)
        os.close(fd)
        self._dirty.clear()
        self.capture()

    def prepare(self, wal: NodeWal, content: Content) -> Commit:
        """The writes of a program's next transaction."""
        world, long = self.node.world, wal.frames > LONG_WAL and self.node.world.rng.random() < 0.2
        if not world.real:
            if long:
                self._checkpoint(wal)
                wal.restart()
            return wal.prepare(content)
        if long:
            self.close_program()
        if self._program is None:
            self._checkpoint(wal)
            self._program = Program(self.pages)
        return wal.written(self._program.run(content, world.rng), content)

    def close_program(self) -> None:
        """It died, or was told that its commit failed; or it checkpoints by closing and opening."""
        if self._program is not None:
            self._program.close()
            self._program = None

    # -- capture ---------------------------------------------------------------------------

    def capture(self) -> None:
        """Everything published goes into the log."""
        wal = self.wal
        if wal is None or wal.fd < 0 or wal.captured or self.is_holding:
            return
        while (group := wal.next_group(wal.published, self.node.database.commit)) is not None:
            self._append(wal, group)
        if not wal.captured:
            self.node.world.violation(f"{self.node.name}: published commits cannot be captured")
        self._send()

    def _append(self, wal: NodeWal, group: Group) -> None:
        assert wal.cursor is not None
        start, wal.cursor = wal.cursor.end, group.after
        while self._uncaptured and self._uncaptured[0][0] <= group.after.end:
            self._log_content = self._uncaptured.popleft()[1]
        span = WalSpan(group.after, start, wal.generation)
        self._put_log(group.pages, group.commit, group.commits, span)

    def _put_log(self, pages: Pages, size: int, commits: int, span: WalSpan | None) -> None:
        put_pages(self._log_pages, {pgno: bytes(page) for pgno, page in pages}, size)
        whole = self._captured.with_holes(pages, size, PAGE_SIZE)
        self._captured.publish(whole, PAGE_SIZE, size, commits, span)

    def _logged(self, _name: str, _header: Header, position: Position) -> None:
        node = self.node
        piece = node.database.next_after(position.txid - 1)
        if piece is not None and piece.blob is not None:
            node.world.oracle.made(self.epoch, position, piece.blob, self._log_content)
            node.world.note_operations(piece.blob, self._log_content)

    def captured_pages(self) -> Sequence[bytes]:
        """For a snapshot: what is shown, until this node opened; the rest follows."""
        database = self.node.database
        return list(self._log_pages if database.settled == database.position else self.node.replica.pages)

    def _send(self) -> None:
        """Replicas get what is new."""


def put_pages(pages: list[bytes], new: dict[int, bytes], size: int) -> None:
    """Change a list of pages."""
    del pages[size:]
    if len(pages) < size:
        pages.extend(bytes(PAGE_SIZE) for _ in range(size - len(pages)))
    for pgno, page in new.items():
        if pgno <= size:
            pages[pgno - 1] = page
