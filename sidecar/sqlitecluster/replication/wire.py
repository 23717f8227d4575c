"""Frames of a stream between two nodes: encoding and an incremental parser.

One layout in both directions, big-endian:

    u8 type   u8 flags   u16 name bytes   u32 payload bytes   name (UTF-8)   payload

The client sends POSITION frames and POSITIONS_END, later ACKs. The server sends HELLO,
then TX, SNAPSHOT_*, DROP and UNKNOWN frames of many databases interleaved, READY once
the first full set was sent, HEARTBEATs, and END or ERROR at the end.

Rules:
    1. Every length is checked when the eight header bytes are there, before anything is
       kept for it: the parser never holds more than one frame and one input chunk.
    2. A transaction larger than ``CHUNK`` travels in several TX frames (FIRST … LAST), so
       that databases share the stream and a broken one resumes inside (``assembly``).
    3. Unknown types and flags are errors: both ends speak ``PROTOCOL`` or nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final

from sqlitecluster.errors import LimitError, WireError
from sqlitecluster.replication.position import Position
from sqlitecluster.units import valid_database_name

PROTOCOL: Final = 1
"""The newest protocol of this version."""
OLDEST_PROTOCOL: Final = 1
"""The oldest that it still speaks: at least the newest one of the version before."""
CHUNK: Final = 256 * 1024
"""Payload bytes of one TX or SNAPSHOT_PAGES frame, at most (a page more for the latter)."""
MAX_PAYLOAD: Final = CHUNK + 128 * 1024
MAX_NAME: Final = 1016
MAX_JSON: Final = 16 * 1024

_HEADER: Final = struct.Struct(">BBHI")
_POSITION: Final = struct.Struct(">QQ")
_PARTIAL: Final = struct.Struct(">QQQ")
_TX_BEGIN: Final = struct.Struct(">QQQ")
_U64: Final = struct.Struct(">Q")
_SNAPSHOT: Final = struct.Struct(">IIQQQB")
HEADER_BYTES: Final = _HEADER.size


class FrameType(IntEnum):
    """What a frame carries."""

    HELLO = 1
    TX = 2
    SNAPSHOT_BEGIN = 3
    SNAPSHOT_PAGES = 4
    SNAPSHOT_END = 5
    DROP = 6
    UNKNOWN = 7
    READY = 8
    HEARTBEAT = 9
    ERROR = 10
    END = 11
    POSITION = 12
    POSITIONS_END = 13
    ACK = 14
    EPOCH = 15
    """The database's newest transaction is of this epoch (capability ``epochs``)."""
    SYNC = 16
    """Acknowledge what you have, now (capability ``epochs``)."""
    COMMITTED = 17
    """Everything up to this transaction may be shown (capability ``quorum``)."""
    CHECKPOINT = 18
    """The primary wrote its log back up to this transaction (capability ``checkpoints``)."""


class Flag(IntFlag):
    """Flags of TX (FIRST, LAST), SNAPSHOT_PAGES (LZ4) and POSITION (RESYNC) frames."""

    NONE = 0
    FIRST = 1
    LAST = 2
    LZ4 = 4
    RESYNC = 8


