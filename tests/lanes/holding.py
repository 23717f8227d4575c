"""Lane: the API server is away, under ``HoldIfPeersAgree``: nobody notices, and never two write.

Three real nodes as in the lane ``elected``, with shorter leases, a program that writes 50 rows
a second in each, and a Lease server that can be frozen, for all or for one node. Rounds:

    frozen   for everybody; from the fourth round on for a minute
    cut      for the primary alone: the others see its Lease run out, and keep their word
    silent   for everybody, and one replica is stopped: the fence, as without the policy

Checked: under ``frozen`` and ``cut`` no write fails and none waits longer than a moment, the
same primary goes on in the same epoch, it says so while it lasts, and nobody else is told of
a write. Under ``silent`` writing ends in time, and goes on after the thaw. At the end of each
round every acknowledged row is in every image.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

from lanes.elected import Scene, Story, check_old, forgive, go_round, scene_of
from support import lane, processes
from support.electedcluster import ElectedNode
from support.lane import Run

TIMES = {"durationS": 6, "renewDeadlineS": 4, "retryPeriodS": 1, "marginMs": 500}
FENCE_S = 3.5
PLAN = ("frozen", "cut", "silent")
SHORT_S, LONG_S = 12.0, 60.0
WAIT_MAX_S = 2.0
CODE = "HoldingByAgreement"


def frozen(scene: Scene, story: Story, number: int) -> None:
    """Nobody can renew or read the Lease."""
    server = scene.cluster.server
    held(scene, story, "frozen", SHORT_S if number < len(PLAN) else LONG_S, server.freeze, server.thaw)


def cut(scene: Scene, story: Story, number: int) -> None:
    """The primary alone cannot."""
    server, name = scene.cluster.server, scene.cluster.primary.name
    length = SHORT_S if number < len(PLAN) else LONG_S
    held(scene, story, "cut", length, lambda: server.cut(name), lambda: server.mend(name))


def held(
    scene: Scene, story: Story, kind: str, length: float, begin: Callable[[], None], end: Callable[[], None]
) -> None:
    """An outage that no program notices."""
    primary, before = scene.cluster.primary, scene.cluster.record()
    unknown = len(scene.told(primary).unknown)
    moment = time.monotonic()
    begin()
    try:
        time.sleep(length / 2)
        said = problems(primary)
        agreed = ((primary.info() or {}).get("election") or {}).get("holdingByAgreement")
        time.sleep(length / 2)
    finally:
        end()
    over = time.monotonic()
    scene.await_writes(primary, over)
    if not processes.wait_until(lambda: CODE not in problems(primary), limit_s=20):
        scene.run.violation(f"{kind}: {CODE} is still reported {problems(primary)}")
    ended = time.monotonic()
    if CODE not in said or agreed is not True:
        scene.run.violation(f"{kind}: {primary.name} did not say that it holds by agreement: {said}, {agreed}")
    if failed := scene.told(primary).unknown[unknown:]:
        scene.run.violation(f"{kind}: {len(failed)} writes failed: {failed[:3]}")
    after = scene.cluster.record()
    if (after.holder, after.epoch) != (before.holder, before.epoch):
        scene.run.violation(f"{kind}: epoch {after.epoch} of {after.holder} after {before.epoch} of {before.holder}")
    for node in scene.cluster.nodes:
        if node is not primary and any(e > moment for _, e in scene.told(node).acknowledged.values()):
            scene.run.violation(f"{kind}: {node.name} acknowledged writes beside {primary.name}")
    longest = longest_wait(scene, primary, moment, ended)
    story.add(f"{kind}: longest wait of a write", longest)
    if longest > WAIT_MAX_S:
        scene.run.violation(f"{kind}: no write was acknowledged for {longest:.1f} s")


def silent(scene: Scene, story: Story, _number: int) -> None:
    """One replica does not promise anything: the fence."""
    cluster = scene.cluster
    old, mute, before = cluster.primary, cluster.replicas[0], cluster.record()
    rows = set(scene.told(old).acknowledged)
    moment = time.monotonic()
    mute.freeze()
    cluster.server.freeze()
    try:
        time.sleep(SHORT_S)
        last = max(e for node in cluster.nodes for _, e in scene.told(node).acknowledged.values())
        still = CODE in problems(old)
    finally:
        cluster.server.thaw()
        mute.thaw()
    thawed = time.monotonic()
    story.add("silent: until the fence", last - moment)
    if not moment < last <= moment + FENCE_S + 1.0:
        scene.run.violation(f"silent: the last write was acknowledged {last - moment:.1f} s after the outage began")
    if still:
        scene.run.violation(f"silent: {old.name} says that it holds by agreement")
    new, first = scene.await_first(thawed)
    story.add("silent: after the thaw", first - thawed)
    cluster.settled()
    if cluster.record().epoch <= before.epoch:
        scene.run.violation(f"silent: {new} writes in epoch {cluster.record().epoch} after {before.epoch}")
    if new != old.name:
        forgive(scene, story, old, rows)
        check_old(scene, old, first)


ROUNDS: dict[str, Callable[[Scene, Story, int], None]] = {"frozen": frozen, "cut": cut, "silent": silent}


def problems(node: ElectedNode) -> list[str]:
    """Codes of what a node reports."""
    return [str(problem["code"]) for problem in (node.info() or {}).get("problems", [])]


def longest_wait(scene: Scene, node: ElectedNode, begin: float, end: float) -> float:
    """The longest time between two acknowledgements on a node."""
    moments = sorted(e for _, e in scene.told(node).acknowledged.values() if begin - 1 <= e <= end)
    stops = [begin, *(m for m in moments if m > begin), end]
    return max(b - a for a, b in itertools.pairwise(stops))


def body(run: Run) -> None:
    """Rounds up to the count, under the policy."""
    election = {"apiOutagePolicy": "HoldIfPeersAgree", "lease": TIMES}
    with scene_of(run, lambda cluster: Scene(run, cluster, rate=50.0), election=election) as scene:

        def one(kind: str, story: Story) -> None:
            listed(scene)
            ROUNDS[kind](scene, story, run.done)

        go_round(run, scene, PLAN, one)


def listed(scene: Scene) -> None:
    """Until the Lease says that both others must agree."""
    cluster = scene.cluster
    others = {node.holder for node in cluster.replicas}
    assert processes.wait_until(lambda: cluster.record().must_agree == others, limit_s=30), cluster.record()


def main() -> int:
    """Entry of ``python -m lanes.holding``."""
    run = lane.parse("holding", "rounds", 6, None)
    return lane.rounds_main(run, ROUNDS, body)


if __name__ == "__main__":
    sys.exit(main())
