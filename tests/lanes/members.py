"""Lane: real nodes with ``mode: Quorum``: who may take over, and what happens when too many are lost.

Three nodes as in the lane ``elected``, one acknowledgement, shorter leases, and in each node a
program that writes 50 rows a second whenever it may. Rounds:

    kill      every process of the primary's node: another one goes on
    two       the primary's node and a replica: nobody takes over, and ``QuorumLost`` says who is
              missing, until one of them is back
    wiped     a replica comes back with an empty volume: the new volume becomes a member, the old
              one is one no more
    accepted  two nodes come back with empty volumes: nobody takes over until a person accepts the loss
    degraded  (``durability: Preferred``) both replicas are lost: writes go on, and the Lease says
              so before and until both are back

Checked after each round but ``accepted``: **every** acknowledged row is there; nothing is forgiven.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator

from lanes.elected import Scene, Story, check_rows, come_back, end_writer
from sqlitecluster.election.promise import LOSS, DataLoss
from support import lane, processes
from support.electedcluster import CLUSTER, NAMESPACE, ElectedCluster, ElectedNode
from support.lane import Run
from support.node import Node

TIMES = {"durationS": 4, "renewDeadlineS": 3, "retryPeriodS": 0.5, "marginMs": 500}
QUIET_S = 7.0
"""Longer than a take-over takes."""
GONE_LIMIT_S = 60.0
LIMIT_S = 40.0
PLAN = ("two", "degraded", "accepted", "wiped", "kill")


def lose(scene: Scene, node: ElectedNode, *, volume: bool = False) -> None:
    """SIGKILL of everything of a node; perhaps its volume is lost, too."""
    node.signal_all(signal.SIGKILL)
    end_writer(scene, node)
    scene.record(node).touch()
    node.process = None
    if volume:
        processes.clear(node.folder)
        shutil.rmtree(node.data)


def promised(scene: Scene, members: int = 3) -> bool:
    """Whether so many members stand in the Lease, with their acknowledgements."""
    promise = scene.cluster.record().promise
    return len(promise.members) == members and promise.acks == 1 and promise.degraded_ns is None


def await_promise(scene: Scene, limit_s: float = LIMIT_S) -> None:
    """Wait for all three."""
    if not processes.wait_until(lambda: promised(scene), limit_s=limit_s):
        raise AssertionError(f"no promise: {scene.cluster.record().promise}\n{scene.cluster.log_tails()}")


def kill(scene: Scene, number: int) -> None:
    """The primary's node."""
    old, moment = scene.cluster.primary, time.monotonic()
    lose(scene, old)
    name, first = scene.await_first(moment, but=old.name)
    scene.run.say(f"{name} goes on after {first - moment:.1f} s")
    come_back(scene, old, reborn=number % 2 == 0)


def two(scene: Scene, number: int) -> None:
    """One of three may not go on alone."""
    cluster = scene.cluster
    old, other = cluster.primary, cluster.replicas[number % 2]
    alone = next(node for node in cluster.nodes if node not in (old, other))
    moment = time.monotonic()
    lose(scene, other)
    lose(scene, old)
    nobody_leads(scene, alone)
    come_back(scene, other, reborn=False)
    name, first = scene.await_first(moment + QUIET_S)
    scene.run.say(f"{name} goes on {first - moment:.1f} s after the loss of two")
    come_back(scene, old, reborn=True)
    if problem(alone, "QuorumLost"):
        scene.run.violation(f"{alone.name} still reports QuorumLost")


def nobody_leads(scene: Scene, alone: ElectedNode) -> None:
    """For long enough, and the node says why."""
    time.sleep(QUIET_S)
    if (alone.info() or {}).get("role") == "primary":
        scene.run.violation(f"{alone.name} took over alone")
    found = processes.wait_until(lambda: bool(problem(alone, "QuorumLost")), limit_s=LIMIT_S)
    text = problem(alone, "QuorumLost")
    if not found or "members must answer" not in text or "accept-data-loss" not in text:
        scene.run.violation(f"{alone.name} does not say who is missing: {text!r}")


def problem(node: Node, code: str) -> str:
    """A problem's text; empty when there is none."""
    found = [item["message"] for item in (node.info() or {}).get("problems", []) if item["code"] == code]
    return str(found[0]) if found else ""


