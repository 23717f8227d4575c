"""``POST /stream`` on the primary: transactions of all databases to one replica.

The request body is the replica's claims, then its acknowledgements; the response is an
endless chunked body of frames (``replication.wire``), both at the same time.

Rules:
    1. Lanes are asked in turn, one frame each, so that every database moves.
    2. Nothing is queued: a frame is made when the socket takes it. A replica that does
       not read costs one socket buffer.
    3. A transaction frame is written in the same turn of the loop that learned of it.
    4. A replica that says nothing for ``SILENCE_S`` is disconnected, and one whose certificate ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sqlitecluster.errors import NotPrimary, SQLiteClusterError, StaleEpoch, StreamError, WireError
from sqlitecluster.replication import wire
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.lineage import Hello, meet
from sqlitecluster.replication.position import ZERO
from sqlitecluster.replication.wire import Claim, Frame, FrameType, Parser
from sqlitecluster.replicator import peers
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.dispatch import Committed
from sqlitecluster.replicator.lane import Lane
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.snapshot_send import Pages, SnapshotSender

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
SILENCE_S: Final = 30.0
CLAIMS_S: Final = 30.0
_WRITE_BYTES: Final = 128 * 1024
_AT_ONCE_BYTES: Final = 32 * 1024
MAX_CLAIMS: Final = 16_384
_LOOK_S: Final = 0.1
_GONE_S: Final = 5.0
"""A replica connects again within a second or two, unless it stops."""

Positions = Mapping[str, tuple[int, int, int]]
"""Name → (epoch of the newest transaction, TXID, checksum)."""


class StreamHub:
    """All replicas that are connected to this primary."""

    def __init__(
        self,
        node: NodeServices,
        hello: Callable[[], Hello],
        counters: Counters,
        executor: Executor,
        read_pages: Callable[[DatabaseStore], Pages],
    ) -> None:
        self.read_pages = read_pages
        self.node = node
        self.hello = hello
        self.counters = counters
        self.executor = executor
        self.streams: set[ReplicaStream] = set()
        self.primary = node.config.role == "primary"
        self.on_newer_epoch: Callable[[int], None] = lambda _epoch: None
        """A replica knows a newer epoch than ours: this node is not the primary any more."""
        self._counted: dict[int, ReplicaStream] = {}
        """Store id → the stream whose acknowledgements count."""
        self._closing = False
        self._acknowledged = asyncio.Event()

    def transactions(self, batch: list[Committed]) -> None:
        """Dispatcher listener: wake every stream for the databases that changed."""
        names = {entry.name for entry in batch}
        for stream in self.streams:
            stream.changed(names)

    def committed(self, names: set[str]) -> None:
        """Replicas may show more of these databases."""
        for stream in self.streams:
            stream.committed(names)

    def checkpointed(self, name: str, txid: int) -> None:
        """The log of a database was written back up to here: replicas may do the same."""
        for stream in self.streams:
            stream.checkpointed(name, txid)

    async def wait_acknowledged(self, name: str, positions: Positions, deadline: float) -> bool:
        """Until a replica has acknowledged all of these positions.

        False at the deadline (CLOCK_MONOTONIC), or when it was not connected for ``_GONE_S``: programs wait meanwhile.
        """
        asked: ReplicaStream | None = None
        connected = time.monotonic()
        while True:
            self._acknowledged.clear()
            stream = next((stream for stream in self.streams if stream.peer.name == name), None)
            if stream is not None and stream.has(positions):
                return True
            if stream is not None and stream is not asked:
                asked = stream
                stream.ask()
            now = time.monotonic()
            connected = now if stream is not None else connected
            left = min(deadline, connected + _GONE_S) - now
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_S)):
                    await self._acknowledged.wait()

    def acknowledged(self) -> None:
        """A replica acknowledged something."""
        self._acknowledged.set()

    async def shut(self) -> None:
        """This node is not the primary any more: end all streams."""
        self.primary = False
        await self._end_streams()

    async def close(self) -> None:
        """The node stops: end all streams with an END frame."""
        self._closing = True
        await self._end_streams()

    async def _end_streams(self) -> None:
        for stream in list(self.streams):
            stream.stop()
        deadline = time.monotonic() + 2
        while self.streams and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The HTTP handler."""
        if not self.primary or self._closing:
            raise NotPrimary(f"node {self.node.config.name!r} is no primary; it has no stream to give")
        parser = Parser()
        frames = _frames(request, parser)
        try:
            peer, claims = await asyncio.wait_for(_read_claims(frames), CLAIMS_S)
            peers.check_name(self.node.identity, request.transport, peer.name)
            meet(self.hello(), peer)
            self._check_epoch(peer)
        except TimeoutError as error:
            raise StreamError(f"the replica sent no positions within {CLAIMS_S:.0f} s") from error
        except ConnectionError as error:
            raise StreamError("the replica went away before it had sent its positions") from error
        except SQLiteClusterError as error:
            self.counters.refused_streams += 1
            log.warning("refused a stream to %s: %s", request.remote, error)
            raise
        if not self.primary or self._closing:
            raise NotPrimary(f"node {self.node.config.name!r} is no primary any more")
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        stream = ReplicaStream(self, peer, response, claims, request)
        self.streams.add(stream)
        self._joined(stream, claims)
        try:
            await stream.run(frames)
        finally:
            self.streams.discard(stream)
            self._left(stream)
            stream.close()
        return response

    def _joined(self, stream: ReplicaStream, claims: list[Claim]) -> None:
        """From now on its acknowledgements count."""
        quorum, peer = self.node.quorum, stream.peer
        if not quorum.holds or "quorum" not in peer.capabilities:
            return
        quorum.join(peer.node_id, peer.name, peer.zone)
        for claim in claims:
            if not claim.resync:
                quorum.acknowledged(peer.node_id, claim.name, claim.position)
        self._counted[peer.node_id] = stream

    def _left(self, stream: ReplicaStream) -> None:
        """Unless it is connected again already."""
        if self._counted.get(stream.peer.node_id) is stream:
            del self._counted[stream.peer.node_id]
            self.node.quorum.leave(stream.peer.node_id)

    def _check_epoch(self, peer: Hello) -> None:
        own = self.hello().epoch
        if peer.epoch > own:
            self.on_newer_epoch(peer.epoch)
            raise StaleEpoch(f"replica {peer.name!r} knows epoch {peer.epoch}; this primary is of epoch {own}")


