"""Rows of the benchmark that are memory: proportional set size of all processes of one node."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from bench.rows import Row
from bench.timing import make_gigabyte
from support import processes
from support.cluster import Cluster
from support.node import Node

IDLE_MIB, SNAPSHOT_MIB = 120.0, 200.0


def node_pss_mib(node: Node) -> float:
    """PSS of everything that belongs to a node, the standby included."""
    assert node.process is not None
    pids = {*processes.children_of(node.process.pid), *node.pids().values()}
    return sum(processes.pss_kib(pid) for pid in pids) / 1024


def memory(cluster: Cluster, _plain: Path, seconds: float, _rounds: int) -> list[Row]:
    """At rest, and the highest while a 1 GiB snapshot streams to a new replica."""
    time.sleep(min(5.0, seconds))
    idle = max(node_pss_mib(node) for node in cluster.nodes)
    path = cluster.primary.mount / "gigabyte.db"
    if not path.exists():
        make_gigabyte(path)
        cluster.wait_synced("gigabyte.db", limit_s=600)
    peaks = {"primary": 0.0, "replica": 0.0}
    ended = threading.Event()
    replica = Node(cluster.folder, len(cluster.nodes) + 1, cluster.base_port)
    cluster.nodes.append(replica)

    def sample() -> None:
        while not ended.is_set():
            peaks["primary"] = max(peaks["primary"], node_pss_mib(cluster.primary))
            if replica.process is not None:
                peaks["replica"] = max(peaks["replica"], node_pss_mib(replica))
            ended.wait(0.25)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        replica.start()
        cluster.wait_synced("gigabyte.db", limit_s=600)
    finally:
        ended.set()
        thread.join(10)
        replica.stop()
        cluster.nodes.remove(replica)
    rows = [
        Row(
            name="memory idle",
            what="PSS of one node at rest",
            ours=idle,
            unit="MiB",
            limit=f"≤ {IDLE_MIB:g} MiB",
            good=idle <= IDLE_MIB,
        )
    ]
    for side, peak in peaks.items():
        what = f"highest PSS of the {side} while a 1 GiB snapshot streams"
        good = 0 < peak <= SNAPSHOT_MIB
        rows.append(
            Row(name=f"memory {side}", what=what, ours=peak, unit="MiB", limit=f"≤ {SNAPSHOT_MIB:g} MiB", good=good)
        )
    return rows