def wiped(scene: Scene, _number: int) -> None:
    """A volume is lost."""
    before = scene.cluster.record().promise.members
    node = scene.cluster.replicas[0]
    lose(scene, node, volume=True)
    come_back(scene, node, reborn=True)

    def changed() -> bool:
        return promised(scene) and len(scene.cluster.record().promise.members & before) == 2

    began = time.monotonic()
    if not processes.wait_until(changed, limit_s=GONE_LIMIT_S):
        scene.run.violation(f"members are still {scene.cluster.record().promise}")
    scene.run.say(f"members follow the volumes after {time.monotonic() - began:.0f} s")


def accepted(scene: Scene, _number: int) -> None:
    """Two volumes are lost: what they alone had may be gone, and only a person may say so."""
    cluster = scene.cluster
    old, other = cluster.primary, cluster.replicas[0]
    alone = next(node for node in cluster.nodes if node not in (old, other))
    lose(scene, other, volume=True)
    lose(scene, old, volume=True)
    for node in (other, old):
        node.births += 1
        cluster.server.call(cluster.server.objects.delete, "pods", NAMESPACE, node.name)
    nobody_leads(scene, alone)
    asked = time.monotonic()
    change = {"metadata": {"annotations": {LOSS: DataLoss("ticket-7", alone.name).to_json()}}}
    cluster.server.call(cluster.server.objects.patch, "leases", NAMESPACE, CLUSTER, change)
    assert processes.wait_until(lambda: cluster.record().pod == alone.name, limit_s=LIMIT_S), cluster.record()
    if cluster.record().loss_handled != "ticket-7":
        scene.run.violation(f"the permission was not noted: {cluster.record()}")
    for node in (other, old):
        cluster.server.call(cluster.server.objects.create, "pods", NAMESPACE, node.pod())
        come_back(scene, node, reborn=False)
    scene.await_first(asked)
    scene.forgiven |= {
        (name, n) for name in (old.name, other.name) for n in scene.told(cluster.node(name)).acknowledged
    }


def degraded(scene: Scene, _number: int) -> None:
    """Both replicas are lost; commits go on, and the Lease says for how long."""
    cluster = scene.cluster
    primary, replicas = cluster.primary, cluster.replicas
    for node in replicas:
        lose(scene, node)
    moment = time.monotonic()
    scene.await_writes(primary, moment)
    if cluster.record().promise.degraded_ns is None:
        scene.run.violation("a commit had no acknowledgement, and the Lease does not say so")
    if not processes.wait_until(lambda: bool(problem(primary, "Degraded")), limit_s=LIMIT_S):
        scene.run.violation(f"{primary.name} does not report Degraded")
    scene.run.say(f"writes went on {scene_gap(scene, primary, moment):.1f} s after both replicas were lost")
    for node in replicas:
        come_back(scene, node, reborn=False)
    if not processes.wait_until(lambda: promised(scene), limit_s=LIMIT_S):
        scene.run.violation(f"the Lease still says {cluster.record().promise}")


def scene_gap(scene: Scene, node: ElectedNode, moment: float) -> float:
    """From a moment to the first commit that began after it."""
    return min(end for begin, end in scene.told(node).acknowledged.values() if begin > moment) - moment


ROUNDS: dict[str, Callable[[Scene, int], None]] = {
    "kill": kill,
    "two": two,
    "wiped": wiped,
    "degraded": degraded,
    "accepted": accepted,
}


@contextlib.contextmanager
def scene_of(run: Run, durability: str) -> Iterator[Scene]:
    """A cluster and its writers."""
    replication = {"mode": "Quorum", "acks": 1, "durability": durability}
    with ElectedCluster(run.new_folder("cluster"), 3, {"lease": TIMES}, replication=replication) as cluster:
        scene = Scene(run, cluster, 50.0)
        try:
            await_promise(scene)
            scene.start()
            yield scene
        finally:
            scene.stop()


def body(run: Run) -> None:
    """Rounds up to the count; each begins with a new cluster."""
    while run.done < run.wanted and len(run.violations) < 3:
        kind = run.options.only or PLAN[run.done % len(PLAN)]
        with scene_of(run, "Preferred" if kind == "degraded" else "Required") as scene:
            ROUNDS[kind](scene, run.done)
            check_rows(scene, Story(), f"round {run.done + 1} ({kind})")
            if run.violations:
                run.say(scene.cluster.log_tails(60))
        run.count()
        run.say(f"{run.done} of {run.wanted}: {kind}")


def main() -> int:
    """Entry of ``python -m lanes.members``."""
    run = lane.parse("members", "rounds", 5, None)
    return lane.rounds_main(run, ROUNDS, body)


if __name__ == "__main__":
    sys.exit(main())
