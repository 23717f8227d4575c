"""Lane: real nodes elect their primary while programs write in every one of them.

Three ``sqlitecluster node`` processes with role elected, a Lease server, and in each
node a program that writes 100 rows a second whenever it may. Rounds:

    hand-off        by annotation, to a named node or to any: nothing acknowledged is lost
    stop            SIGTERM of the primary's node: the same
    kill            SIGKILL of every process of the primary's node
    freeze          SIGSTOP of every process of it for longer than the lease
    api-frozen      the API server answers nothing for 20 s
    lease-deleted   and made again by the "operator" after some seconds
    lease-set-back  to an old copy

Checked after each: the old primary acknowledged nothing once the new one had; images are
equal; after hand-offs every acknowledged row is there. The time to writable is printed.
"""

from __future__ import annotations

import contextlib
import copy
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import electedwriter, lane, ledger, processes
from support.clients import run_sql
from support.electedcluster import CLUSTER, NAMESPACE, ElectedCluster, ElectedNode
from support.electedwriter import Told
from support.lane import Run

RATE = 100.0
DB = "notes.db"
PLAN = (
    *("hand-off", "kill", "hand-off", "freeze", "hand-off", "api-frozen", "hand-off", "lease-deleted"),
    *("hand-off", "stop", "hand-off", "lease-set-back"),
)
WRITABLE_MAX_S = 20.0
GAP_MAX_S = 2.0
LIMIT_S = 90.0


@dataclass
class Story:
    """What the rounds measured."""

    gaps_ms: dict[str, list[float]] = field(default_factory=dict)
    old: dict[str, float] = field(default_factory=dict)
    lost: int = 0

    def add(self, kind: str, seconds: float) -> None:
        self.gaps_ms.setdefault(kind, []).append(seconds * 1000)


class Scene:
    """A cluster with its writers."""

    def __init__(self, run: Run, cluster: ElectedCluster, rate: float = RATE) -> None:
        self.run, self.cluster, self.rate = run, cluster, rate
        self.writers: dict[str, subprocess.Popen[bytes]] = {}
        self.forgiven: set[tuple[str, int]] = set()

    def start(self) -> None:
        """A database, then writers on all nodes."""
        run_sql(self.cluster.primary.mount / DB, electedwriter.TABLE, journal="WAL")
        for node in self.cluster.nodes:
            assert processes.wait_until((node.mount / DB).exists, limit_s=60)
            self.writers[node.name] = electedwriter.start(node.mount / DB, self.record(node), node.name, self.rate)
        self.await_writes(self.cluster.primary, 0.0)

    def stop(self) -> None:
        """End the writers."""
        for writer in self.writers.values():
            processes.end(writer, limit_s=60)

    def record(self, node: ElectedNode) -> Path:
        """A writer's record."""
        return self.cluster.folder / f"told-{node.name}"

    def told(self, node: ElectedNode) -> Told:
        """What the writer on a node was told."""
        return electedwriter.read_told(self.cluster.folder / f"told-{node.name}")

    def first_after(self, moment: float, *, but: str = "") -> tuple[str, float] | None:
        """Who first acknowledged a write that began after a moment, and when it did."""
        found = [
            (min(ends), node.name)
            for node in self.cluster.nodes
            if node.name != but and (ends := [e for b, e in self.told(node).acknowledged.values() if b > moment])
        ]
        return (min(found)[1], min(found)[0]) if found else None

    def await_first(self, moment: float, *, but: str = "") -> tuple[str, float]:
        """Wait for it."""
        deadline = time.monotonic() + LIMIT_S
        while (first := self.first_after(moment, but=but)) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"nobody could write for {LIMIT_S:.0f} s\n{self.cluster.log_tails()}")
            time.sleep(0.05)
        return first

    def await_writes(self, node: ElectedNode, since: float) -> None:
        """A node's writer is told of writes."""
        assert processes.wait_until(
            lambda: any(b > since for b, _ in self.told(node).acknowledged.values()), limit_s=LIMIT_S
        ), f"the writer on {node.name} does not get on\n{self.cluster.log_tails()}"

    def last_before(self, node: ElectedNode, moment: float) -> float:
        """End of a node's last acknowledged write that ended before a moment."""
        return max((e for _, e in self.told(node).acknowledged.values() if e <= moment), default=moment)


