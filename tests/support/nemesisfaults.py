"""What is done to a cluster while programs work: a table of faults, each with its undoing.

A fault is a context manager: entering does the damage, leaving repairs it. All choices
are made with the ``Random`` that it is given. ``CASES`` are single faults and pairs;
``schedule`` says when each begins and ends.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from support import realapi
from support.chaosnet import CUT, GOOD, Link
from support.nemesiscluster import NemesisCluster, NemesisNode
from support.realapi import Refused

Fault = Callable[[NemesisCluster, random.Random], AbstractContextManager[None]]

FAULTS: dict[str, Fault] = {}
LENGTHS_S: dict[str, tuple[float, ...]] = {}
"""How long a fault may last."""
SHORT, LONG = (0.5, 1.0, 2.0, 3.0), (1.0, 2.0, 3.5, 5.0, 7.0, 9.0)


def fault(*lengths: float) -> Callable[[Callable[[NemesisCluster, random.Random], Iterator[None]]], Fault]:
    """Put a fault into the table under its function's name."""

    def put(function: Callable[[NemesisCluster, random.Random], Iterator[None]]) -> Fault:
        name = function.__name__.replace("_", "-")
        FAULTS[name] = contextlib.contextmanager(function)
        LENGTHS_S[name] = lengths
        return FAULTS[name]

    return put


def _replica(cluster: NemesisCluster, rng: random.Random) -> NemesisNode:
    primary = cluster.believed()
    return rng.choice([node for node in cluster.nodes if node is not primary])


@fault(1.0)
def none(_cluster: NemesisCluster, _rng: random.Random) -> Iterator[None]:
    """Nothing."""
    yield


# Processes.


@contextlib.contextmanager
def _dead(cluster: NemesisCluster, rng: random.Random, *nodes: NemesisNode) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(cluster.note_away(node, "dead"))
        for node in nodes:
            node.crash(programs=rng.random() < 0.5)
        yield
        for node in nodes:
            if rng.random() < 0.4 and cluster.api.answers:  # without an API the pod stays what it was
                node.make_pod()
            node.launch()
        for node in nodes:
            node.wait_ready()


