"""A stream between two simulated nodes: bytes with delay, in order; lanes, parser, assembly of production.

``Server`` is the primary's end (what ``stream_server`` does, without sockets), ``Client``
the replica's (``stream_client`` and ``receive``). Replaced: HTTP, executors, the sender's
batching. What a frame is, what is sent when, and what a claim is answered with is production code.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlitecluster.errors import Diverged, SQLiteClusterError
from sqlitecluster.replication import lineage, wire
from sqlitecluster.replication.assembly import Assembler
from sqlitecluster.replication.decide import Reason
from sqlitecluster.replication.pages import decode_pages
from sqlitecluster.replication.position import ZERO
from sqlitecluster.replication.wire import Claim, Flag, Frame, FrameType, Parser
from sqlitecluster.replicator.lane import Lane
from sqlitecluster.replicator.snapshot_send import SnapshotSender
from sqlitecluster.replicator.stage import Stage

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore
    from support.simulation.node import Node

T = TypeVar("T")
NAME = "app.db"
SILENCE_S = 5.0


class SimLane(Lane):
    """A production lane whose slow work is done at once."""

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return call(*args)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("a lane waited")


class Pipe:
    """One direction: bytes arrive in order, late, or not at all."""

    def __init__(self, stream: Stream, source: Node, target: Node, arrived: Callable[[bytes], None]) -> None:
        self._stream, self._source, self._target, self._arrived = stream, source, target, arrived
        self._last = 0.0
        self._is_stuck = False

    def send(self, data: bytes) -> None:
        """Bytes on their way."""
        world = self._source.world
        ready = world.network.arrival(self._source, self._target)
        if self._is_stuck or ready is None or ready > world.time + SILENCE_S:
            if not self._is_stuck:
                self._is_stuck = True  # what follows lost bytes never overtakes them
                world.after(SILENCE_S, self._stream.end)
            return
        self._last = max(self._last, ready)
        world.at(self._last, lambda: self._deliver(data))

    def _deliver(self, data: bytes) -> None:
        target = self._target
        if not self._stream.alive:
            return
        if target.world.time < target.paused_until:
            target.world.at(target.paused_until, lambda: self._deliver(data))
            return
        target.enter(lambda: self._arrived(data))


class Stream:
    """One connection of a replica to a primary."""

    def __init__(self, server: Node, client: Node) -> None:
        self.alive = True
        self.server_node, self.client_node = server, client
        self.server = Server(self, server, client)
        self.client = Client(self, client, server)
        self.down = Pipe(self, server, client, self.client.feed)
        self.up = Pipe(self, client, server, self.server.feed)

    def end(self) -> None:
        """Both ends are gone."""
        if not self.alive:
            return
        self.alive = False
        self.server.close()
        self.client.close()


class Server:
    """What the primary does for one replica."""

    def __init__(self, stream: Stream, node: Node, replica: Node) -> None:
        self._stream, self.node, self.replica = stream, node, replica
        self._parser = Parser()
        self._lane: SimLane | None = None
        self._committed_sent = 0
        self.peer: lineage.Hello | None = None

    @property
    def lane(self) -> SimLane | None:
        """None before the replica made its claims."""
        return self._lane

    def feed(self, data: bytes) -> None:
        """Bytes of the replica."""
        try:
            for frame in self._parser.feed(data):
                self._take(frame)
        except SQLiteClusterError as error:
            self.node.world.say(f"{self.node.name}: stream of {self.replica.name}: {error.code}")
            self._stream.end()

    def _take(self, frame: Frame) -> None:
        if frame.type is FrameType.HELLO:
            self._meet(lineage.Hello.from_wire(wire.decode_json(frame)))
        elif frame.type is FrameType.POSITION:
            self._lane = self._make(wire.decode_claim(frame))
        elif frame.type is FrameType.POSITIONS_END:
            self._lane = self._lane or self._make(Claim(NAME, ZERO))
            self._stream.down.send(wire.encode_json(FrameType.HELLO, self.node.hello().to_wire()))
            self.node.primary.joined(self)
            self.pump()
        elif frame.type is FrameType.ACK and self._lane is not None:
            self._lane.acked = wire.decode_position(frame)
            self.node.primary.acknowledged(self)

    def _meet(self, peer: lineage.Hello) -> None:
        """As ``stream_server`` does before anything else."""
        self.peer = peer
        if peer.epoch > self.node.hello().epoch:
            self.node.told_newer_epoch(peer.epoch)
            self._stream.end()
            return
        lineage.meet(self.node.hello(), peer)

    def _make(self, claim: Claim) -> SimLane:
        return SimLane(claim, lambda _name: self.node.database, self._snapshot, cast(Executor, None), epochs=True)

    def _snapshot(self, db: DatabaseStore, reason: Reason) -> SnapshotSender:
        self.node.world.say(f"{self.node.name}: snapshot for {self.replica.name}, {reason.name}")
        return SnapshotSender(db, reason, lambda _db: [list(enumerate(self.node.primary.captured_pages(), 1))])

    def pump(self) -> None:
        """Everything that the replica has not got."""
        while self._stream.alive and self._lane is not None:
            frame = at_once(self._lane.step())
            if frame is None:
                break
            self._stream.down.send(frame)
        self.tell_committed()

    def tell_committed(self) -> None:
        """What the replica may show, once it was sent all of it."""
        committed = self.node.primary.committed_to
        if self._lane is not None and committed > self._committed_sent and self._lane.sent.txid >= committed:
            self._committed_sent = committed
            self._stream.down.send(wire.encode_epoch(f"{NAME}.committed", 0, committed))

    def close(self) -> None:
        """The stream ended."""
        if self._lane is not None and self.node.alive:
            self._lane.close()
        self.node.streams.pop(self._stream, None)
        if self.node.alive and self.node.primary is not None:
            self.node.primary.left(self)


class Client:
    """What the replica does with its stream."""

    def __init__(self, stream: Stream, node: Node, primary: Node) -> None:
        self._stream, self.node, self.primary = stream, node, primary
        self._parser = Parser()
        self._assembler = Assembler()
        self._stage: Stage | None = None
        self._reason = Reason.MISSING
        self._target: int | None = None
        self.epoch = -1
        """Of the primary, once it has said so."""

    def start(self) -> None:
        """Say who we are and what we have."""
        node = self.node
        frames = wire.encode_json(FrameType.HELLO, node.hello().to_wire())
        position = node.database.position
        if not position.is_zero:
            frames += wire.encode_claim(Claim(NAME, position, node.wants_snapshot or node.resync))
        self._stream.up.send(frames + wire.encode(FrameType.POSITIONS_END))

    def feed(self, data: bytes) -> None:
        """Bytes of the primary."""
        try:
            for frame in self._parser.feed(data):
                if not self._stream.alive:
                    return
                self._take(frame)
        except SQLiteClusterError as error:
            self.node.world.say(f"{self.node.name}: stream from {self.primary.name}: {error.code} {error.message}")
            self._stream.end()

    def _take(self, frame: Frame) -> None:
        node = self.node
        if frame.type is FrameType.HELLO:
            hello = lineage.Hello.from_wire(wire.decode_json(frame))
            lineage.meet(node.hello(), hello)
            node.follow_epoch(lineage.check_epoch(node.epochs.value, hello))
            self.epoch = hello.epoch
            if not node.database.position.is_zero:
                node.later(node.world.sync_delay(), node.replica.acknowledge)
        elif frame.type is FrameType.TX:
            ltx = self._assembler.feed(frame)
            if ltx is not None:
                self._transaction(ltx)
        elif frame.type is FrameType.EPOCH and frame.name.endswith(".committed"):
            node.replica.committed(wire.decode_epoch(frame)[1])
        elif frame.type is FrameType.EPOCH:
            epoch, txid = wire.decode_epoch(frame)
            if self._stage is None and node.database.position.txid >= txid:
                node.database.set_epoch(epoch)
        elif frame.type is FrameType.UNKNOWN:
            node.world.say(f"{node.name}: {self.primary.name} has no such database")
        else:
            self._snapshot(frame)

    def _transaction(self, ltx: bytes) -> None:
        self.node.world.oracle.accepted(self.node, self.epoch)
        if self._stage is None:
            self.node.replica.take(ltx, self.epoch)
            return
        self._stage.apply(ltx)
        self._finish()

    def _snapshot(self, frame: Frame) -> None:
        if frame.type is FrameType.SNAPSHOT_BEGIN:
            info = wire.decode_snapshot(frame)
            self._drop_stage()
            self._reason, self._target = Reason(info.reason), None
            path: Path = self.node.folder.parent.parent / "staging"
            self._stage = Stage(path, info.page_size, info.pages, info.position)
        elif self._stage is not None and frame.type is FrameType.SNAPSHOT_PAGES:
            self._stage.add(*decode_pages(frame, self._stage.page_size))
        elif self._stage is not None and frame.type is FrameType.SNAPSHOT_END:
            info = wire.decode_snapshot(frame)
            self._target = info.position.txid
            if info.position == self._stage.position:
                self._stage.pages, self._stage.timestamp_ms = info.pages, info.timestamp_ms
            self._finish()

    def _finish(self) -> None:
        stage = self._stage
        if stage is None or self._target is None or stage.position.txid < self._target:
            return
        try:
            stage.finish(sync=False)
        except Diverged:
            return
        self._stage = None
        stage.close(remove=False)
        self.node.replica.install(stage, self._reason)

    def _drop_stage(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.close(remove=True)

    def close(self) -> None:
        """The stream ended."""
        self._drop_stage()
        self.node.stream_ended(self._stream)


__all__ = ["NAME", "Client", "Flag", "Server", "SimLane", "Stream"]
