"""Two nodes over a real connection: what the primary commits arrives, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from sqlitecluster.config.model import Replication
from sqlitecluster.replication import wire
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.quorum import QuorumView
from sqlitecluster.replicator.work import Checkpoint, Committed, Drop, Install, Transaction
from support.two_nodes import CLUSTER, PAGE, Pair, Replica, eventually, two_nodes


def run(tmp_path: Path, scene: Callable[[Pair], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.timeout(120):
            async with two_nodes(tmp_path) as pair:
                await scene(pair)

    asyncio.run(play())


def test_a_new_replica_gets_everything_and_then_each_commit(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one", 2: b"two"})
        synced = asyncio.Event()
        pair.replica.client.on_sync = synced.set
        pair.replica.start()
        await synced.wait()
        await pair.follows(writer)
        for i in range(20):
            writer.commit({2: b"%d" % i})
        await pair.follows(writer)
        assert pair.replica.counters.snapshots_received == 0
        assert pair.replica.node.store.cluster_id() == CLUSTER
        assert pair.replica.node.state.primary_name() == "n1"

    run(tmp_path, scene)


def test_a_database_made_while_connected_arrives(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        pair.replica.start()
        await eventually(lambda: pair.replica.lag.in_sync)
        writer = pair.primary.writer("sub/new.db")
        writer.commit({1: b"x"})
        await pair.follows(writer)

    run(tmp_path, scene)


def test_a_replica_that_was_away_catches_up_from_stored_files(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one"})
        pair.replica.start()
        await pair.follows(writer)
        await pair.replica.disconnect()
        for i in range(50):
            writer.commit({1 + i % 5: b"%d" % i})
        pair.replica.start()
        await pair.follows(writer)
        assert pair.replica.counters.snapshots_received == 0

    run(tmp_path, scene)


def test_a_snapshot_is_sent_only_when_the_chain_is_gone(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        for i in range(300):
            writer.commit({i + 1: os.urandom(PAGE)})
        forget_chain(pair, "app.db")
        pair.replica.start()
        await pair.follows(writer)
        assert pair.replica.counters.snapshots_received == 1
        writer.commit({7: b"after"})
        await pair.follows(writer)
        assert pair.replica.counters.snapshots_received == 1

    run(tmp_path, scene)


def test_commits_during_a_snapshot_are_part_of_the_result(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({i + 1: os.urandom(PAGE) for i in range(500)})
        forget_chain(pair, "app.db")
        pair.replica.start()
        while not any(isinstance(work, Install) for work in pair.replica.applier.done):
            writer.commit({1 + int.from_bytes(os.urandom(2)) % 520: os.urandom(PAGE) for _ in range(5)} | fill(writer))
            await asyncio.sleep(0.002)
        await pair.follows(writer)

    run(tmp_path, scene)


def test_a_replica_that_is_ahead_gets_a_snapshot_marked_diverged(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one"})
        pair.replica.start()
        await pair.follows(writer)
        await pair.replica.disconnect()
        db = pair.replica.node.store.open("app.db")
        db.reset(Position(9, 1 << 63 | 9), page_size=PAGE, commit=1, timestamp_ms=0)
        pair.replica.start()
        await pair.follows(writer)
        [install] = [work for work in pair.replica.applier.done if isinstance(work, Install)]
        assert install.diverged
        [problem] = pair.replica.node.problems.all()
        assert problem.code == "TailKept"
        assert "0000000000000009" in problem.message

    run(tmp_path, scene)


def test_the_same_txid_with_other_content_is_a_divergence(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one"})
        pair.replica.node.store.set_cluster_id(CLUSTER)
        db = pair.replica.node.store.open("app.db")
        db.reset(Position(1, 1 << 63 | 5), page_size=PAGE, commit=1, timestamp_ms=0)
        pair.replica.start()
        await pair.follows(writer)
        assert [work.diverged for work in pair.replica.applier.done if isinstance(work, Install)] == [True]

    run(tmp_path, scene)


def test_a_transaction_of_many_frames_does_not_hold_up_other_databases(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        large, small = pair.primary.writer("large.db"), pair.primary.writer("small.db")
        large.commit({i + 1: os.urandom(PAGE) for i in range(1000)})
        small.commit({1: b"s"})
        pair.replica.start()
        await pair.follows(large)
        await pair.follows(small)
        order = [w.name for w in pair.replica.applier.done if isinstance(w, Transaction)]
        assert order == ["small.db", "large.db"]

    run(tmp_path, scene)


def test_a_stream_that_broke_inside_a_transaction_resumes_there(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({i + 1: os.urandom(PAGE) for i in range(1000)})
        db = pair.primary.node.store.open("app.db")
        [ltx] = db.since(0) or ()
        for frame in list(frames("app.db", ltx))[:3]:
            pair.replica.receiver.assembler.feed(frame)
        pair.replica.start()
        await pair.follows(writer)
        assert pair.replica.counters.bytes_received < len(ltx) - 2 * wire.CHUNK

    run(tmp_path, scene)


def test_a_dropped_database_whose_chain_is_gone_is_dropped_by_a_frame(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one"})
        pair.replica.start()
        await pair.follows(writer)
        await pair.replica.disconnect()
        pair.primary.node.store.open("app.db").reset(Position(3, 1 << 63), page_size=PAGE, commit=0, timestamp_ms=0)
        forget_chain(pair, "app.db")
        pair.replica.start()
        await eventually(lambda: [w.position.txid for w in pair.replica.applier.done if isinstance(w, Drop)], [3])

    run(tmp_path, scene)


def test_a_database_that_the_primary_never_had_is_kept_and_reported(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        pair.replica.node.store.open("mine.db").reset(
            Position(4, 1 << 63 | 1), page_size=PAGE, commit=1, timestamp_ms=0
        )
        pair.replica.start()
        await eventually(lambda: pair.replica.lag.in_sync)
        [problem] = pair.replica.node.problems.all()
        assert (problem.code, problem.database) == ("UnknownDatabase", "mine.db")
        assert pair.replica.node.store.open("mine.db").position.txid == 4

    run(tmp_path, scene)


def test_a_peer_of_another_cluster_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        pair.replica.node.store.set_cluster_id("LFSCFFFFFFFFFFFFFFFF")
        pair.primary.writer("app.db").commit({1: b"one"})
        pair.replica.start()
        await eventually(lambda: [p.code for p in pair.replica.node.problems.all()], ["ClusterMismatch"])
        assert pair.replica.node.store.names() == []
        assert pair.replica.node.store.cluster_id() == "LFSCFFFFFFFFFFFFFFFF"
        assert pair.primary.counters.refused_streams == 1

    run(tmp_path, scene)


def test_a_primary_of_an_older_epoch_is_not_followed(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        pair.primary.epoch = 5
        pair.replica.start()
        await eventually(lambda: pair.replica.lag.in_sync)
        await pair.replica.disconnect()
        pair.primary.epoch = 4
        pair.replica.start()
        await eventually(lambda: [p.code for p in pair.replica.node.problems.all()], ["StreamBroken"])
        assert not pair.replica.client.connected

    run(tmp_path, scene)


def test_a_node_that_points_at_itself_is_refused(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        own = Replica(tmp_path / "own", pair.primary.url)
        own.node.store.node_id = pair.primary.node.store.node_id
        own.start()
        await eventually(lambda: ["own id" in p.message for p in own.node.problems.all()], [True])
        await own.stop()

    run(tmp_path, scene)


def test_a_replica_that_does_not_read_costs_the_primary_no_memory(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one"})
        pair.replica.start()
        await pair.follows(writer)
        pair.replica.applier.held = True
        for i in range(1500):
            writer.commit({1 + j: os.urandom(PAGE) for j in range(10)})
            if i % 50 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: pair.replica.applier.queue.full)
        sent = pair.primary.counters.bytes_sent
        await asyncio.sleep(0.5)
        assert pair.primary.counters.bytes_sent - sent < 16 << 20
        pair.replica.applier.held = False
        pair.replica.applier.work_off()
        await pair.follows(writer)

    run(tmp_path, scene)


def forget_chain(pair: Pair, name: str) -> None:
    """As if retention had removed every file: only the position is left."""
    db = pair.primary.node.store.open(name)
    db.reset(db.position, page_size=PAGE, commit=db.commit, timestamp_ms=db.timestamp_ms)


def fill(writer: object) -> dict[int, bytes]:
    """Pages up to 520, so that the database has no holes."""
    pages = writer.pages
    return {n: b"f" for n in range(1, 521) if n not in pages}


def frames(name: str, ltx: bytes) -> list[wire.Frame]:
    parser = wire.Parser()
    return [frame for part in wire.encode_tx(name, ltx) for frame in parser.feed(part)]


def test_how_far_the_primary_wrote_its_log_back_is_told_once_it_was_sent(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        pair.replica.start()
        await eventually(lambda: pair.replica.lag.in_sync)
        writer.commit({1: b"one"})
        await pair.follows(writer)
        pair.primary.hub.checkpointed("app.db", 2)
        await asyncio.sleep(1.5)  # a heartbeat later it is still not known there
        assert _checkpoints(pair) == []
        writer.commit({1: b"two"})
        await eventually(lambda: _checkpoints(pair), [Checkpoint("app.db", 2)])
        work = pair.replica.applier.done
        assert isinstance(work[work.index(Checkpoint("app.db", 2)) - 1], Transaction), "it is there before"

    run(tmp_path, scene)


def test_a_replica_of_the_version_before_is_told_nothing_of_that(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer, client = pair.primary.writer("app.db"), pair.replica.client
        mine = client._hello
        client._hello = lambda: replace(mine(), capabilities=("resume", "lz4-pages", "epochs", "quorum"))
        pair.replica.start()
        await eventually(lambda: pair.replica.lag.in_sync)
        writer.commit({1: b"one"})
        await pair.follows(writer)
        pair.primary.hub.checkpointed("app.db", 1)
        await asyncio.sleep(1.5)
        writer.commit({1: b"two"})
        await pair.follows(writer)
        assert _checkpoints(pair) == []
        assert pair.replica.counters.frames_received["READY"] == 1, "the stream was not broken"

    run(tmp_path, scene)


def _checkpoints(pair: Pair) -> list[Checkpoint]:
    return [work for work in pair.replica.applier.done if isinstance(work, Checkpoint)]


def test_a_replica_of_another_history_is_not_told_that_its_own_end_is_committed(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer = pair.primary.writer("app.db")
        writer.commit({1: b"one"})
        _hold_back(pair)
        pair.primary.node.quorum.commit("app.db", 1)
        pair.replica.node.store.set_cluster_id(CLUSTER)
        db = pair.replica.node.store.open("app.db")
        db.reset(Position(1, 1 << 63 | 5), page_size=PAGE, commit=1, timestamp_ms=0)
        pair.replica.start()
        await pair.follows(writer)
        await eventually(lambda: Committed("app.db", 1) in pair.replica.applier.done)
        came = list(pair.replica.counters.frames_received)  # in the order of the first of each kind
        assert came.index("SNAPSHOT_BEGIN") < came.index("COMMITTED")

    run(tmp_path, scene)


def test_an_image_with_a_commit_in_flight_is_shown_when_that_is_committed(tmp_path: Path) -> None:
    async def scene(pair: Pair) -> None:
        writer, db = pair.primary.writer("app.db"), pair.primary.node.store.open("app.db")
        writer.commit({1: b"one"})
        _hold_back(pair)
        pair.primary.node.quorum.commit("app.db", 1)
        db.set_in_flight(2)
        writer.commit({1: b"two"})  # written, not published: a snapshot has the new page
        pair.replica.node.store.set_cluster_id(CLUSTER)
        mine = pair.replica.node.store.open("app.db")
        mine.reset(Position(1, 1 << 63 | 5), page_size=PAGE, commit=1, timestamp_ms=0)
        pair.replica.start()
        await eventually(lambda: pair.replica.counters.frames_received.get("TX"), 1)
        await asyncio.sleep(0.2)
        assert not [work for work in pair.replica.applier.done if isinstance(work, Install)]
        writer.commit({1: b"one"})
        db.set_in_flight(0)
        pair.primary.node.quorum.commit("app.db", 3)
        await pair.follows(writer)
        installed = [work.position.txid for work in pair.replica.applier.done if isinstance(work, Install)]
        assert installed == [3]

    run(tmp_path, scene)


def _hold_back(pair: Pair) -> None:
    """Replicas acknowledge first, and are told what they may show."""
    primary = pair.primary
    primary.node.config = replace(primary.node.config, replication=Replication(mode="Quorum"))
    primary.node.quorum = QuorumView(primary.node)
    primary.node.quorum.attach()
    primary.node.quorum.on_committed = primary.hub.committed
    mine = primary.hub.hello
    primary.hub.hello = lambda: replace(mine(), holds=True)
