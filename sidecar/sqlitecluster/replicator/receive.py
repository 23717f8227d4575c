"""Frames of one stream on a replica become work for the apply thread.

``stream_client`` owns the connection and feeds every frame; this module keeps what
outlives a connection: transactions received in part.

Rules:
    1. Nothing reaches the apply thread that was not received whole.
    2. A snapshot is put together aside (``stage``) and handed over when its checksums
       add up; until then the replica's old image stays as it is and readable.
    3. A diverged replica's own tail is kept in lost+found before its image is replaced.
    4. An image that adds up only with a commit in flight waits until that is committed, or taken back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, TypeVar

from sqlitecluster.errors import Diverged, StreamError, WireError, from_wire
from sqlitecluster.replication import wire
from sqlitecluster.replication.assembly import Assembler
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.pages import decode_pages
from sqlitecluster.replication.position import Position
from sqlitecluster.replication.wire import Frame, FrameType
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.stage import Stage
from sqlitecluster.replicator.work import Checkpoint, Committed, Drop, Epoch, Install, Transaction, WorkQueue
from sqlitecluster.units import encode_name

log = logging.getLogger(__name__)

T = TypeVar("T")

SHOW_S: Final = 0.005
"""So long what is committed waits for more of it, in a stream whose transactions wait for acknowledgements."""


class _Incoming:
    """A snapshot being received."""

    def __init__(self, stage: Stage, reason: Reason) -> None:
        self.stage = stage
        self.reason = reason
        self.target: Position | None = None
        """Where it must be at least; known with the last page."""
        self.committed = 0
        """Up to where the primary says that it may be shown, beyond that."""
        self.beats = 0
        self.after: list[Epoch | Committed | Checkpoint] = []
        """What is to be done once the image is in place."""


class Receiver:
    """The receiving end of the replica's stream."""

    def __init__(self, node: NodeServices, queue: WorkQueue, counters: Counters, executor: Executor) -> None:
        self._node = node
        self._queue = queue
        self._counters = counters
        self._executor = executor
        self._folder: Path = node.config.data_dir / "staging"
        self._incoming: dict[str, _Incoming] = {}
        self.assembler = Assembler()
        self.resync: set[str] = set()
        """Databases whose next claim asks for a snapshot."""
        self._committed: dict[str, int] = {}
        self.holds = False
        """The primary sends transactions before they are committed."""
        self.apply_now: Callable[[Transaction | Committed], bool] = lambda _work: False
        """Does a small piece of work at once, or leaves it to the queue."""
        self.on_ready: Callable[[], None] = lambda: None
        self.on_sync: Callable[[], None] = lambda: None
        """The primary asks for acknowledgements."""
        self.on_heartbeat: Callable[[int], None] = lambda _ms: None

    def feed_now(self, frame: Frame) -> bool:
        """Take a frame that needs no waiting; False leaves it to ``feed``.

        Raises:
            WireError: frames in an impossible order.
        """
        if frame.type is FrameType.TX and frame.name not in self._incoming:
            self._counters.received("TX")
            ltx = self.assembler.feed(frame)
            if ltx is not None:
                self._do(Transaction(frame.name, ltx, self.holds))
            return True
        if frame.type is FrameType.COMMITTED and frame.name not in self._incoming:
            self._counters.received("COMMITTED")
            if not self._committed:
                asyncio.get_running_loop().call_later(SHOW_S, self._show)
            self._committed[frame.name] = wire.decode_txid(frame)
            return True
        if frame.type is FrameType.HEARTBEAT and not self._incoming:
            self._counters.received("HEARTBEAT")
            self.on_heartbeat(wire.decode_heartbeat(frame))
            return True
        return False

    def _show(self) -> None:
        """What became committed within some moments is shown in one go: that costs as much as one transaction."""
        committed, self._committed = self._committed, {}
        for name, txid in committed.items():
            self._do(Committed(name, txid))

    def _do(self, work: Transaction | Committed) -> None:
        if not self.apply_now(work):
            self._queue.put(work)

    async def feed(self, frame: Frame) -> None:
        """Take one frame.

        Raises:
            StreamError: the primary ends the stream, or reports an error.
            WireError: frames in an impossible order.
        """
        self._counters.received(frame.type.name)
        if frame.type is FrameType.TX:
            ltx = self.assembler.feed(frame)
            if ltx is not None:
                await self._transaction(frame.name, ltx)
        elif frame.type is FrameType.HEARTBEAT:
            self._beat()
            self.on_heartbeat(wire.decode_heartbeat(frame))
        elif frame.type is FrameType.READY:
            self.on_ready()
        elif frame.type is FrameType.SYNC:
            self.on_sync()
        elif frame.type is FrameType.EPOCH:
            self._after_image(Epoch(frame.name, *wire.decode_epoch(frame)))
        elif frame.type is FrameType.END:
            raise StreamError("the primary stops")
        elif frame.type is FrameType.ERROR:
            error = wire.decode_json(frame)
            raise from_wire(str(error.get("code", "")), str(error.get("message", "")))
        else:
            await self._other(frame)

    def broken(self) -> None:
        """The stream ended: half-received snapshots start anew, transactions resume."""
        for name in list(self._incoming):
            self._abandon(name)

    async def _other(self, frame: Frame) -> None:
        name = frame.name
        if frame.type is FrameType.SNAPSHOT_BEGIN:
            await self._snapshot_begin(name, wire.decode_snapshot(frame))
        elif frame.type is FrameType.SNAPSHOT_PAGES:
            stage = self._expect(name).stage
            await self._run(_add_pages, stage, frame)
        elif frame.type is FrameType.SNAPSHOT_END:
            incoming = self._expect(name)
            info = wire.decode_snapshot(frame)
            incoming.target = info.position
            if info.position == incoming.stage.position:
                incoming.stage.pages = info.pages
                incoming.stage.timestamp_ms = info.timestamp_ms
            await self._try_finish(name, incoming)
        elif frame.type is FrameType.DROP:
            self._queue.put(Drop(name, wire.decode_position(frame)))
        elif frame.type is FrameType.COMMITTED:
            await self._is_committed(name, wire.decode_txid(frame))
        elif frame.type is FrameType.CHECKPOINT:
            self._after_image(Checkpoint(name, wire.decode_txid(frame)))
        elif frame.type is FrameType.UNKNOWN:
            self._node.problems.report(
                "UnknownDatabase",
                "the primary has never had this database; it is kept here as it is and not replicated",
                name,
            )
        else:
            raise WireError("type", frame.type.name, "not what a primary sends in a stream")

    def _after_image(self, work: Epoch | Committed | Checkpoint) -> None:
        incoming = self._incoming.get(work.name)
        if incoming is None:
            self._queue.put(work)
        else:
            incoming.after.append(work)

    async def _is_committed(self, name: str, txid: int) -> None:
        self._after_image(Committed(name, txid))
        incoming = self._incoming.get(name)
        if incoming is not None:
            incoming.committed = txid
            await self._try_finish(name, incoming)

    async def _transaction(self, name: str, ltx: bytes) -> None:
        incoming = self._incoming.get(name)
        if incoming is None:
            self._queue.put(Transaction(name, ltx, self.holds))
            return
        await self._run(incoming.stage.apply, ltx)
        await self._try_finish(name, incoming)

    async def _snapshot_begin(self, name: str, info: wire.SnapshotInfo) -> None:
        self._abandon(name)
        self.assembler.forget(name)
        reason = Reason(info.reason) if info.reason in list(Reason) else Reason.MISSING
        log.info("%s: receiving a snapshot at %s (%s)", name, info.position, reason.name.lower())
        self._counters.snapshots_received += 1
        path = self._folder / f"{encode_name(name)}.image"
        stage = await self._run(Stage, path, info.page_size, info.pages, info.position)
        self._incoming[name] = _Incoming(stage, reason)

    async def _try_finish(self, name: str, incoming: _Incoming) -> None:
        """Hand a complete image over. One that does not add up waits for the next transaction:
        its last pages may be of a commit that was captured while they were read."""
        stage = incoming.stage
        if incoming.target is None or stage.position.txid < incoming.target.txid:
            return
        if self.holds and stage.position.txid > max(incoming.target.txid, incoming.committed):
            incoming.beats = 0  # its last pages may be of a commit in flight, which may take as long as it likes
            return
        try:
            await self._run(stage.finish)
        except Diverged as error:
            incoming.beats += 1
            if incoming.beats > 3:
                self._abandon(name)
                raise StreamError(f"{name}: {error.message}") from error
            return
        del self._incoming[name]
        diverged = incoming.reason.diverged
        if diverged:
            self._report_tail(name, incoming.reason)
        stage.close(remove=False)
        self.resync.discard(name)
        self._node.problems.clear("ImageDamaged", name)
        self._queue.put(
            Install(name, stage.path, stage.page_size, stage.pages, stage.position, stage.timestamp_ms, diverged)
        )
        for work in incoming.after:
            self._queue.put(work)

    def _report_tail(self, name: str, reason: Reason) -> None:
        db = self._node.find(name)
        own = db.position if db is not None else "nothing"
        why = "transactions that the primary never saw" if reason is Reason.AHEAD else "another history"
        text = f"this node was at {own} with {why}; they are kept in lost+found, the primary's content replaced them"
        self._node.problems.report("TailKept", text, name)

    def _beat(self) -> None:
        """A snapshot that is complete but does not add up gets a few seconds, then a new one."""
        for name, incoming in list(self._incoming.items()):
            if incoming.beats:
                incoming.beats += 1
                if incoming.beats > 3:
                    self._abandon(name)
                    raise StreamError(f"{name}: the received image does not add up")

    def _expect(self, name: str) -> _Incoming:
        incoming = self._incoming.get(name)
        if incoming is None:
            raise WireError("snapshot", name, "pages of a snapshot whose start is missing")
        return incoming

    def _abandon(self, name: str) -> None:
        incoming = self._incoming.pop(name, None)
        if incoming is not None:
            incoming.stage.close(remove=True)

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


def _add_pages(stage: Stage, frame: Frame) -> None:
    stage.add(*decode_pages(frame, stage.page_size))
