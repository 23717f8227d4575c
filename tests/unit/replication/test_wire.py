"""Frames survive any split of the byte stream; lengths are refused before they are believed."""

from __future__ import annotations

import random
import struct

import pytest

from sqlitecluster.errors import LimitError, SQLiteClusterError, WireError
from sqlitecluster.replication import wire
from sqlitecluster.replication.position import Position
from sqlitecluster.replication.wire import Claim, Flag, FrameType, Parser, Partial, SnapshotInfo


def frames_of(data: bytes) -> list[wire.Frame]:
    parser = Parser()
    frames = list(parser.feed(data))
    assert parser.pending == 0
    return frames


def test_frames_come_out_whole_however_the_bytes_are_split() -> None:
    stream = (
        wire.encode_heartbeat(7)
        + b"".join(wire.encode_tx("app/main.db", bytes(range(256)) * 1500))
        + wire.encode_position(FrameType.DROP, "old.db", Position(9, 10))
    )
    expected = frames_of(stream)
    rng = random.Random(5)
    for _ in range(30):
        parser, found, at = Parser(), [], 0
        while at < len(stream):
            step = rng.choice((1, 7, 100, 4096, 200_000))
            found += list(parser.feed(stream[at : at + step]))
            at += step
        assert found == expected


def test_a_frame_that_is_not_complete_is_kept_until_it_is() -> None:
    frame = wire.encode_heartbeat(123)
    parser = Parser()
    assert list(parser.feed(frame[:-1])) == []
    assert parser.pending == len(frame) - 1
    [heartbeat] = parser.feed(frame[-1:])
    assert wire.decode_heartbeat(heartbeat) == 123


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (struct.pack(">BBHI", 2, 0, 4, 0xFFFF_FFFF), LimitError),
        (struct.pack(">BBHI", 2, 0, 60_000, 1), LimitError),
        (struct.pack(">BBHI", 99, 0, 0, 0), WireError),
        (struct.pack(">BBHI", 9, 64, 0, 8), WireError),
    ],
)
def test_a_header_beyond_the_limits_is_refused_when_its_eight_bytes_are_there(
    header: bytes, error: type[SQLiteClusterError]
) -> None:
    with pytest.raises(error):
        list(Parser().feed(header))


@pytest.mark.parametrize("name", ["../etc/passwd", ".hidden", "a//b", "x-wal", "\n"])
def test_a_name_that_is_no_database_name_is_refused(name: str) -> None:
    with pytest.raises(WireError, match="name"):
        list(Parser().feed(wire.encode(FrameType.DROP, name, bytes(16))))


def test_a_named_frame_without_a_name_is_refused() -> None:
    with pytest.raises(WireError, match="name"):
        list(Parser().feed(wire.encode(FrameType.TX, "", b"x")))


@pytest.mark.parametrize(
    "claim",
    [
        Claim("a.db", Position(0, 0)),
        Claim("a.db", Position(5, 1 << 63), resync=True),
        Claim("a/b.db", Position(2**64 - 1, 2**64 - 1), partial=Partial(1000, 77, 999)),
    ],
)
def test_a_claim_survives_the_wire(claim: Claim) -> None:
    [frame] = frames_of(wire.encode_claim(claim))
    assert wire.decode_claim(frame) == claim


def test_a_snapshot_head_survives_the_wire() -> None:
    info = SnapshotInfo(4096, 10, Position(3, 4), 1_700_000_000_000, 2)
    [frame] = frames_of(wire.encode_snapshot(FrameType.SNAPSHOT_BEGIN, "a.db", info))
    assert wire.decode_snapshot(frame) == info


def test_a_snapshot_head_with_an_impossible_page_size_is_refused() -> None:
    info = SnapshotInfo(1000, 10, Position(3, 4), 0, 0)
    [frame] = frames_of(wire.encode_snapshot(FrameType.SNAPSHOT_BEGIN, "a.db", info))
    with pytest.raises(WireError, match="page size"):
        wire.decode_snapshot(frame)


def test_json_frames_that_are_no_objects_are_refused() -> None:
    for payload in (b"[]", b"{", b"\xff", b"[" * 5000):
        [frame] = frames_of(wire.encode(FrameType.HELLO, payload=payload))
        with pytest.raises(WireError):
            wire.decode_json(frame)


def test_a_json_frame_beyond_its_limit_is_not_parsed() -> None:
    [frame] = frames_of(wire.encode(FrameType.ERROR, payload=b" " * (wire.MAX_JSON + 1)))
    with pytest.raises(LimitError):
        wire.decode_json(frame)


def test_mutated_streams_raise_only_errors_with_a_code_and_hold_no_more_than_one_frame() -> None:
    rng = random.Random(11)
    seed = (
        wire.encode_claim(Claim("a.db", Position(5, 6), partial=Partial(9, 9, 9)))
        + wire.encode_heartbeat(1)
        + b"".join(wire.encode_tx("b.db", bytes(3000)))
        + wire.encode_json(FrameType.HELLO, {"protocol": 1})
    )
    for _ in range(2000):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        parser = Parser()
        try:
            for frame in parser.feed(bytes(data)):
                _decode_any(frame)
        except SQLiteClusterError:
            continue
        assert parser.pending <= wire.HEADER_BYTES + wire.MAX_NAME + wire.MAX_PAYLOAD


def _decode_any(frame: wire.Frame) -> None:
    decoders = {
        FrameType.POSITION: wire.decode_claim,
        FrameType.HEARTBEAT: wire.decode_heartbeat,
        FrameType.HELLO: wire.decode_json,
        FrameType.DROP: wire.decode_position,
        FrameType.SNAPSHOT_BEGIN: wire.decode_snapshot,
    }
    if frame.type in decoders:
        decoders[frame.type](frame)
    elif frame.type is FrameType.TX and frame.flags & Flag.FIRST:
        wire.tx_begin(frame)


def test_large_transactions_travel_in_bounded_frames() -> None:
    ltx = bytes(3 * wire.CHUNK + 5)
    encoded = list(wire.encode_tx("a.db", ltx))
    assert len(encoded) == 4
    assert max(len(part) for part in encoded) <= wire.HEADER_BYTES + wire.MAX_NAME + wire.MAX_PAYLOAD


def test_what_a_receiver_would_refuse_is_not_even_encoded() -> None:
    with pytest.raises(LimitError):
        wire.encode(FrameType.TX, "a.db", bytes(wire.MAX_PAYLOAD + 1))
