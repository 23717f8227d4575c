"""One database of one stream on the primary: what to send next, a frame at a time.

``stream_server`` asks the lanes of a stream in turn, so that a large transaction or a
snapshot of one database never holds up the others.

Rules:
    1. ``step`` gives at most one frame (``wire.CHUNK`` bytes and a little).
    2. After each LTX file the lane decides anew from positions alone: it keeps no place
       in the store that retention or compaction could pull away.
    3. A lane that is live takes the newest files from memory at once; one that is behind
       looks in an executor thread, because that may read the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from sqlitecluster.ltx import HEADER_SIZE, Header
from sqlitecluster.replication import wire
from sqlitecluster.replication.decide import Decision, Next, Ours, Reason, Send, decide
from sqlitecluster.replication.position import Position
from sqlitecluster.replication.wire import Claim, FrameType

if TYPE_CHECKING:
    from sqlitecluster.replicator.snapshot_send import SnapshotSender
    from sqlitecluster.store.database import DatabaseStore

T = TypeVar("T")

_PIN_STEP: Final = 64
_UNWIELDY_BYTES: Final = 48 << 20
_NEAR: Final = 4096
"""Transactions behind, beyond which a lane no longer expects to find the next file in memory."""


class Lane:
    """What one replica has of one database, and how it gets the rest."""

    def __init__(
        self,
        claim: Claim,
        find: Callable[[str], DatabaseStore | None],
        make_snapshot: Callable[[DatabaseStore, Reason], SnapshotSender],
        executor: Executor,
        *,
        epochs: bool = False,
    ) -> None:
        self._epoch = -1 if epochs else None
        """The epoch that the replica was told; None: it does not know what that is."""
        self.name = claim.name
        self.sent = claim.position
        """Where the replica will be when it has applied all that was sent."""
        self.acked = claim.position
        self.is_met = False
        """Whether ``sent`` is known to be of this primary's history."""
        self._find_db = find
        self._db: DatabaseStore | None = None
        self._make_snapshot = make_snapshot
        self._executor = executor
        self._resync = claim.resync
        self._partial = claim.partial
        self._frames: Iterator[bytes] | None = None
        self._after = claim.position
        self._snapshot: SnapshotSender | None = None
        self._live = False
        self._told = False
        self._pin_key = f"stream-{id(self):x}"
        self._pinned = -_PIN_STEP

    async def step(self) -> bytes | None:
        """The next frame, or None when the replica has everything for now."""
        if self._frames is not None:
            frame = next(self._frames, None)
            if frame is not None:
                return frame
            self._frames = None
            self.sent = self._after
        if self._snapshot is not None:
            frame = await self._run(self._snapshot.next_frame)
            if frame is not None:
                return frame
            self._snapshot = None
        return await self._next()

    def step_now(self, max_bytes: int) -> bytes | None:
        """The next small transaction of a live lane, made without waiting; None when there is none."""
        if not self._live or self._frames is not None or self._snapshot is not None:
            return None
        db = self._find()
        piece = db.next_after(self.sent.txid) if db is not None else None
        if db is None or piece is None or piece.blob is None or piece.size > max_bytes:
            return None
        header = Header.parse(piece.blob[:HEADER_SIZE])
        following = Next(header.min_txid, header.pre_apply)
        if decide(self.sent, Ours(db.position, db.commit), following).send is not Send.TRANSACTIONS:
            return None
        self._pin(db, self.sent.txid)
        return self._begin(_Found(header, piece.blob))

    def close(self) -> None:
        """The stream ended; free what a snapshot holds and what was pinned."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None
        db = self._find() if self._pinned >= 0 else None
        if db is not None:
            db.unpin(self._pin_key)

    def _find(self) -> DatabaseStore | None:
        if self._db is None:
            self._db = self._find_db(self.name)
        return self._db

    async def _next(self) -> bytes | None:
        db = self._find()
        ours = Ours(db.position, db.commit) if db is not None else None
        found: _Found | None = None
        if db is not None and ours is not None and self.sent.txid < ours.position.txid:
            near = self._live and ours.position.txid - self.sent.txid <= _NEAR
            found = _look(db, self.sent.txid) if near else await self._run(_look, db, self.sent.txid)
            self._live = near and found is not None
        following = None
        if found is not None:
            following = Next(found.header.min_txid, found.header.pre_apply, not found.ltx)
        decision = decide(self.sent, ours, following, resync=self._resync)
        if decision.send is Send.TRANSACTIONS and found is not None:
            self._pin(db, self.sent.txid)
            frame: bytes | None = self._begin(found)
        else:
            frame = await self._carry_out(decision, db)
        self.is_met = self.is_met or decision.send is not Send.UNKNOWN
        return frame

    def _begin(self, found: _Found) -> bytes:
        blob = found.ltx
        self._after = Position(found.header.max_txid, int.from_bytes(blob[-16:-8], "big"))
        start = 0
        partial, self._partial = self._partial, None
        if partial is not None and (partial.length, partial.file_checksum) == (len(blob), wire.file_checksum(blob)):
            start = partial.received
        if len(blob) - start <= wire.CHUNK:
            self.sent = self._after
            return next(wire.encode_tx(self.name, blob, start))
        self._frames = wire.encode_tx(self.name, blob, start)
        return next(self._frames)

    async def _carry_out(self, decision: Decision, db: DatabaseStore | None) -> bytes | None:
        if decision.send is Send.SNAPSHOT and db is not None:
            snapshot = self._make_snapshot(db, decision.reason)
            self._snapshot, self._resync, self._partial = snapshot, False, None
            self._pin(db, snapshot.start.txid)
            frame = await self._run(snapshot.next_frame)
            self.sent = snapshot.start
            return frame
        if decision.send is Send.DROP and db is not None:
            self.sent, self._resync = db.position, False
            return wire.encode_position(FrameType.DROP, self.name, db.position)
        if decision.send is Send.UNKNOWN and not self._told:
            self._told = True
            return wire.encode_position(FrameType.UNKNOWN, self.name, self.sent)
        self._live = decision.send is Send.NOTHING
        self._pin(db, self.sent.txid)
        if self._live and self._epoch is not None and db is not None and db.epoch != self._epoch:
            self._epoch = db.epoch
            return wire.encode_epoch(self.name, db.epoch, self.sent.txid)
        return None

    def _pin(self, db: DatabaseStore | None, txid: int) -> None:
        """Keep what comes after ``txid`` in the store while this stream lives."""
        if db is not None and txid - self._pinned >= _PIN_STEP:
            self._pinned = txid
            db.pin(self._pin_key, txid)

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


@dataclass(frozen=True, slots=True)
class _Found:
    """The next LTX file for a replica."""

    header: Header
    ltx: bytes
    """Empty when the file is unwieldy."""


def _look(db: DatabaseStore, txid: int) -> _Found | None:
    """The stored LTX file that holds ``txid + 1``, or None."""
    piece = db.next_after(txid)
    if piece is None:
        return None
    if piece.path is not None and piece.size > max(_UNWIELDY_BYTES, db.commit * db.page_size // 4):
        with open(piece.path, "rb") as file:
            return _Found(Header.parse(file.read(HEADER_SIZE)), b"")
    ltx = db.read(piece)
    return _Found(Header.parse(ltx[:HEADER_SIZE]), ltx) if ltx is not None else None