_TYPES: Final = frozenset(int(t) for t in FrameType)
_ALL_FLAGS: Final = int(Flag.FIRST | Flag.LAST | Flag.LZ4 | Flag.RESYNC)
_NAMED: Final = frozenset(
    {
        FrameType.TX,
        FrameType.SNAPSHOT_BEGIN,
        FrameType.SNAPSHOT_PAGES,
        FrameType.SNAPSHOT_END,
        FrameType.DROP,
        FrameType.UNKNOWN,
        FrameType.POSITION,
        FrameType.ACK,
        FrameType.EPOCH,
        FrameType.COMMITTED,
        FrameType.CHECKPOINT,
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One parsed frame; ``name`` is empty for frames of the whole node."""

    type: FrameType
    flags: int
    name: str
    payload: bytes


def encode(kind: FrameType, name: str = "", payload: bytes | memoryview = b"", flags: int = 0) -> bytes:
    """One frame as bytes.

    Raises:
        LimitError: name or payload is longer than a receiver accepts.
    """
    raw = name.encode()
    if len(raw) > MAX_NAME or len(payload) > MAX_PAYLOAD:
        raise LimitError(f"a frame with a name of {len(raw)} and a payload of {len(payload)} bytes is too long")
    return b"".join((_HEADER.pack(kind, flags, len(raw), len(payload)), raw, payload))


class Parser:
    """Feed it bytes as they come; it gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._names: dict[bytes, str] = {}

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not complete; 0 at a frame boundary."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames completed by ``data``; exhaust the iterator before the next call.

        Raises:
            WireError: an unknown type or flag, or an illegal name.
            LimitError: a length beyond the limits.
        """
        if self._buffer:
            self._buffer += data
            data = bytes(self._buffer)
            self._buffer.clear()
        view = memoryview(data)
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES:
            kind, flags, name_length, length = self._header(view, at)
            body = at + HEADER_BYTES
            if end - body < name_length + length:
                break
            name = self._name(kind, bytes(view[body : body + name_length]))
            at = body + name_length + length
            yield Frame(kind, flags, name, bytes(view[body + name_length : at]))
        if at < end:
            self._buffer += view[at:]

    def _header(self, view: memoryview, at: int) -> tuple[FrameType, int, int, int]:
        kind, flags, name_length, length = _HEADER.unpack_from(view, at)
        if kind not in _TYPES:
            raise WireError("type", kind, "no known frame type")
        if flags & ~_ALL_FLAGS:
            raise WireError("flags", flags, "flags that are not known")
        if name_length > MAX_NAME:
            raise LimitError(f"a frame announces a name of {name_length} bytes, at most {MAX_NAME} are accepted")
        if length > MAX_PAYLOAD:
            raise LimitError(f"a frame announces {length} bytes, at most {MAX_PAYLOAD} are accepted")
        return FrameType(kind), flags, name_length, length

    def _name(self, kind: FrameType, raw: bytes) -> str:
        if (kind in _NAMED) != bool(raw):
            raise WireError("name", raw[:64], "a name where none belongs, or none where one belongs")
        if not raw:
            return ""
        known = self._names.get(raw)
        if known is None:
            known = raw.decode("utf-8", "surrogateescape")  # which no legal name has
            if not valid_database_name(known):
                raise WireError("name", known[:64], "not a database name")
            if len(self._names) < 8192:
                self._names[raw] = known
        return known


# --- payloads -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Partial:
    """A transaction that was received in part before the stream broke."""

    length: int
    """Bytes of the whole LTX file."""
    file_checksum: int
    """Its trailer's checksum; with the length it names the file."""
    received: int
    """Bytes that need not be sent again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a replica says about one database when it connects."""

    name: str
    position: Position
    resync: bool = False
    """It wants a snapshot whatever its position says (its image is not what it should be)."""
    partial: Partial | None = None


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """The head of a snapshot; the same values at its end say where increments must reach."""

    page_size: int
    pages: int
    position: Position
    timestamp_ms: int
    reason: int
    """One of ``decide.Reason``."""


def encode_claim(claim: Claim) -> bytes:
    """A POSITION frame."""
    payload = _POSITION.pack(claim.position.txid, claim.position.checksum)
    if claim.partial is not None:
        payload += _PARTIAL.pack(claim.partial.length, claim.partial.file_checksum, claim.partial.received)
    return encode(FrameType.POSITION, claim.name, payload, Flag.RESYNC if claim.resync else 0)


def decode_claim(frame: Frame) -> Claim:
    """The inverse of ``encode_claim``."""
    if len(frame.payload) not in (_POSITION.size, _POSITION.size + _PARTIAL.size):
        raise WireError("payload", len(frame.payload), "a position has 16 or 40 bytes")
    position = Position(*_POSITION.unpack_from(frame.payload))
    partial = None
    if len(frame.payload) > _POSITION.size:
        partial = Partial(*_PARTIAL.unpack_from(frame.payload, _POSITION.size))
        if partial.received > partial.length:
            raise WireError("received", partial.received, "more than the whole transaction")
    return Claim(frame.name, position, bool(frame.flags & Flag.RESYNC), partial)


def encode_position(kind: FrameType, name: str, position: Position) -> bytes:
    """An ACK, DROP or UNKNOWN frame."""
    return encode(kind, name, _POSITION.pack(position.txid, position.checksum))


def decode_position(frame: Frame) -> Position:
    """The position of an ACK, DROP or UNKNOWN frame."""
    _expect(frame, _POSITION.size)
    return Position(*_POSITION.unpack(frame.payload))


def encode_heartbeat(clock_ms: int) -> bytes:
    """A HEARTBEAT with the sender's wall clock."""
    return encode(FrameType.HEARTBEAT, payload=_U64.pack(clock_ms))


def decode_heartbeat(frame: Frame) -> int:
    """The sender's wall clock in ms."""
    _expect(frame, _U64.size)
    return int(_U64.unpack(frame.payload)[0])


def encode_epoch(name: str, epoch: int, txid: int) -> bytes:
    """An EPOCH frame: with transaction ``txid`` the database is of this epoch."""
    return encode(FrameType.EPOCH, name, _POSITION.pack(epoch, txid))


def decode_epoch(frame: Frame) -> tuple[int, int]:
    """(epoch, TXID)."""
    _expect(frame, _POSITION.size)
    epoch, txid = _POSITION.unpack(frame.payload)
    return int(epoch), int(txid)


def encode_txid(kind: FrameType, name: str, txid: int) -> bytes:
    """A COMMITTED or CHECKPOINT frame."""
    return encode(kind, name, _U64.pack(txid))


def decode_txid(frame: Frame) -> int:
    """The TXID of a COMMITTED or CHECKPOINT frame."""
    _expect(frame, _U64.size)
    return int(_U64.unpack(frame.payload)[0])


def encode_snapshot(kind: FrameType, name: str, info: SnapshotInfo) -> bytes:
    """A SNAPSHOT_BEGIN or SNAPSHOT_END frame."""
    position = info.position
    payload = _SNAPSHOT.pack(
        info.page_size, info.pages, position.txid, position.checksum, info.timestamp_ms, info.reason
    )
    return encode(kind, name, payload)


def decode_snapshot(frame: Frame) -> SnapshotInfo:
    """The inverse of ``encode_snapshot``."""
    _expect(frame, _SNAPSHOT.size)
    page_size, pages, txid, checksum, timestamp, reason = _SNAPSHOT.unpack(frame.payload)
    if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        raise WireError("page size", page_size, "not a power of two from 512 to 65536")
    return SnapshotInfo(page_size, pages, Position(txid, checksum), timestamp, reason)


def encode_json(kind: FrameType, value: dict[str, Any]) -> bytes:
    """A HELLO or ERROR frame."""
    return encode(kind, payload=json.dumps(value, separators=(",", ":")).encode())


def decode_json(frame: Frame) -> dict[str, Any]:
    """The object of a HELLO or ERROR frame.

    Raises:
        WireError: not a JSON object.
        LimitError: more than ``MAX_JSON`` bytes.
    """
    if len(frame.payload) > MAX_JSON:
        raise LimitError(f"a {frame.type.name} frame of {len(frame.payload)} bytes, at most {MAX_JSON} are accepted")
    try:
        value = json.loads(frame.payload)
    except (ValueError, RecursionError) as error:
        raise WireError(frame.type.name, bytes(frame.payload[:32]), "not JSON") from error
    if not isinstance(value, dict):
        raise WireError(frame.type.name, type(value).__name__, "not a JSON object")
    return value


def encode_tx(name: str, ltx: bytes, start: int = 0) -> Iterator[bytes]:
    """TX frames of one LTX file from offset ``start`` on, at most ``CHUNK`` bytes each.

    The FIRST frame says length, file checksum and offset, so that a receiver can tell a
    resumed transaction from a new one.
    """
    view = memoryview(ltx)
    total = len(ltx)
    head = _TX_BEGIN.pack(total, file_checksum(ltx), start)
    at, flags = start, int(Flag.FIRST)
    while True:
        end = min(at + CHUNK, total)
        if end == total:
            flags |= Flag.LAST
        body = b"".join((head, view[at:end])) if flags & Flag.FIRST else view[at:end]
        yield encode(FrameType.TX, name, body, flags)
        if end == total:
            return
        at, flags = end, 0


def tx_begin(frame: Frame) -> tuple[int, int, int, memoryview]:
    """(length, file checksum, offset, bytes) of a FIRST TX frame."""
    if len(frame.payload) < _TX_BEGIN.size:
        raise WireError("payload", len(frame.payload), "too short for the start of a transaction")
    length, checksum, start = _TX_BEGIN.unpack_from(frame.payload)
    return length, checksum, start, memoryview(frame.payload)[_TX_BEGIN.size :]


def file_checksum(ltx: bytes) -> int:
    """The last eight bytes of an LTX file: its own checksum, which names the file."""
    return int.from_bytes(ltx[-8:], "big")


def _expect(frame: Frame, size: int) -> None:
    if len(frame.payload) != size:
        raise WireError("payload", len(frame.payload), f"a {frame.type.name} frame has {size} bytes")
