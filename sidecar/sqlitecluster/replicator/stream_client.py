"""The replica's end of the stream: connect, claim, receive, acknowledge, reconnect.

One asyncio task for the node's life. Frames go to ``receive.Receiver``; work goes to the
apply thread through a ``WorkQueue``.

Rules:
    1. Any end of a stream is followed by another try after 1 s and some jitter; a peer
       of another cluster, or this node itself, is asked again only every 15 s.
    2. Silence of 5 s (heartbeats come each second) ends a stream.
    3. Positions are claimed when the apply thread has nothing left to do, so that they
       are what the database really holds.
    4. While the apply thread has too much to do, the socket is not read.
    5. A stream is made anew before the certificates that it began with end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

from sqlitecluster.errors import ClusterMismatch, SQLiteClusterError, WireError, from_wire
from sqlitecluster.replication import wire
from sqlitecluster.replication.lineage import Hello, check_epoch, meet
from sqlitecluster.replication.position import ZERO
from sqlitecluster.replication.wire import Claim, Frame, FrameType
from sqlitecluster.replicator import peers
from sqlitecluster.replicator.connection import PrimaryConnection
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.lag import LagMeter
from sqlitecluster.replicator.receive import Receiver
from sqlitecluster.replicator.services import NodeServices, PrimaryAddress
from sqlitecluster.replicator.work import Marker, WorkQueue
from sqlitecluster.shared import NodeWord

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
FIRST_RETRY_S: Final = 0.2
IMPATIENT_S: Final = 5.0
"""A replica often starts together with its primary: its first tries follow each other sooner."""
REFUSED_RETRY_S: Final = 15.0
READ_S: Final = 5.0
CONNECT_S: Final = 5.0
ACK_S: Final = 0.5
DRAINED_S: Final = 5.0
_STREAM_CODES: Final = ("StreamBroken", "ClusterMismatch", "NoPrimary", "InvalidFrame", "StaleEpoch", "NotPrimary")


class StreamClient:
    """Follows one primary."""

    def __init__(
        self,
        node: NodeServices,
        queue: WorkQueue,
        receiver: Receiver,
        lag: LagMeter,
        hello: Callable[[], Hello],
        counters: Counters,
        epochs: EpochFile,
    ) -> None:
        self._epochs = epochs
        self._node = node
        self._queue = queue
        self._receiver = receiver
        self._lag = lag
        self._hello = hello
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._connection: PrimaryConnection | None = None
        self._acked: dict[str, int] = {}
        self._unacknowledged: dict[str, None] = {}
        self._is_acknowledging = False
        self._thread = threading.get_ident()
        self._hurry = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None
        self._renew_at = peers.NEVER
        self._is_cut = False
        config = node.config
        self._address = PrimaryAddress(config.primary_name, config.primary_url) if config.primary_url else None
        self.primary: Hello | None = None
        self.connected = False
        self.on_primary: Callable[[], None] = lambda: None
        self.on_sync: Callable[[], None] = lambda: None
        receiver.on_ready = self._ready
        receiver.on_heartbeat = self._heartbeat
        receiver.on_sync = self._sync

    def room(self) -> None:
        """Apply thread: there is room in the queue again."""
        self._loop.call_soon_threadsafe(self._go_on)

    def resync(self, name: str) -> None:
        """Apply thread: this database's image cannot be continued; claim it anew."""
        self._loop.call_soon_threadsafe(self._resync, name, True)

    def reclaim(self, name: str) -> None:
        """Apply thread: a transaction did not fit; connect again with real positions."""
        self._loop.call_soon_threadsafe(self._resync, name, False)

    def logged(self, name: str) -> None:
        """Any thread: a transaction that waits for acknowledgements is in the log."""
        self._unacknowledged[name] = None
        if not self._is_acknowledging:
            self._is_acknowledging = True
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self._acknowledge_logged)
            else:
                self._loop.call_soon_threadsafe(self._acknowledge_logged)

    def _acknowledge_logged(self) -> None:
        """Make durable what came in one go, then say so."""
        self._is_acknowledging = False
        names, self._unacknowledged = self._unacknowledged, {}
        connection = self._connection
        if connection is None or not self.connected:
            return
        positions = [(name, db.position) for name in names if (db := self._node.find(name)) is not None]
        if not self._is_durable():
            return
        for name, position in positions:
            self._acked[name] = position.txid
        connection.send(b"".join([wire.encode_position(FrameType.ACK, name, at) for name, at in positions]))

    def _is_durable(self) -> bool:
        """Sync the log; what cannot be made durable is not acknowledged."""
        try:
            self._node.store.log.sync()
        except (SQLiteClusterError, OSError) as error:
            self._node.problems.report(
                "StoreError", f"the log cannot be made durable, nothing is acknowledged: {error}"
            )
            return False
        return True

    def again(self) -> None:
        """Event loop: end the stream and connect anew, now."""
        self._reconnect()
        self._hurry.set()

    @property
    def address(self) -> PrimaryAddress | None:
        """Whom this replica follows; None: nobody at the moment."""
        return self._address

    def follow(self, address: PrimaryAddress | None) -> None:
        """Event loop: follow somebody else, or nobody; what an earlier primary still sends is not taken."""
        self._address = address
        self._lag.restart()
        self.cut()

    def cut(self) -> None:
        """Event loop: take nothing more from the present stream."""
        self.connected, self._is_cut = False, True
        self.again()

    async def drained(self, timeout_s: float) -> bool:
        """Until all that was received is applied; False when something stays in the way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._drained()
                return True
        return False

    async def run(self) -> None:
        """Follow the primary until cancelled."""
        impatient = time.monotonic() + IMPATIENT_S
        while True:
            self._hurry.clear()
            if self._address is None:
                await self._hurry.wait()
                continue
            pause = await self._attempt(self._address)
            if not self._counters.connects and time.monotonic() < impatient:
                pause = min(pause, FIRST_RETRY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(1.0, 1.3)):
                    await self._hurry.wait()

    async def _attempt(self, address: PrimaryAddress) -> float:
        """Follow until the stream ends; returns the seconds until the next try."""
        report = self._node.problems.report
        try:
            # A database that waits for a lock holds up the others only so long: what is sent again is skipped.
            await self.drained(DRAINED_S)
            await self._follow(address)
        except ClusterMismatch as error:
            report(error.code, error.message)
            return REFUSED_RETRY_S
        except Reclaim:
            log.info("claiming positions anew")
        except SQLiteClusterError as error:
            report(error.code, error.message)
        except (OSError, TimeoutError) as error:
            report("NoPrimary", f"no primary answers at {address.url}: {_text(error)}")
        finally:
            self._ended()
        return RETRY_S

    async def _follow(self, address: PrimaryAddress) -> None:
        url = urlsplit(address.url)
        host, port = url.hostname or "", url.port or 20202
        identity = self._node.identity
        tls = peers.dial(identity, address.name, address.server_name, host)
        async with asyncio.timeout(CONNECT_S):
            transport, connection = await self._loop.create_connection(
                lambda: PrimaryConnection("/stream", url.netloc, self._take, self._count, READ_S), host, port, **tls
            )
        if address != self._address:  # told to follow somebody else while this one was dialled
            connection.close()
            raise Reclaim
        self._connection, self._transport, self._is_cut = connection, transport, False
        self._renew_at = peers.renew_at(identity, transport)
        acks = asyncio.create_task(self._send_acks(connection))
        try:
            for part in self._claims():
                connection.send(part)
            while True:
                frame = await connection.next_frame()
                if self.connected:
                    await self._receiver.feed(frame)
                elif not self._is_cut:
                    self._met(frame, address)
                connection.done()
                if self._queue.full:
                    connection.hold(True)
        finally:
            self._connection = None
            acks.cancel()
            connection.close()

    def _take(self, frame: Frame) -> bool:
        """Whole transactions and heartbeats, in the turn of the loop in which they arrive."""
        if not self.connected or not self._receiver.feed_now(frame):
            return False
        if self._queue.full and self._connection is not None:
            self._connection.hold(True)
        return True

    def _count(self, size: int) -> None:
        self._counters.bytes_received += size

    def _met(self, frame: Frame, address: PrimaryAddress) -> None:
        if frame.type is FrameType.ERROR:
            error = wire.decode_json(frame)
            raise from_wire(str(error.get("code", "")), str(error.get("message", "")))
        if frame.type is not FrameType.HELLO:
            raise WireError("type", frame.type.name, "a stream begins with HELLO")
        peer = Hello.from_wire(wire.decode_json(frame))
        peers.check_name(self._node.identity, self._transport, peer.name)
        adopt = meet(self._hello(), peer)
        state = self._node.state
        self._epochs.note(check_epoch(self._epochs.value, peer))
        state.node[NodeWord.EPOCH] = self._epochs.value
        if adopt is not None:
            log.info("joining cluster %s of primary %s", adopt, peer.name)
            self._node.store.set_cluster_id(adopt)
        self._receiver.holds = peer.holds
        changed = self.primary != peer
        self.primary, self.connected = peer, True
        state.set_primary_name(address.name or peer.name)
        for code in _STREAM_CODES:
            self._node.problems.clear(code)
        self._lag.restart()
        log.info("following primary %s", peer.name)
        if changed:
            self.on_primary()

    def _claims(self) -> Iterator[bytes]:
        """What this replica has, and what it received in part."""
        yield wire.encode_json(FrameType.HELLO, self._hello().to_wire())
        self._node.store.log.sync()  # what is claimed counts as acknowledged; a failure ends this try
        partials = self._receiver.assembler.partials()
        self._acked = {}
        for name in sorted({*self._node.store.names(), *partials}):
            db = self._node.find(name)
            position = db.position if db is not None else ZERO
            resync = name in self._receiver.resync
            partial = None if resync else partials.get(name)
            if partial is not None or not position.is_zero:
                self._acked[name] = position.txid
                yield wire.encode_claim(Claim(name, position, resync, partial))
        yield wire.encode(FrameType.POSITIONS_END)

    async def _send_acks(self, connection: PrimaryConnection) -> None:
        while True:
            await asyncio.sleep(ACK_S)
            connection.send(self._acks())
            if time.time() >= self._renew_at:
                log.info("connecting anew before a certificate ends")
                self._renew_at = peers.NEVER
                self.again()

    def _acks(self) -> bytes:
        parts = [wire.encode_heartbeat(time.time_ns() // 1_000_000)]
        found = ((name, self._node.find(name)) for name in self._node.store.names())
        positions = [(name, db.position) for name, db in found if db is not None]
        news = [(name, at) for name, at in positions if self._acked.get(name) != at.txid]
        if news and self._receiver.holds and not self._is_durable():
            news = []
        for name, position in news:
            self._acked[name] = position.txid
            parts.append(wire.encode_position(FrameType.ACK, name, position))
        return b"".join(parts)

    def _ready(self) -> None:
        self._queue.put(Marker(self._later(self._in_sync)))

    def _sync(self) -> None:
        self._queue.put(Marker(self._later(self._acknowledge)))

    def _acknowledge(self) -> None:
        if self._connection is not None:
            self._connection.send(self._acks())

    def _in_sync(self) -> None:
        self._lag.in_sync = True
        self.on_sync()

    def _heartbeat(self, primary_ms: int) -> None:
        self._lag.heartbeat(primary_ms, time.time_ns() // 1_000_000)
        self._queue.put(Marker(lambda: self._lag.visible(primary_ms, time.time_ns() // 1_000_000)))

    def _resync(self, name: str, snapshot: bool) -> None:
        if snapshot:
            self._receiver.resync.add(name)
        self._receiver.assembler.forget(name)
        self._reconnect()

    def _reconnect(self) -> None:
        if self._connection is not None:
            self._connection.wake(Reclaim())

    def _go_on(self) -> None:
        if self._connection is not None:
            self._connection.hold(False)

    def _later(self, call: Callable[[], None]) -> Callable[[], None]:
        """The same call, made in the event loop, for another thread."""

        def schedule() -> None:
            self._loop.call_soon_threadsafe(call)

        return schedule

    def _ended(self) -> None:
        self.connected = False
        self._receiver.broken()

    async def _drained(self) -> None:
        """Wait until the apply thread has done all it was given."""
        done = asyncio.Event()
        self._queue.put(Marker(self._later(done.set)))
        await done.wait()


class Reclaim(Exception):
    """Ends a stream on purpose: the positions claimed at its start are not right any more."""


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
