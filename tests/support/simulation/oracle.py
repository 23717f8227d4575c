"""What must hold in every run (reliability.md §7.1), checked as it happens and at the end.

    I1  a read at a position gives the state that was made at this position, whole
    I2  nothing acknowledged is lost: Quorum never; Async only what the new primary did not
        have, and then it is kept aside on the node that had it
    I3  one history for each (epoch, TXID)
    I4  epochs of primaries rise, and nothing of an older epoch is taken
    I5  the stored chain is contiguous and verifies; checksums from scratch are the position's
    I7  an operation in doubt is there whole or not at all
    I9  when the faults end, somebody is writable and everybody has everything

In Quorum nothing that a reader saw vanishes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlitecluster.ltx import decode, fold, page_checksums
from sqlitecluster.replication.position import Position
from support.simulation.content import TOTAL, Content

if TYPE_CHECKING:
    from support.simulation.node import Node
    from support.simulation.world import World

ROWS = 5


@dataclass(slots=True)
class Acked:
    """An operation whose program was told that it is done."""

    content: Content
    node: int
    position: Position = field(default_factory=lambda: Position(0, 0))


class Oracle:
    """Watches one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[tuple[int, int], int] = {}
        self.states: dict[tuple[int, int], Content] = {}
        """Position → what the database holds there."""
        self.newest_epoch = 0
        self.acked: list[Acked] = []
        self.acked_tip: Content | None = None
        self.seen_tip: Content | None = None
        self.lost = 0
        """Acknowledged operations that a new primary did not have (Async)."""
        self.excused: set[int] = set()
        """Nodes that lost bytes that were not synced, or their volume: they need not keep a tail."""
        self._sqlite = sqlite3.connect(":memory:")

    def close(self) -> None:
        """The run is over."""
        self._sqlite.close()

    # -- as it happens -------------------------------------------------------------------

    def made(self, epoch: int, position: Position, ltx: bytes, content: Content) -> None:
        """A primary made transactions up to ``position`` (I3)."""
        name = int.from_bytes(ltx[-8:], "big")
        if self._made.setdefault((epoch, position.txid), name) != name:
            self._world.violation(f"I3: two transactions {position.txid} of epoch {epoch}")
        self.states[position.txid, position.checksum] = content

    def made_again(self, position: Position, content: Content) -> None:
        """A node captured at its start what its programs had published in its last epoch.

        After a power cut that may be what it had captured, and sent, before: other bytes under
        the same TXID. Positions tell them apart by their checksums.
        """
        self._world.count("captured at a start")
        self.states[position.txid, position.checksum] = content

    def opened(self, node: Node, epoch: int, content: Content) -> None:
        """A primary lets programs in (I2, I4)."""
        if epoch <= self.newest_epoch:
            self._world.violation(f"I4: {node.name} opens in epoch {epoch}, {self.newest_epoch} was before")
        self.newest_epoch = max(epoch, self.newest_epoch)
        if self._world.quorum:
            for what, tip in (("acknowledged", self.acked_tip), ("seen by a reader", self.seen_tip)):
                if tip is not None and not tip.leads_to(content):
                    self._world.violation(f"I2: {node.name} opens at {content} without {tip}, which was {what}")
            return
        for each in self.acked:
            if not each.content.leads_to(content):
                self.lost += 1
                if each.node == node.index and node.index not in self.excused:
                    self._world.violation(f"I2: {node.name} lost {each.content}, which it acknowledged itself")
        self.acked = [each for each in self.acked if each.content.leads_to(content)]

    def acknowledged(self, node: Node, content: Content) -> None:
        """A program was told that its commit is done."""
        if node.primary.epoch < self.newest_epoch:
            why = f"acknowledges in epoch {node.primary.epoch}, {self.newest_epoch} has begun"
            self._world.violation(f"I4: {node.name} {why}")
        tip = self.acked_tip
        if self._world.quorum and tip is not None and not tip.leads_to(content):
            self._world.violation(f"I2: {node.name} acknowledges {content}, which does not follow {tip}")
        self.acked_tip = content
        self.acked.append(Acked(content, node.index))

    def accepted(self, node: Node, epoch: int) -> None:
        """A replica takes a transaction in (I4)."""
        if epoch < node.promised:
            self._world.violation(f"I4: {node.name} takes a transaction of epoch {epoch}, it promised {node.promised}")

    def read_at(self, node: Node, position: Position, pages: Sequence[bytes]) -> None:
        """A program reads everything on a replica."""
        content = self.states.get((position.txid, position.checksum))
        if content is None:
            self._world.violation(f"I1: {node.name} shows {position}, which no primary made")
            return
        self.read(node, content, pages)

    def read(self, node: Node, content: Content, pages: Sequence[bytes]) -> None:
        """A program reads everything (I1, I7)."""
        balances, rows = self._query(pages)
        if sum(balances) != TOTAL:
            self._world.violation(f"I7: {node.name}: {sum(balances)} instead of {TOTAL} in the bank of {content}")
        if tuple(balances) != content.balances or rows != list(content.rows(ROWS)):
            self._world.violation(f"I1: {node.name} does not show {content}: {rows}")
        if self._world.quorum:
            self._seen(node, content)

    def newest_operation(self, pages: Sequence[bytes]) -> int:
        """Of the newest row."""
        rows = self._query(pages)[1]
        return int(rows[-1], 16) if rows else 0

    def _seen(self, node: Node, content: Content) -> None:
        tip = self.seen_tip
        if tip is None or tip.leads_to(content):
            self.seen_tip = content
        elif not content.leads_to(tip):
            self._world.violation(f"I2: a reader of {node.name} sees {content}, another one saw {tip}")

    def _query(self, pages: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
        first = pages[0]
        data = b"".join((first[:18], b"\1\1", first[20:], *pages[1:]))
        self._sqlite.deserialize(data)
        balances = [int(b) for (b,) in self._sqlite.execute("SELECT b FROM account ORDER BY a")]
        newest = self._sqlite.execute(f"SELECT v FROM list ORDER BY i DESC LIMIT {ROWS}").fetchall()
        return balances, [str(v).encode() for (v,) in reversed(newest)]

    # -- at the end ----------------------------------------------------------------------

    def check_image(self, node: Node, pages: Sequence[bytes], position: Position) -> None:
        """Checksums from scratch, and SQLite's own check (I5, I6)."""
        total = fold(page_checksums(range(1, len(pages) + 1), pages))
        if total != position.checksum:
            self._world.violation(f"I5: {node.name} at {position} adds up to {total:016x}")
            return
        self.read_at(node, position, pages)
        found = self._sqlite.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            self._world.violation(f"I6: {node.name}: {found}")
        content = self.states.get((position.txid, position.checksum))
        count = self._sqlite.execute("SELECT count(*) FROM list").fetchone()[0]
        if content is not None and count != content.index:
            self._world.violation(f"I1: {node.name} has {count} rows instead of {content.index}")

    def check_chain(self, node: Node) -> None:
        """Every stored transaction verifies and continues the one before (I5)."""
        database = node.database
        start = database.earliest()
        reached, blobs = start, database.since(start)
        for blob in blobs or ():
            header = decode(blob).header
            if header.min_txid > reached + 1:
                self._world.violation(f"I5: {node.name}: nothing between {reached} and {header.min_txid}")
            reached = header.max_txid
        if reached != database.position.txid:
            self._world.violation(f"I5: {node.name}: the chain ends at {reached}, the position is {database.position}")

    def check_kept(self, content: Content, kept: set[int]) -> None:
        """Every acknowledged operation is in the history, or aside on the node that had it (I2, Async)."""
        for each in self.acked:
            if not each.content.leads_to(content) and each.node not in self.excused and each.content.op not in kept:
                self._world.violation(f"I2: {each.content} was acknowledged, is not in the history and was not kept")