@fault(1.0, 3.5, 7.0, 9.0)
def kill_primary(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """All processes of the primary's pod at once; half of the times its programs too."""
    with _dead(cluster, rng, cluster.believed()):
        yield


@fault(*SHORT)
def kill_replica(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """All processes of a replica."""
    with _dead(cluster, rng, _replica(cluster, rng)):
        yield


@fault(*SHORT)
def restart_all(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """All processes of all nodes."""
    with _dead(cluster, rng, *cluster.nodes):
        yield


@fault(1.0)
def kill_mount(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The primary's mount process."""
    cluster.believed().kill("mount")
    yield


@fault(1.0)
def kill_replicator(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The primary's replicator."""
    cluster.believed().kill("replicator")
    yield


@contextlib.contextmanager
def _paused(cluster: NemesisCluster, node: NemesisNode) -> Iterator[None]:
    with cluster.note_away(node, "paused"):
        node.signal_all(signal.SIGSTOP, programs=True)
        try:
            yield
        finally:
            node.signal_all(signal.SIGCONT, programs=True)


@fault(1.0, 2.0, 3.0, 4.5, 7.0, 10.0)
def pause_primary(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """SIGSTOP of the whole pod."""
    with _paused(cluster, cluster.believed()):
        yield


@fault(*LONG)
def pause_replica(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """SIGSTOP of a replica's whole pod."""
    with _paused(cluster, _replica(cluster, rng)):
        yield


# The network.


@contextlib.contextmanager
def _links(
    cluster: NemesisCluster, link: Link, *, node: NemesisNode | None = None, out: bool = True, into: bool = True,
    peers: bool = True, api: bool = True,
) -> Iterator[None]:  # fmt: skip
    """Directions of a node (of all without one) are like ``link``, then good again."""
    pairs = []
    ends = [n.address for n in cluster.nodes]
    for one in [node.address] if node is not None else ends:
        others = [end for end in ends if end != one] if peers else []
        for other in [*others, *([realapi.ADDRESS] if api else [])]:
            pairs += [(one, other)] if out else []
            pairs += [(other, one)] if into else []
    cluster.net.set([(a, b, link) for a, b in pairs])
    try:
        yield
    finally:
        cluster.net.set([(a, b, GOOD) for a, b in pairs])


@contextlib.contextmanager
def _cut(cluster: NemesisCluster, node: NemesisNode, **which: bool) -> Iterator[None]:
    with cluster.note_away(node, "cut"), _links(cluster, CUT, node=node, **which):
        yield


@fault(*LONG)
def partition_primary(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The primary from everything."""
    with _cut(cluster, cluster.believed()):
        yield


@fault(*LONG)
def partition_replica(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """A replica from everything."""
    with _cut(cluster, _replica(cluster, rng)):
        yield


@fault(*LONG)
def partition_peers(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """All nodes from one another, not from the API server."""
    with contextlib.ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(_cut(cluster, node, api=False))
        yield


@fault(*LONG)
def minority_with_replica(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """Primary and one replica together, the other one with the API server."""
    primary, friend = cluster.believed(), _replica(cluster, rng)
    alone = next(node for node in cluster.nodes if node not in (primary, friend))
    with _cut(cluster, alone, api=False), _cut(cluster, primary, peers=False), _cut(cluster, friend, peers=False):
        yield


@fault(*LONG)
def cut_api(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The primary from the API server alone."""
    with _cut(cluster, cluster.believed(), peers=False):
        yield


@fault(*LONG)
def one_way_out(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """What the primary sends arrives nowhere; it hears everything."""
    with _cut(cluster, cluster.believed(), into=False):
        yield


@fault(*LONG)
def one_way_in(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The primary hears nothing; what it sends arrives."""
    with _cut(cluster, cluster.believed(), out=False):
        yield


@fault(3.0, 6.0)
def flapping(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The primary's cable is pulled and plugged again and again."""
    node, over = cluster.believed(), threading.Event()
    pauses = [rng.uniform(0.05, 1.0) for _ in range(200)]

    def flap() -> None:
        for pause in pauses:
            with _links(cluster, CUT, node=node):
                over.wait(pause)
            if over.wait(pause):
                return

    with cluster.note_away(node, "cut"):
        flapper = threading.Thread(target=flap)
        flapper.start()
        yield
        over.set()
        flapper.join()


@fault(*LONG)
def slow(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """Every direction is late, packets overtake each other."""
    delay = rng.choice([5.0, 30.0, 100.0, 250.0])
    with _links(cluster, Link(delay_ms=delay, jitter_ms=delay)):
        yield


@fault(*LONG)
def narrow(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """1 Mbit/s between all."""
    with _links(cluster, Link(rate=125_000.0)):
        yield


@fault(*LONG)
def loss(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """Every direction loses packets."""
    with _links(cluster, Link(drop=rng.choice([0.01, 0.05, 0.1, 0.2]))):
        yield


# Everything else.


@fault(3.0, 5.0)
def handoff(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """Hand-offs one after the other, by annotation."""
    over = threading.Event()
    wishes = [(rng.choice(["*", "n1", "n2", "n3"]), rng.uniform(0.4, 1.5)) for _ in range(20)]

    def ask() -> None:
        for to, pause in wishes:
            with contextlib.suppress(OSError, Refused):
                cluster.ask(to)
            if over.wait(pause):
                return

    asker = threading.Thread(target=ask)
    asker.start()
    yield
    over.set()
    asker.join()


@fault(*SHORT)
def disk_full(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The volume of a node has no byte left but what is reserved."""
    node = rng.choice([cluster.believed(), *cluster.nodes])
    ballast = node.data / "ballast"
    with cluster.note_away(node, "full"):
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 20)):
                continue
        try:
            yield
        finally:
            ballast.unlink()


@fault(*LONG)
def api_frozen(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The API server accepts requests and answers nothing."""
    cluster.api.freeze()
    try:
        yield
    finally:
        cluster.api.thaw()


@fault(*SHORT)
def api_down(cluster: NemesisCluster, rng: random.Random) -> Iterator[None]:
    """The API server dies and is started again."""
    cluster.api.crash()
    try:
        yield
    finally:
        cluster.api.again()


_TABLE: Final = """
kill-primary partition-primary pause-primary handoff one-way-out partition-primary+kill-replica
minority-with-replica api-down loss kill-replicator cut-api disk-full restart-all slow+handoff kill-mount none
one-way-in pause-replica+kill-primary partition-peers api-frozen kill-replica loss+kill-primary flapping slow
handoff+pause-primary narrow+restart-all pause-replica partition-replica+handoff api-frozen+kill-primary
narrow+handoff disk-full+partition-replica kill-replicator+loss cut-api+slow one-way-out+pause-replica
kill-mount+handoff handoff+kill-primary
"""
CASES: Final = tuple(tuple(case.split("+")) for case in _TABLE.split())
"""Single faults and pairs; a budget's runs are some of them in a row, from a random one on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a run: begins and ends so many seconds after the run's begin."""

    name: str
    begin: float
    end: float


def schedule(case: tuple[str, ...], rng: random.Random) -> list[Step]:
    """When the faults of a case begin and end: those of a pair overlap."""
    steps = []
    begin = rng.uniform(1.5, 2.5)
    for name in case:
        length = rng.choice(LENGTHS_S[name])
        steps.append(Step(name, begin, begin + length))
        begin += rng.uniform(0.2, max(0.4, length * 0.8))
    return steps


def carry_out(cluster: NemesisCluster, steps: list[Step], rng: random.Random) -> float:
    """Do and undo the faults at their times; returns the moment from which nothing is broken."""
    began = time.monotonic()
    events = sorted([(s.begin, 0, s) for s in steps] + [(s.end, 1, s) for s in steps], key=lambda e: e[:2])
    with contextlib.ExitStack() as stack:
        running: dict[Step, contextlib.ExitStack] = {}
        for at, is_end, step in events:
            time.sleep(max(0.0, began + at - time.monotonic()))
            if is_end:
                running.pop(step).close()
            else:
                own = running[step] = contextlib.ExitStack()
                stack.callback(own.close)
                own.enter_context(FAULTS[step.name](cluster, random.Random(f"{rng.random()}/{step.name}")))
    return time.monotonic()
