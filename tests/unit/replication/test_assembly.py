"""Chunks of many databases become whole transactions; broken ones resume."""

from __future__ import annotations

import itertools
import os

import pytest

from sqlitecluster.errors import LimitError, WireError
from sqlitecluster.replication import wire
from sqlitecluster.replication.assembly import Assembler
from sqlitecluster.replication.wire import Flag, Frame, FrameType, Parser, Partial


def frames(name: str, ltx: bytes, start: int = 0) -> list[Frame]:
    parser = Parser()
    return [f for part in wire.encode_tx(name, ltx, start) for f in parser.feed(part)]


def test_a_small_transaction_is_whole_with_its_only_frame() -> None:
    ltx = os.urandom(500)
    [frame] = frames("a.db", ltx)
    assert Assembler().feed(frame) == ltx


def test_databases_may_interleave() -> None:
    one, two = os.urandom(3 * wire.CHUNK), os.urandom(2 * wire.CHUNK + 1)
    assembler = Assembler()
    mixed = itertools.chain.from_iterable(itertools.zip_longest(frames("a.db", one), frames("b.db", two)))
    whole = [ltx for frame in mixed if frame is not None and (ltx := assembler.feed(frame)) is not None]
    assert sorted(map(len, whole)) == sorted([len(one), len(two)])
    assert set(whole) == {one, two}
    assert assembler.held == 0


def test_a_broken_transaction_resumes_where_it_stopped() -> None:
    ltx = os.urandom(4 * wire.CHUNK)
    assembler = Assembler()
    for frame in frames("a.db", ltx)[:2]:
        assert assembler.feed(frame) is None
    partial = assembler.partials()["a.db"]
    assert partial == Partial(len(ltx), wire.file_checksum(ltx), 2 * wire.CHUNK)
    results = [assembler.feed(frame) for frame in frames("a.db", ltx, partial.received)]
    assert results[-1] == ltx


def test_another_file_starts_afresh() -> None:
    assembler = Assembler()
    assembler.feed(frames("a.db", os.urandom(2 * wire.CHUNK))[0])
    other = os.urandom(2 * wire.CHUNK)
    assert [assembler.feed(f) for f in frames("a.db", other)][-1] == other
    assert assembler.held == 0


def test_resuming_where_nothing_was_interrupted_is_an_error() -> None:
    with pytest.raises(WireError, match="resumed"):
        Assembler().feed(frames("a.db", os.urandom(1000), 500)[0])


def test_a_middle_without_a_start_is_an_error() -> None:
    with pytest.raises(WireError, match="start is missing"):
        Assembler().feed(Frame(FrameType.TX, Flag.LAST, "a.db", b"x"))


def test_more_bytes_than_announced_are_an_error() -> None:
    first = frames("a.db", os.urandom(wire.CHUNK + 10))[0]
    assembler = Assembler()
    assembler.feed(first)
    with pytest.raises(WireError, match="announced"):
        assembler.feed(Frame(FrameType.TX, Flag.LAST, "a.db", bytes(11)))


def test_an_end_before_the_announced_length_is_an_error() -> None:
    assembler = Assembler()
    assembler.feed(frames("a.db", os.urandom(2 * wire.CHUNK))[0])
    with pytest.raises(WireError, match="ended after"):
        assembler.feed(Frame(FrameType.TX, Flag.LAST, "a.db", b"x"))


def test_an_announced_length_beyond_the_limit_is_refused_at_once() -> None:
    first = frames("a.db", os.urandom(wire.CHUNK + 10))[0]
    with pytest.raises(LimitError):
        Assembler(max_bytes=wire.CHUNK).feed(first)


def test_all_open_transactions_together_are_bounded() -> None:
    assembler = Assembler(max_bytes=2 * wire.CHUNK)
    assembler.feed(frames("a.db", os.urandom(wire.CHUNK + 10))[0])
    assembler.feed(frames("b.db", os.urandom(wire.CHUNK + 10))[0])
    with pytest.raises(LimitError):
        assembler.feed(frames("c.db", os.urandom(wire.CHUNK + 10))[0])