def hand_off(scene: Scene, story: Story, number: int) -> None:
    """By annotation."""
    cluster = scene.cluster
    old = cluster.primary
    kind = "demote" if number % 7 == 3 else "handoff"
    to = "*" if kind == "demote" or number % 2 else cluster.replicas[0].name
    asked = time.monotonic()
    result = cluster.result(cluster.ask(to, kind))
    if result["phase"] != "Completed":
        raise AssertionError(f"{kind} to {to} failed: {result}\n{cluster.log_tails()}")
    new, first = scene.await_first(asked, but=old.name)
    if kind == "handoff" and to not in ("*", new):
        raise AssertionError(f"asked for {to}, got {new}")
    gap = first - scene.last_before(old, first)
    story.add("hand-off", gap)
    story.add("hand-off (reported)", result["writeGapMillis"] / 1000)
    if gap > GAP_MAX_S:
        scene.run.violation(f"write gap of {gap * 1000:.0f} ms in a hand-off ({result})")
    check_old(scene, old, first)


def stop(scene: Scene, story: Story, _number: int) -> None:
    """SIGTERM; the node comes back as another pod."""
    old = scene.cluster.primary
    assert old.process is not None
    end_writer(scene, old)
    moment = time.monotonic()
    old.process.send_signal(signal.SIGTERM)
    _, first = scene.await_first(moment, but=old.name)
    story.add("stop", first - moment)
    old.stop()
    come_back(scene, old, reborn=True)


def kill(scene: Scene, story: Story, number: int) -> None:
    """SIGKILL of all processes of the node, as when a machine is lost."""
    old = scene.cluster.primary
    before = set(scene.told(old).acknowledged)
    moment = time.monotonic()
    old.signal_all(signal.SIGKILL)
    _, first = scene.await_first(moment, but=old.name)
    writable(scene, story, "kill", first - moment)
    forgive(scene, story, old, before)
    end_writer(scene, old)
    old.process = None
    come_back(scene, old, reborn=number % 2 == 0)


def freeze(scene: Scene, story: Story, _number: int) -> None:
    """SIGSTOP until somebody else writes, and some seconds more."""
    old = scene.cluster.primary
    before = set(scene.told(old).acknowledged)
    moment = time.monotonic()
    old.freeze()
    try:
        _, first = scene.await_first(moment, but=old.name)
        writable(scene, story, "freeze", first - moment)
        time.sleep(3)
    finally:
        old.thaw()
    scene.cluster.settled()
    check_old(scene, old, first)
    forgive(scene, story, old, before)


def api_frozen(scene: Scene, story: Story, _number: int) -> None:
    """Nobody can renew: the fence ends writing, and the cluster recovers by itself."""
    old = scene.cluster.primary
    before = set(scene.told(old).acknowledged)
    moment = time.monotonic()
    scene.cluster.server.freeze()
    try:
        time.sleep(20)
    finally:
        scene.cluster.server.thaw()
    thawed = time.monotonic()
    last = max(e for node in scene.cluster.nodes for _, e in scene.told(node).acknowledged.values())
    if last > moment + 7.0:
        scene.run.violation(f"writes were acknowledged for {last - moment:.1f} s without a renewal")
    new, first = scene.await_first(thawed)
    story.add("api-frozen: until the fence", last - moment)
    story.add("api-frozen: after the thaw", first - thawed)
    if new != old.name:
        forgive(scene, story, old, before)
        check_old(scene, old, first)


