"""A candidate that lacks only what answering members hold fetches it, once, and asks again."""

from __future__ import annotations

from dataclasses import replace

from sqlitecluster.election import messages as m
from sqlitecluster.election.membership import Wanted
from sqlitecluster.election.promise import Promise
from support.electionbench import ME, OTHER, Bench, lease, peer

A, B, C = 0xA, 0xB, 0xC
PROMISE = Promise(members=frozenset((A, B, C)), acks=1, store=A)


def node(store: int, x: int, y: int, pod: str) -> m.NodeState:
    return replace(peer(pod, epoch=4, store=store), positions={"x": (3, x), "y": (3, y)})


def candidate() -> Bench:
    """The Lease has run out, the peers are being asked."""
    bench = Bench(3, wanted=Wanted(B, 1, False))
    bench.local = replace(node(B, 9, 1, ME.pod), uid=ME.uid)
    bench.read(lease(OTHER, 3, promise=PROMISE))
    bench.tick(13)
    bench.read(lease(OTHER, 3, promise=PROMISE))
    assert bench.one(m.AskPeers).epoch == 4
    return bench


def test_it_fetches_what_it_lacks_and_then_takes_the_lease() -> None:
    bench = candidate()
    bench.peers(node(C, 8, 2, "c-2"), known=2)
    assert bench.one(m.FetchMissing) == m.FetchMissing((m.Lack("c-2", "y", (3, 2)),), 4)
    assert not bench.has(m.Report) and not bench.has(m.PutLease)
    bench.tick(0.3)
    assert not bench.has(m.AskPeers)  # the fetch answers as AskPeers does
    bench.local = replace(node(B, 9, 2, ME.pod), uid=ME.uid)
    bench.peers(node(C, 8, 2, "c-2"), known=2)
    assert bench.sent().holder == str(ME)


def test_what_cannot_be_fetched_is_said_and_tried_again_later() -> None:
    bench = candidate()
    bench.peers(node(C, 8, 2, "c-2"), known=2)
    bench.peers(node(C, 8, 2, "c-2"), known=2)
    assert bench.one(m.Report).code == "QuorumLost"
    assert not bench.has(m.FetchMissing)
    bench.tick(3)
    bench.read(lease(OTHER, 3, promise=PROMISE))
    bench.peers(node(C, 8, 2, "c-2"), known=2)
    assert bench.has(m.FetchMissing)


def test_without_acknowledgements_what_cannot_be_fetched_holds_nobody_up() -> None:
    bench = Bench(3)
    bench.local = replace(node(B, 9, 1, ME.pod), uid=ME.uid)
    bench.read(lease(OTHER, 3))
    bench.tick(13)
    bench.read(lease(OTHER, 3))
    bench.peers(node(C, 7, 2, "c-2"))
    assert bench.has(m.FetchMissing) and not bench.has(m.PutLease)
    bench.peers(node(C, 7, 2, "c-2"))
    assert bench.sent().holder == str(ME)


def test_a_better_candidate_goes_first_and_nothing_is_fetched_meanwhile() -> None:
    bench = candidate()
    bench.peers(node(C, 9, 9, "c-2"), known=2)
    assert not bench.has(m.FetchMissing) and not bench.has(m.PutLease)
