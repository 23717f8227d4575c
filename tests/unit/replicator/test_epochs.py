"""Epochs: which one may begin, what a promise binds, how replicas learn that of a database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sqlitecluster.errors import StaleEpoch
from sqlitecluster.replication import wire
from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.work import Epoch
from sqlitecluster.store.node import NodeStore
from support.two_nodes import Pair, eventually, two_nodes, writer_position


@pytest.fixture
def epochs(tmp_path: Path) -> EpochFile:
    return EpochFile(NodeStore(tmp_path))


def test_epochs_begin_one_after_the_other(epochs: EpochFile) -> None:
    assert [epochs.begin(), epochs.begin(), epochs.begin(7)] == [1, 2, 7]


def test_a_slow_promise_does_not_take_back_a_newer_epoch(tmp_path: Path) -> None:
    """A peer asks for epoch 5 while this node begins 6: both write, in two threads."""
    store = NodeStore(tmp_path)
    epochs = EpochFile(store)
    write, entered = store.disk.write_file, threading.Event()

    def slow(path: Path, parts: Sequence[bytes]) -> None:
        entered.set()
        time.sleep(0.2 if parts[0] == b"5\n" else 0.0)
        write(path, parts)

    store.disk.write_file = slow  # type: ignore[method-assign,assignment]
    promising = threading.Thread(target=epochs.promise, args=(5,))
    promising.start()
    assert entered.wait(5)
    assert epochs.begin(6) == 6
    promising.join()
    assert (epochs.value, epochs.used, EpochFile(store).value) == (6, 6, 6)


@pytest.mark.parametrize("epoch", [0, 3, 4])
def test_an_epoch_that_had_a_primary_does_not_begin_again(epochs: EpochFile, epoch: int) -> None:
    epochs.note(4)
    with pytest.raises(StaleEpoch):
        epochs.begin(epoch)


def test_an_epoch_that_was_only_promised_may_begin_and_no_older_one(epochs: EpochFile) -> None:
    epochs.promise(6)
    with pytest.raises(StaleEpoch):
        epochs.begin(5)
    assert epochs.begin(6) == 6


def test_a_promise_survives_a_restart_and_binds_more_than_before(tmp_path: Path) -> None:
    EpochFile(NodeStore(tmp_path)).promise(6)
    again = EpochFile(NodeStore(tmp_path))
    assert again.value == 6
    with pytest.raises(StaleEpoch):  # whether it had a primary is not known any more
        again.begin(6)


def test_an_epoch_frame_is_read_as_it_was_written() -> None:
    frames = list(wire.Parser().feed(wire.encode_epoch("a.db", 7, 1 << 40)))
    assert [(frame.name, wire.decode_epoch(frame)) for frame in frames] == [("a.db", (7, 1 << 40))]


async def told(pair: Pair) -> list[Epoch]:
    """A database that the primary stamped, streamed; what the replica was told."""
    writer = pair.primary.writer("a.db")
    writer.commit({1: b"one", 2: b"two"})
    pair.primary.node.store.open("a.db").set_epoch(3)
    pair.replica.start()
    await pair.follows(writer)
    writer.commit({2: b"three"})
    await eventually(lambda: pair.replica.node.store.open("a.db").position, writer_position(writer))
    return [work for work in pair.replica.applier.done if isinstance(work, Epoch)]


def test_a_replica_learns_the_epoch_of_a_database_once_it_has_it(tmp_path: Path) -> None:
    async def play() -> None:
        async with two_nodes(tmp_path) as pair:
            assert await told(pair) == [Epoch("a.db", 3, 1)]

    asyncio.run(play())


def test_a_replica_that_knows_no_epochs_is_told_none(tmp_path: Path) -> None:
    async def play() -> None:
        async with two_nodes(tmp_path) as pair:
            own = pair.replica.hello()
            old = Hello(own.cluster_id, own.node_id, own.name, own.epoch, capabilities=("resume",))
            pair.replica.client._hello = lambda: old
            assert await told(pair) == []

    asyncio.run(play())


def test_acknowledgements_are_waited_for(tmp_path: Path) -> None:
    async def play() -> None:
        async with two_nodes(tmp_path) as pair:
            writer = pair.primary.writer("a.db")
            writer.commit({1: b"one"})
            pair.replica.start()
            await pair.follows(writer)
            writer.commit({1: b"two"})
            at = pair.primary.node.store.open("a.db").position
            wanted, hub = {"a.db": (0, at.txid, at.checksum)}, pair.primary.hub
            assert await hub.wait_acknowledged("n2", wanted, time.monotonic() + 30)
            assert not await hub.wait_acknowledged("n2", {"a.db": (0, at.txid + 1, 1)}, time.monotonic())
            assert not await hub.wait_acknowledged("n9", wanted, time.monotonic())

    asyncio.run(play())


def test_a_replica_that_is_gone_is_not_waited_for_until_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlitecluster.replicator.stream_server._GONE_S", 0.3)

    async def play() -> None:
        async with two_nodes(tmp_path) as pair, asyncio.timeout(60):
            hub = pair.primary.hub
            assert not await hub.wait_acknowledged("n2", {"a.db": (0, 1, 1)}, time.monotonic() + 3600)

    asyncio.run(play())


def test_a_replica_acknowledges_at_once_when_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlitecluster.replicator.stream_client.ACK_S", 3600.0)

    async def play() -> None:
        async with two_nodes(tmp_path) as pair:
            writer = pair.primary.writer("a.db")
            writer.commit({1: b"one"})
            pair.replica.start()
            await pair.follows(writer)
            at = pair.primary.node.store.open("a.db").position
            wanted = {"a.db": (0, at.txid, at.checksum)}
            assert await pair.primary.hub.wait_acknowledged("n2", wanted, time.monotonic() + 60)

    asyncio.run(play())


def test_a_primary_refuses_replicas_that_know_a_newer_epoch(tmp_path: Path) -> None:
    async def play() -> None:
        async with two_nodes(tmp_path) as pair:
            newer: list[int] = []
            pair.primary.hub.on_newer_epoch = newer.append
            own = pair.replica.hello()
            pair.replica.client._hello = lambda: Hello(own.cluster_id, own.node_id, own.name, 9, own.version)
            pair.replica.start()
            await eventually(lambda: newer[:1], [9])
            assert not pair.primary.hub.streams

    asyncio.run(play())