def lease_deleted(scene: Scene, story: Story, number: int) -> None:
    """The operator makes it again: before or after the fence."""
    cluster = scene.cluster
    old, before = cluster.primary, set(scene.told(cluster.primary).acknowledged)
    epoch = cluster.record().epoch
    moment = time.monotonic()
    cluster.delete_lease()
    time.sleep(2 if number % 2 else 8)
    cluster.make_lease(epoch)
    again = time.monotonic()
    cluster.settled()
    new, first = scene.await_first(again)
    writable(scene, story, "lease-deleted", max(0.0, first - again))
    if new != old.name:
        forgive(scene, story, old, before)
    if cluster.record().epoch <= epoch:
        scene.run.violation(f"epoch {cluster.record().epoch} after {epoch} (deleted at {moment:.0f})")


def lease_set_back(scene: Scene, story: Story, number: int) -> None:
    """An old copy comes back: an older epoch, another holder."""
    cluster = scene.cluster
    old, before = cluster.primary, set(scene.told(cluster.primary).acknowledged)
    objects, epoch = cluster.server.objects, cluster.record().epoch

    def set_back() -> None:
        value = copy.deepcopy(objects.get("leases", NAMESPACE, CLUSTER))
        value["metadata"]["annotations"]["sqlitecluster.dev/epoch"] = str(max(1, epoch - 2))
        holder = cluster.nodes[number % 3]
        value["spec"]["holderIdentity"] = holder.holder
        value["metadata"]["annotations"]["sqlitecluster.dev/advertise"] = f"{holder.address}:{cluster.base_port + 2}"
        value["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
        objects.put("leases", NAMESPACE, CLUSTER, value)

    moment = time.monotonic()
    cluster.server.call(set_back)
    time.sleep(3)
    cluster.settled()
    new, first = scene.await_first(moment + 3)
    writable(scene, story, "lease-set-back", first - moment - 3)
    if new != old.name:
        forgive(scene, story, old, before)
        check_old(scene, old, first)
    if cluster.record().epoch <= epoch:
        scene.run.violation(f"epoch {cluster.record().epoch} was accepted after {epoch}")


ROUNDS: dict[str, Callable[[Scene, Story, int], None]] = {
    "hand-off": hand_off,
    "stop": stop,
    "kill": kill,
    "freeze": freeze,
    "api-frozen": api_frozen,
    "lease-deleted": lease_deleted,
    "lease-set-back": lease_set_back,
}


def writable(scene: Scene, story: Story, kind: str, seconds: float) -> None:
    """Note the time to writable."""
    story.add(kind, seconds)
    if seconds > WRITABLE_MAX_S:
        scene.run.violation(f"{kind}: writable only after {seconds:.1f} s")


def check_old(scene: Scene, old: ElectedNode, first: float) -> None:
    """The old primary acknowledged nothing that began or ended after the new one's first write."""
    record = scene.cluster.record()
    if record.pod == old.name:
        return
    late = [n for n, (_, end) in scene.told(old).acknowledged.items() if end > first]
    if late:
        scene.run.violation(f"{old.name} acknowledged {len(late)} rows after {record.pod} had taken over: {late[:5]}")


def forgive(scene: Scene, story: Story, old: ElectedNode, before: set[int]) -> None:
    """Rows that an unclean loss may cost: what the old primary acknowledged just before it, in Async."""
    told = scene.told(old).acknowledged
    recent = max((told[n][1] for n in before), default=0.0) - 1.0
    for n, (_, end) in told.items():
        if n not in before or end >= recent:
            scene.forgiven.add((old.name, n))


def end_writer(scene: Scene, node: ElectedNode) -> None:
    """Programs end with their pod."""
    writer = scene.writers.pop(node.name)
    writer.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        writer.wait(30)


def come_back(scene: Scene, node: ElectedNode, *, reborn: bool) -> None:
    """The pod is there again, under the same uid or as another one, with its volume."""
    objects = scene.cluster.server.objects
    if reborn:
        node.births += 1
        scene.cluster.server.call(objects.delete, "pods", NAMESPACE, node.name)
        scene.cluster.server.call(objects.create, "pods", NAMESPACE, node.pod())
    node.start()
    scene.cluster.settled()
    assert processes.wait_until((node.mount / DB).exists, limit_s=60)
    told = scene.cluster.folder / f"told-{node.name}"
    name = f"{node.name}.{len(list(scene.cluster.folder.glob(f'{told.name}*')))}"
    told.rename(told.with_name(f"told-{name}"))
    scene.forgiven |= {(name, n) for who, n in scene.forgiven if who == node.name}
    scene.forgiven = {(who, n) for who, n in scene.forgiven if who != node.name}
    rename_rows(scene, node.name, name)
    scene.writers[node.name] = electedwriter.start(node.mount / DB, told, node.name, RATE)


def rename_rows(scene: Scene, old: str, new: str) -> None:
    """Rows of the program that ended get its successor out of the way."""
    for _ in range(200):
        try:
            run_sql(scene.cluster.primary.mount / DB, f"UPDATE t SET writer='{new}' WHERE writer='{old}'")
            return
        except sqlite3.OperationalError:
            time.sleep(0.05)
    raise AssertionError("the rows could not be renamed")


def check_rows(scene: Scene, story: Story, where: str) -> None:
    """Every acknowledged row is in the database, on every node the same."""
    cluster = scene.cluster
    cluster.settled()
    expected = {
        (path.name.removeprefix("told-"), n)
        for path in cluster.folder.glob("told-*")
        if not path.name.endswith(".log")
        for n in electedwriter.read_told(path).acknowledged
    }
    rows = {tuple(row) for row in run_sql(cluster.primary.mount / DB, "SELECT writer, n FROM t")}
    missing = expected - rows
    story.lost = len(missing & scene.forgiven)
    wrong = missing - scene.forgiven
    if wrong:
        scene.run.violation(f"{where}: {len(wrong)} acknowledged rows are missing: {sorted(wrong)[:5]}")
    if not processes.wait_until(lambda: _labelled(cluster), limit_s=10):
        scene.run.violation(f"{where}: role labels {cluster.labels()}, the Lease names {cluster.record().pod}")


def _labelled(cluster: ElectedCluster) -> bool:
    return [name for name, role in cluster.labels().items() if role == "primary"] == [cluster.record().pod]


@contextlib.contextmanager
def scene_of(run: Run, scene: Callable[[ElectedCluster], Scene], **options: Any) -> Iterator[Scene]:
    """A cluster with writers."""
    with ElectedCluster(run.new_folder(run.name), **options) as cluster:
        made = scene(cluster)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def go_round(run: Run, scene: Scene, plan: Sequence[str], one: Callable[[str, Story], None]) -> None:
    """Rounds up to the count, each judged."""
    story = Story()
    while run.done < run.wanted and len(run.violations) < 3:
        kind = run.options.only or plan[run.done % len(plan)]
        one(kind, story)
        check_rows(scene, story, f"round {run.done + 1} ({kind})")
        run.count()
        newest = {k: round(v[-1]) for k, v in story.gaps_ms.items() if k.startswith(kind)}
        run.say(f"{run.done} of {run.wanted}: {kind} {newest} epoch {scene.cluster.record().epoch}")
    if run.violations:
        run.say(scene.cluster.log_tails(60))
    report(run, story)


def body(run: Run) -> None:
    """Rounds up to the count."""
    with scene_of(run, lambda cluster: Scene(run, cluster)) as scene:

        def one(kind: str, story: Story) -> None:
            if run.done:
                time.sleep(1.0)
            ROUNDS[kind](scene, story, run.done)

        go_round(run, scene, PLAN, one)


def report(run: Run, story: Story) -> None:
    """The figures."""
    for kind, values in story.gaps_ms.items():
        p50, p95 = ledger.percentile(values, 0.5), ledger.percentile(values, 0.95)
        run.say(f"{kind}: {len(values)} times, p50 {p50:.0f} ms, p95 {p95:.0f} ms, longest {max(values):.0f} ms")
    run.say(f"unclean losses cost {story.lost} acknowledged rows (Async: what was under way)")


def main() -> int:
    """Entry of ``python -m lanes.elected``."""
    run = lane.parse("elected", "rounds", 12, None)
    return lane.rounds_main(run, ROUNDS, body)


if __name__ == "__main__":
    sys.exit(main())
