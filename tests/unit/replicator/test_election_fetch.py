"""A candidate fetches what another member holds and it does not: real stores, real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from sqlitecluster.election.messages import Lack
from sqlitecluster.replicator.apply import Applier
from sqlitecluster.replicator.election_fetch import Fetcher
from sqlitecluster.replicator.peer_pages import PeerPages
from sqlitecluster.replicator.services import PrimaryAddress
from sqlitecluster.replicator.work import Transaction
from support.replica import Primary, Replica, wait_for

Nodes = tuple[Replica, Applier, Replica, Applier]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """This node and a peer, with their apply threads."""
    here, there = Replica(tmp_path / "here"), Replica(tmp_path / "there")
    pair = (here, here.applier(), there, there.applier())
    pair[1].start()
    pair[3].start()
    yield pair
    pair[1].stop(release=True)
    pair[3].stop(release=True)


def give(replica: Replica, applier: Applier, *files: bytes, epoch: int = 0) -> None:
    """As a primary would have sent it."""
    for data in files:
        applier.queue.put(Transaction("x.db", data))
    wait_for(lambda: not applier.queue.waiting_bytes)
    replica.store.open("x.db").set_epoch(epoch)


def fetch(nodes: Nodes, *lacks: Lack) -> None:
    here, applier, there, _applier = nodes

    async def run() -> None:
        app = web.Application()
        app.add_routes(PeerPages(there.node).routes())
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            address = PrimaryAddress("c-2", f"http://127.0.0.1:{port}")
            find = {"c-2": address}.get
            await Fetcher(here.node, lambda: applier.queue, find).fetch(lacks)
        finally:
            await runner.cleanup()

    asyncio.run(run())


def history(tmp_path: Path, name: str = "p.db") -> list[bytes]:
    primary = Primary(tmp_path / name)
    files = [primary.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")]
    files += [primary.run(f"INSERT INTO t(v) VALUES ('{name} {n}')") for n in range(6)]
    return files


def test_what_a_peer_holds_beyond_the_own_end_is_taken_with_its_epoch(nodes: Nodes, tmp_path: Path) -> None:
    here, applier, there, other = nodes
    files = history(tmp_path)
    give(here, applier, *files[:4], epoch=3)
    give(there, other, *files, epoch=3)
    fetch(nodes, Lack("c-2", "x.db", (3, 7)))
    mine, theirs = here.store.open("x.db"), there.store.open("x.db")
    assert mine.position == theirs.position
    assert mine.epoch == 3


def test_the_same_history_under_an_older_epoch_becomes_of_the_newer_one(nodes: Nodes, tmp_path: Path) -> None:
    here, applier, there, other = nodes
    files = history(tmp_path)
    give(here, applier, *files, epoch=2)
    give(there, other, *files, epoch=3)
    fetch(nodes, Lack("c-2", "x.db", (3, 7)))
    assert here.store.open("x.db").epoch == 3


def test_a_database_that_this_node_never_had_is_taken_whole(nodes: Nodes, tmp_path: Path) -> None:
    here, _applier, there, other = nodes
    give(there, other, *history(tmp_path), epoch=3)
    fetch(nodes, Lack("c-2", "x.db", (3, 7)))
    assert here.store.open("x.db").position == there.store.open("x.db").position
    assert here.store.open("x.db").epoch == 3


@pytest.mark.parametrize("common", [0, 3])
def test_another_history_is_not_taken(
    nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture, common: int
) -> None:
    here, applier, there, other = nodes
    primary = Primary(tmp_path / "p.db")
    shared = [primary.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v)"), primary.run("INSERT INTO t(v) VALUES ('both')")]
    give(here, applier, *shared, primary.run("INSERT INTO t(v) VALUES ('here')"), epoch=2)
    fork = history(tmp_path, "fork.db")
    give(there, other, *fork, epoch=3)
    before = here.store.open("x.db").position
    fetch(nodes, Lack("c-2", "x.db", (3, 7 if common == 0 else 3)))
    assert here.store.open("x.db").position == before
    assert here.store.open("x.db").epoch == 2
    assert "cannot be fetched" in caplog.text and "its history goes by" in caplog.text


def test_a_peer_that_is_gone_changes_nothing(nodes: Nodes, tmp_path: Path) -> None:
    here, applier, _there, _other = nodes
    give(here, applier, *history(tmp_path)[:3], epoch=3)
    before = here.store.open("x.db").position
    fetch(nodes, Lack("c-9", "x.db", (3, 7)), Lack("c-2", "never.db", (3, 7)))
    assert here.store.open("x.db").position == before