class ReplicaStream:
    """One connected replica."""

    def __init__(
        self, hub: StreamHub, peer: Hello, response: web.StreamResponse, claims: list[Claim], request: web.Request
    ) -> None:
        self.peer = peer
        self.address = request.remote or ""
        self.connected_ms = time.time_ns() // 1_000_000
        self.ready = False
        self.bytes = 0
        self._hub = hub
        self._response = response
        self._wake = asyncio.Event()
        self._transport = request.transport
        self._ends_at = peers.ends_at(hub.node.identity, request.transport)
        self._idle = False
        self._stopping = False
        self._heard = time.monotonic()
        self._failure: SQLiteClusterError | None = None
        self._asked = False
        self._tells = hub.node.quorum.holds and "quorum" in peer.capabilities
        self._told: dict[str, int] = {}
        """Name → the newest TXID that the replica may show, as it was told."""
        self._untold: set[str] = set()
        self._checkpoints: dict[str, int] = {}
        self.lanes: dict[str, Lane] = {claim.name: self._lane(claim) for claim in claims}
        for name in hub.node.store.names():
            self.lanes.setdefault(name, self._lane(Claim(name, ZERO)))
        self._dirty: dict[str, None] = dict.fromkeys(self.lanes)

    def changed(self, names: set[str]) -> None:
        """Databases with new transactions."""
        for name in names:
            if name not in self.lanes:
                self.lanes[name] = self._lane(Claim(name, ZERO))
            self._dirty[name] = None
        if self._idle:
            self._send_now(names)
        self._wake.set()

    def _send_now(self, names: set[str]) -> None:
        """While the sender waits and the socket has room, write small live transactions in this
        very turn of the loop; the sender looks afterwards anyway and finds what is left."""
        transport = self._transport
        for name in names:
            if transport is None or transport.is_closing() or transport.get_write_buffer_size():
                return
            news = self._news(name)  # first: what follows may need the file that it makes visible
            frame = self.lanes[name].step_now(_AT_ONCE_BYTES)
            if frame is not None:
                self._hub.counters.sent("TX", len(frame))
                self._write_at_once(news + frame + self._news(name))
            elif news:
                self._write_at_once(news)

    def committed(self, names: set[str]) -> None:
        """Tell the replica what it may show, unless a transaction that was sent meanwhile has told it."""
        if not self._tells:
            return
        self._untold.update(names)
        transport = self._transport
        if not self._idle or transport is None or transport.is_closing() or transport.get_write_buffer_size():
            self._wake.set()
            return
        if news := b"".join([self._news(name) for name in names]):
            self._write_at_once(news)

    def checkpointed(self, name: str, txid: int) -> None:
        """Tell the replica with the next frames, or the next heartbeat: nobody is in a hurry."""
        if "checkpoints" in self.peer.capabilities:
            self._checkpoints[name] = txid

    async def _tell_checkpoints(self) -> None:
        """Of databases whose transactions were sent that far."""
        for name, txid in list(self._checkpoints.items()):
            lane = self.lanes.get(name)
            if lane is not None and lane.sent.txid >= txid:
                del self._checkpoints[name]
                await self._write(wire.encode_txid(FrameType.CHECKPOINT, name, txid), "CHECKPOINT")

    def _news(self, name: str) -> bytes:
        """A COMMITTED frame, if the replica does not know it yet.

        Only once it was sent all of it: a transaction and the one that takes it back are shown together. And not
        before its own position was looked at: a transaction of another history with this TXID was never committed.
        """
        if not self._tells:
            return b""
        self._untold.discard(name)
        txid, lane = self._hub.node.quorum.committed(name), self.lanes.get(name)
        if txid <= self._told.get(name, 0) or lane is None or not lane.is_met or lane.sent.txid < txid:
            return b""
        self._told[name] = txid
        return wire.encode_txid(FrameType.COMMITTED, name, txid)

    def _write_at_once(self, frame: bytes) -> None:
        """Drive the write by hand: with an empty buffer and a small frame it cannot wait."""
        write = self._send(frame)
        try:
            write.send(None)
        except StopIteration:
            return
        except (ConnectionError, RuntimeError) as error:
            self._failure = StreamError(str(error) or "connection lost")
            return
        write.close()
        self._failure = StreamError("a write waited although the socket had room")

    def has(self, positions: Positions) -> bool:
        """Whether the replica has acknowledged all of these."""
        for name, (_epoch, txid, checksum) in positions.items():
            lane = self.lanes.get(name)
            if lane is None or lane.acked.txid < txid or (lane.acked.txid == txid and lane.acked.checksum != checksum):
                return False
        return True

    def ask(self) -> None:
        """Have the replica acknowledge as soon as it has all that is sent until then."""
        self._asked = "epochs" in self.peer.capabilities
        self._wake.set()

    def stop(self) -> None:
        """End the stream cleanly."""
        self._stopping = True
        self._wake.set()

    def close(self) -> None:
        """Free what lanes hold."""
        for lane in self.lanes.values():
            lane.close()

    async def run(self, frames: AsyncIterator[Frame]) -> None:
        """Send until the replica goes away or the node stops."""
        log.info("replica %s (%s) connected with %d databases", self.peer.name, self.address, len(self.lanes))
        reader = asyncio.create_task(self._read_acks(frames))
        why = "closed"
        try:
            await self._write(wire.encode_json(FrameType.HELLO, self._hub.hello().to_wire()), "HELLO")
            await self._send_all()
        except (ConnectionError, RuntimeError) as error:
            why = str(error) or "connection lost"
        except SQLiteClusterError as error:
            why = str(error)
            with contextlib.suppress(ConnectionError):
                await self._write(wire.encode_json(FrameType.ERROR, dict(error.to_wire())), "ERROR")
        finally:
            reader.cancel()
            log.info("replica %s (%s) disconnected: %s", self.peer.name, self.address, why)

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        beat = loop.call_later(HEARTBEAT_S, self._wake.set)
        next_beat = time.monotonic()
        try:
            while not self._stopping:
                self._wake.clear()
                more = await self._round()
                if not more and not self.ready:
                    self.ready = True
                    await self._write(wire.encode(FrameType.READY), "READY")
                if not more and self._asked:
                    self._asked = False
                    await self._write(wire.encode(FrameType.SYNC), "SYNC")
                now = time.monotonic()
                if self._checkpoints:
                    await self._tell_checkpoints()
                if now >= next_beat:
                    await self._write(wire.encode_heartbeat(time.time_ns() // 1_000_000), "HEARTBEAT")
                    next_beat = now + HEARTBEAT_S
                    beat.cancel()
                    beat = loop.call_later(HEARTBEAT_S, self._wake.set)
                self._check(now)
                if not more:
                    self._idle = True
                    await self._wake.wait()
                    self._idle = False
            await self._write(wire.encode(FrameType.END), "END")
        finally:
            beat.cancel()

    async def _round(self) -> bool:
        """One frame of every database that has something; False when nothing is left."""
        parts: list[bytes] = []
        size = 0
        names, self._dirty = self._dirty, {}
        untold, self._untold = self._untold, set()
        parts += [self._news(name) for name in untold]
        for name in names:
            lane = self.lanes[name]
            parts.append(self._news(name))
            frame = await lane.step()
            if frame is None:
                parts.append(self._news(name))
                continue
            self._dirty[name] = None
            parts.append(frame)
            size += len(frame)
            self._hub.counters.sent(FrameType(frame[0]).name, len(frame))
            if size >= _WRITE_BYTES:
                await self._send(b"".join(parts))
                parts, size = [], 0
        if rest := b"".join(parts):
            await self._send(rest)
        return bool(self._dirty)

    async def _write(self, frame: bytes, kind: str) -> None:
        self._hub.counters.sent(kind, len(frame))
        await self._send(frame)

    async def _send(self, data: bytes) -> None:  # a plain coroutine: see _write_at_once
        self.bytes += len(data)
        await self._response.write(data)

    def _check(self, now: float) -> None:
        if self._failure is not None:
            raise self._failure
        if time.time() >= self._ends_at:
            raise StreamError("a certificate of this connection ended")
        if now - self._heard > SILENCE_S:
            raise StreamError(f"the replica said nothing for {SILENCE_S:.0f} s")

    async def _read_acks(self, frames: AsyncIterator[Frame]) -> None:
        try:
            async for frame in frames:
                self._heard = time.monotonic()
                if frame.type is FrameType.ACK:
                    lane = self.lanes.get(frame.name)
                    if lane is not None:
                        lane.acked = wire.decode_position(frame)
                        if self._tells:
                            self._hub.node.quorum.acknowledged(self.peer.node_id, frame.name, lane.acked)
                        self._hub.acknowledged()
                elif frame.type is not FrameType.HEARTBEAT:
                    raise WireError("type", frame.type.name, "not what a replica sends in a stream")
            self._failure = StreamError("the replica ended the stream")
        except SQLiteClusterError as error:
            self._failure = error
        except ConnectionError:
            self._failure = StreamError("the replica went away")
        self._wake.set()

    def _lane(self, claim: Claim) -> Lane:
        hub = self._hub
        return Lane(claim, hub.node.find, self._snapshot, hub.executor, epochs="epochs" in self.peer.capabilities)

    def _snapshot(self, db: DatabaseStore, reason: Reason) -> SnapshotSender:
        log.info("replica %s: snapshot of %s at %s (%s)", self.peer.name, db.name, db.position, reason.name.lower())
        self._hub.counters.snapshots_sent += 1
        return SnapshotSender(db, reason, self._hub.read_pages)


async def _frames(request: web.Request, parser: Parser) -> AsyncIterator[Frame]:
    async for data in request.content.iter_any():
        for frame in parser.feed(data):
            yield frame


async def _read_claims(frames: AsyncIterator[Frame]) -> tuple[Hello, list[Claim]]:
    hello: Hello | None = None
    claims: list[Claim] = []
    async for frame in frames:
        if frame.type is FrameType.HELLO:
            hello = Hello.from_wire(wire.decode_json(frame))
        elif frame.type is FrameType.POSITION and len(claims) < MAX_CLAIMS:
            claims.append(wire.decode_claim(frame))
        elif frame.type is FrameType.POSITIONS_END and hello is not None:
            return hello, claims
        else:
            raise WireError("type", frame.type.name, "not what the start of a stream may hold")
    raise StreamError("the replica ended the stream before its positions were complete")
