"""A candidate gets what others hold of a database and it does not, before it takes over.

Used by ``elected``. Streams send databases in different orders: after the loss of a primary
each of two members can hold the newest of another database (``election.quorum``, rule 2).

Rules:
    1. Only what continues this node's own history by its checksums is taken; the apply thread
       takes it as it takes what a primary sends and waits to be committed.
    2. Bounded in bytes and time: a node that lacks much is no good primary.
    3. What was taken is durable before the node says that it holds it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlitecluster.election.messages import Lack
from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.ltx import HEADER_SIZE, TRAILER_SIZE, Header, Trailer
from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.replicator.peer_pages import PeerPages
from sqlitecluster.replicator.services import NodeServices, PrimaryAddress
from sqlitecluster.replicator.work import Epoch, Marker, Transaction, WorkQueue

log = logging.getLogger(__name__)

MOST_BYTES: Final = 256 << 20
LIMIT_S: Final = 5.0


class Fetcher:
    """Asks peers for transactions."""

    def __init__(
        self,
        node: NodeServices,
        queue: Callable[[], WorkQueue | None],
        address: Callable[[str], PrimaryAddress | None],
    ) -> None:
        """``queue``: the apply thread's, while this node is a replica; ``address``: of a pod."""
        self._node = node
        self._queue = queue
        self._address = address

    async def fetch(self, lacks: Sequence[Lack]) -> None:
        """Get what can be got; what cannot is logged."""
        queue = self._queue()
        if queue is None:
            return
        peers = PeerPages(self._node)
        try:
            async with asyncio.timeout(LIMIT_S):
                for lack in lacks:
                    await self._fetch(_Source(self._node, queue, peers), lack)
            await asyncio.to_thread(self._node.store.log.sync)
        except TimeoutError:
            log.warning("what other members hold could not be fetched within %.0f s", LIMIT_S)
        except (SQLiteClusterError, OSError) as error:
            log.warning("what other members hold could not be kept: %s", error)
        finally:
            await peers.close()

    async def _fetch(self, source: _Source, lack: Lack) -> None:
        address = self._address(lack.pod)
        if address is None:
            return
        began, before = time.monotonic(), source.position(lack.name)
        why = await source.follow(address, lack)
        after = source.position(lack.name)
        if after != before:
            ms = (time.monotonic() - began) * 1000
            log.info("%s: fetched %s to %s from %s, %.0f ms", lack.name, before, after, lack.pod, ms)
        if why:
            log.warning("%s: %s holds more than this node, and it cannot be fetched: %s", lack.name, lack.pod, why)


class _Source:
    """One peer's stored transactions become this node's."""

    def __init__(self, node: NodeServices, queue: WorkQueue, peers: PeerPages) -> None:
        self._node = node
        self._queue = queue
        self._peers = peers

    def position(self, name: str) -> Position:
        """Where this node is."""
        db = self._node.find(name)
        return db.position if db is not None else ZERO

    async def follow(self, address: PrimaryAddress, lack: Lack) -> str:
        """Take transaction after transaction; why that ended early."""
        name, room, (epoch, target) = lack.name, MOST_BYTES, lack.position
        while (at := self.position(name)).txid < target:
            data = await self._peers.ask_ltx(address, name, at.txid + 1)
            if data is None:
                return f"it does not give transaction {at.txid + 1:016x}"
            room -= len(data)
            why = "it is too much" if room < 0 else does_not_continue(at, data)
            if why:
                return why
            await self._do(Transaction(name, data, self._node.config.replication.holds_back))
            if self.position(name).txid <= at.txid:
                return f"transaction {at.txid + 1:016x} was refused"
        data = await self._peers.ask_ltx(address, name, at.txid)
        if data is None:
            return f"its transaction {at.txid:016x} cannot be compared"
        end = Position(Header.parse(data[:HEADER_SIZE]).max_txid, Trailer.parse(data[-TRAILER_SIZE:]).post_apply)
        if end != at:
            return f"this node is at {at}, its history goes by {end}"
        await self._do(Epoch(name, epoch, at.txid))  # both hold the same
        return ""

    async def _do(self, work: Transaction | Epoch) -> None:
        """Have the apply thread do it."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def reached() -> None:
            loop.call_soon_threadsafe(done.set)

        self._queue.put(work)
        self._queue.put(Marker(reached))
        await done.wait()


def does_not_continue(at: Position, data: bytes) -> str:
    """Why an LTX file is not the next one after a position; empty when it is."""
    header = Header.parse(data[:HEADER_SIZE])
    if header.min_txid != at.txid + 1:
        return f"transaction {at.txid + 1:016x} is stored there only together with others"
    if not at.is_zero and header.pre_apply != at.checksum:
        return f"this node is at {at}, its history goes by {Position(at.txid, header.pre_apply)}"
    return ""
