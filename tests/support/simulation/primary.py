"""What a simulated node does while it is the primary: programs write, commits are captured and answered.

Production parts: fence (``mount.context``), tracker, groups, ``CapturedDatabase.publish``,
``EpochFile``, ``AckTable``. The order of steps is the one of docs and ``mount.tracked``:

    Async    the completing write passes, is published and answered; the capture follows
    Quorum   the completing write is held back; captured, appended, synced here and at n
             members; only then written, published and answered. After ``ACK_S`` the program
             is told that it failed, and a compensating transaction follows

A program may die between the write that completes its commit and its publication
(hazard 1): in Async the next writer overwrites it, in Quorum the commit is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlitecluster.election import messages as m
from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.replication.quorum import AckTable
from sqlitecluster.replicator.capture_group import Cursor
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_PRIMARY, NodeWord
from support.simulation.capturing import Capturing, put_pages
from support.simulation.content import Content
from support.simulation.pagestream import recording
from support.simulation.streams import NAME, Server
from support.simulation.waldata import Commit, NodeWal

if TYPE_CHECKING:
    from support.simulation.node import Node

ACK_S = 2.0
OPEN_S = 8.0
Answer = Callable[[str], None]
"""Told how an operation ended: acked, refused, busy, failed."""


@dataclass
class Waiting:
    """A commit that is held back."""

    commit: Commit
    answer: Answer
    is_captured: bool = False
    before: Cursor | None = None


class Primary(Capturing):
    """The primary's side of one node."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.active = False
        """Serves streams."""
        self.draining = False
        self.committed_to = 0
        self._committed = ZERO
        self.waiting: Waiting | None = None
        self.table = AckTable(0)
        self._members: frozenset[int] | None = frozenset() if node.world.quorum else None
        """Told by the elector, before it says that this node is the primary."""
        self._opening = False

    # -- the role --------------------------------------------------------------------------

    def begin(self, epoch: int) -> None:
        """BecomePrimary: epoch durable, what was received belongs to it; in Quorum it is acknowledged first."""
        node = self.node
        try:
            node.epochs.begin(epoch)
        except SQLiteClusterError as error:
            why = error.message
            node.step(lambda now: m.NotOpened(epoch, why, now))
            return
        was_open = node.words[NodeWord.ROLE] == ROLE_PRIMARY
        if node.wants_snapshot and not was_open:
            node.step(lambda now: m.NotOpened(epoch, "the image is damaged", now))
            return
        node.store.epoch = self.epoch = epoch
        if node.store.cluster_id() is None:
            node.follow_epoch(epoch)
        for stream in list(node.streams):
            stream.end()
        self._fail("another epoch begins")
        if not was_open:
            node.unfollow()
            self.take_over()
        self.table = AckTable(node.world.acks)
        self.table.set_members(self._members)
        self.active, self._opening = True, True
        if node.database.position.is_zero:
            self._create()
        else:
            node.database.set_epoch(epoch)
        self.table.expect(NAME, node.database.position)
        node.store.log.sync()
        node.later(OPEN_S, lambda: self._not_opened(epoch))
        node.later(node.world.rng.uniform(0.001, 0.1), self._look)

    def take_over(self) -> None:
        """Everything that was received is what programs find, once they are let in."""
        replica = self.node.replica
        self.committed_to, self._committed = replica.shown.txid, replica.shown
        self.pages = list(replica.pages)
        self._log_pages = replica.everything()
        self._log_content = self.node.world.content_at(self.node.database.position, self._log_pages)
        if self.pages:
            self.content = self.node.world.content_at(replica.shown, self.pages)
        self._uncaptured.clear()

    def _look(self) -> None:
        """After each acknowledgement: what may be shown, answered, opened now."""
        node = self.node
        if not self.active or node.store.log.dirty or not self.table.is_committed(NAME):
            return
        if self.waiting is not None and self.waiting.is_captured:
            self._complete(self.waiting)
            return
        self._committed = node.database.position
        self.committed_to = self._committed.txid
        if self._opening and self._may_open():
            self._open()
        for stream in sorted(node.streams, key=lambda s: s.client_node.index):
            stream.server.pump()

    def members(self, members: frozenset[int]) -> None:
        """Whose acknowledgements count."""
        self._members = members
        self.table.set_members(members)
        if self.waiting is not None:
            self._hold(self.waiting)
        self.node.later(0.0, self._look)

    @property
    def is_holding(self) -> bool:
        """Whether a commit is held back."""
        return self.waiting is not None

    @property
    def is_idle(self) -> bool:
        """Whether everything is captured and committed."""
        wal = self.wal
        return self.waiting is None and (wal is None or wal.captured) and not self._opening

    def _may_open(self) -> bool:
        elector = self.node.elector
        return elector.is_primary and elector.epoch == self.epoch

    def _open(self) -> None:
        node, self._opening = self.node, False
        if node.words[NodeWord.ROLE] != ROLE_PRIMARY:
            self.own_image(self._log_pages)
            self.pages, self.content = list(self._log_pages), self._log_content
            self.wal = NodeWal(node)
            self.wal.generation = node.world.next_generation()
            node.database.set_wal_mark(0, 0, 0, 0)
            node.database.set_commit_limit(None)
            node.words[NodeWord.ROLE] = ROLE_PRIMARY
        self.draining = False
        node.world.opened(node, self.epoch, self.content)
        epoch = self.epoch
        node.step(lambda now: m.Opened(epoch, now))

    def _not_opened(self, epoch: int) -> None:
        if self._opening and self.epoch == epoch:
            self.node.step(lambda now: m.NotOpened(epoch, "too few replicas have what it began with", now))

    def demote(self) -> None:
        """No primary any more: everything published is captured, then nothing is written here."""
        node = self.node
        self.active = self._opening = self.draining = False
        was_open = node.words[NodeWord.ROLE] == ROLE_PRIMARY
        node.words[NodeWord.ROLE] = ROLE_DISCONNECTED
        self._fail("no primary any more", compensate=False)
        if was_open:
            self.capture()
            self.node.store.log.sync()
        for stream in list(node.streams):
            stream.end()
        if self.wal is not None:
            self.wal.close()
            self.wal = None
        if was_open:
            self.own_image(self.pages)
            node.replica.adopt(self.pages, self.shown())
        else:
            node.replica.queue_rest()  # what it began with, and could not open with
        node.store.epoch = 0

    def shown(self) -> Position:
        """The position that programs see when everything published is captured."""
        if self.content is self._log_content:
            return self.node.database.position
        return self._committed

    def killed(self) -> None:
        """The process is gone, with everything that waited."""
        self.active = self._opening = False
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.answer("lost")
        self.close_program()
        if self.wal is not None:
            self.wal.close()

    # -- programs --------------------------------------------------------------------------

    def write(self, op: int, answer: Answer) -> None:
        """A program's transaction."""
        node = self.node
        wal = self.wal
        if node.words[NodeWord.ROLE] != ROLE_PRIMARY or self.draining or wal is None or node.context.is_fenced:
            answer("refused")
            return
        if self.waiting is not None or self._opening:
            answer("busy")
            return
        if self.content.index + 1 >= len(recording().shapes):
            answer("full")
            return
        content = node.world.know(self.content.after(op))
        commit = self.prepare(wal, content)
        for offset, data in commit.writes[:-1]:
            wal.write(offset, data)
        offset, data = commit.writes[-1]
        if node.world.quorum:
            if wal.tracker.completes(offset, data) != commit.end:
                node.world.violation(f"{node.name}: the mount does not see that {content} is completed")
            self.waiting = Waiting(commit, answer)
            node.later(ACK_S, lambda: self._expired(content))
            self._hold(self.waiting)
            return
        wal.write(offset, data)
        if wal.tracker.end != commit.end:
            node.world.violation(f"{node.name}: the mount does not see the end of {content}")
        if node.world.rng.random() < 0.004 and not node.world.is_quiet:
            self.close_program()
            answer("failed")  # the program dies before SQLite publishes: the next writer overwrites it
            return
        self._publish(commit)
        node.world.oracle.acknowledged(node, content)
        answer("acked")
        node.later(node.world.rng.choice((0.0005, 0.003, 0.02)), self.capture)

    def _publish(self, commit: Commit) -> None:
        wal = self.wal
        assert wal is not None
        put_pages(self.pages, commit.pages, commit.size)
        self._dirty |= commit.pages.keys()
        self.content = commit.content
        wal.published, wal.seed = commit.end, commit.seed
        if self.node.world.full_sync:
            self.node.disk.fdatasync(wal.fd)
        self._uncaptured.append((commit.end, commit.content))

    # -- Quorum ----------------------------------------------------------------------------

    def _hold(self, waiting: Waiting) -> None:
        """Capture a held commit as soon as enough replicas are connected."""
        wal, commit = self.wal, waiting.commit
        if waiting.is_captured or wal is None or not self.table.can_commit:
            return
        waiting.before = wal.cursor
        group = wal.next_group(commit.end, self.node.database.commit, commit.writes[-1])
        if group is None:
            self.node.world.violation(f"{self.node.name}: a held commit cannot be captured")
            return
        waiting.is_captured = True
        self._uncaptured.append((commit.end, commit.content))
        self._append(wal, group)
        self._wait_for_acks()

    def _wait_for_acks(self) -> None:
        self.table.expect(NAME, self.node.database.position)
        self._send()
        self.node.later(self.node.world.sync_delay(), self._synced)

    def _synced(self) -> None:
        self.node.store.log.sync()
        self._look()

    def _complete(self, waiting: Waiting) -> None:
        """Enough hold it: the bytes are written, readers see it, the program is told."""
        node, wal, self.waiting = self.node, self.wal, None
        assert wal is not None
        self._committed = node.database.position
        self.committed_to = self._committed.txid
        fenced = node.context.is_fenced
        wal.write(*waiting.commit.writes[-1])  # behind the fence this is how it is settled: a commit of its own
        self._publish(waiting.commit)
        self._uncaptured.clear()
        dies = node.world.rng.random() < 0.004 and not node.world.is_quiet
        if fenced or dies:
            waiting.answer("failed")
        else:
            node.world.oracle.acknowledged(node, waiting.commit.content)
            waiting.answer("acked")
        self._send()

    def _expired(self, content: Content) -> None:
        if self.waiting is not None and self.waiting.commit.content is content:
            self._fail("not acknowledged in time")

    def _fail(self, _why: str, *, compensate: bool = True) -> None:
        """EIO for the held commit; its bytes are never written."""
        waiting, self.waiting = self.waiting, None
        self.close_program()
        if waiting is None:
            return
        wal = self.wal
        if waiting.is_captured and wal is not None and compensate:
            wal.cursor = waiting.before
            self._compensate(waiting.commit, wal)
        waiting.answer("failed")

    def _compensate(self, commit: Commit, wal: NodeWal) -> None:
        """The old content of the same pages follows, so that log and image agree again."""
        size = len(self.pages)
        numbers = sorted({p for p in commit.pages if p <= size} | set(range(commit.size + 1, size + 1)))
        self._log_content = self.content
        old = [(pgno, memoryview(self.pages[pgno - 1])) for pgno in numbers]
        self._put_log(old, size, 1, None)
        assert wal.header is not None
        self.node.database.set_wal_mark(wal.header.salt1, wal.header.salt2, wal.published, wal.generation)
        if self.active:
            self._wait_for_acks()

    # -- streams ---------------------------------------------------------------------------

    def _send(self) -> None:
        for stream in sorted(self.node.streams, key=lambda s: s.client_node.index):
            stream.server.pump()

    def joined(self, server: Server) -> None:
        """A replica is connected."""
        assert server.peer is not None
        self.table.join(server.peer.node_id)
        if self.waiting is not None:
            self._hold(self.waiting)

    def left(self, server: Server) -> None:
        """It is not any more."""
        if server.peer is not None:
            self.table.leave(server.peer.node_id)

    def acknowledged(self, server: Server) -> None:
        """It holds something on disk."""
        if server.peer is not None and server.lane is not None:
            self.table.note(server.peer.node_id, NAME, server.lane.acked)
            self._look()

    def has_acknowledged(self, pod: str) -> bool:
        """Whether a replica holds everything (for a hand-off)."""
        for stream in self.node.streams:
            lane = stream.server.lane
            if stream.client_node.name == pod and lane is not None and lane.acked == self.node.database.position:
                return True
        return False
