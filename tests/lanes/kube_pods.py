"""Lane ``kube-pods``: pods whose sidecar dies, is cut short or is taken away with its mount alive.

Every case ends with the same questions: is the pod Ready again without a human, did the program's own container
live on, is every database file still on every volume (the same one, and what lies beside it), are all acknowledged
rows there, is nothing left mounted?

Only where a primary is killed may rows be gone: its own of the last moment, which had not been replicated.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support import kube, ledger
from support import podparts as parts
from support.lane import Run, parse, run_lane
from support.sampled import Sampled

GONE_LIMIT_S = 90.0
BACK_LIMIT_S = 120.0
REPEATED_KILLS = 3
BACK_OFF_S = 9.0
"""kubelet starts a container again at once, then after 10 s, 20 s and so on, while it does not live for ten minutes."""
WRITABLE_MAX_S = 20.0
DATABASE = "app.db"
SENTINEL = "not-ours"
"""A file beside the database that nobody has a reason to touch."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A primary was killed: the one thing after which rows may be gone."""

    pod: str
    before: float
    after: float

    def excuses(self, ack: ledger.Ack) -> bool:
        """Whether a row may be gone: the pod's own, acknowledged in the last moment, or begun and then noted late."""
        return ack.pod == self.pod and self.before - ledger.UNREPLICATED_S <= ack.at and ack.began <= self.after


Case = Callable[[Run, Sampled], list[Kill] | None]
"""Returns what may have cost rows; None: nothing may."""


def _sigkill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _killed(sampled: Sampled, pod: str, kill: Callable[[int], object]) -> Kill:
    """Kill a sidecar's container and wait until kubelet has started it again."""
    times = parts.restarts(sampled, pod, "sqlite-sidecar")
    pid, moment = sampled.sidecar_pid(pod), time.time()
    kill(pid)
    killed = Kill(pod, moment, time.time())
    kube.wait_for(
        f"the sidecar of {pod} was started again",
        lambda: parts.restarts(sampled, pod, "sqlite-sidecar") > times,
        limit_s=BACK_LIMIT_S,
    )
    return killed


def _died_and_came_back(sampled: Sampled, pod: str, kill: Callable[[int], object]) -> list[Kill]:
    """Kill a sidecar's container; the pod and the program's container must live on and work."""
    before, program = parts.uid(sampled, pod), parts.restarts(sampled, pod, "app")
    killed = _killed(sampled, pod, kill)
    sampled.wait_ready()
    assert parts.uid(sampled, pod) == before, f"{pod} was made anew"
    assert parts.restarts(sampled, pod, "app") == program, f"the program of {pod} was started again"
    kube.wait_for(f"the program of {pod} reads", lambda: sampled.rows(pod), limit_s=BACK_LIMIT_S)
    return [killed]


def replica_sidecar_killed(_run: Run, sampled: Sampled) -> None:
    """SIGKILL of the container's first process on a replica."""
    _died_and_came_back(sampled, sampled.replica(), _sigkill)


def primary_sidecar_killed(_run: Run, sampled: Sampled) -> list[Kill]:
    """The same on the primary."""
    return _died_and_came_back(sampled, sampled.holder(), _sigkill)


def replica_out_of_memory(_run: Run, sampled: Sampled) -> None:
    """All processes of the container at once."""
    _died_and_came_back(sampled, sampled.replica(), parts.kill_container)


def primary_out_of_memory(_run: Run, sampled: Sampled) -> list[Kill]:
    """The same on the primary."""
    return _died_and_came_back(sampled, sampled.holder(), parts.kill_container)


def killed_again_and_again(run: Run, sampled: Sampled) -> list[Kill]:
    """The primary's sidecar is killed whenever it is back: kubelet waits longer each time; others write meanwhile."""
    pod = sampled.holder()
    kills, waits = [], []
    for _ in range(REPEATED_KILLS):
        moment = time.time()
        sampled.wait_writes()
        kills.append(_killed(sampled, pod, _sigkill))
        waits.append(time.time() - kills[-1].before)
        silence = ledger.longest_silence([moment, *(a.at for a in sampled.acks() if a.at > moment), time.time()])[0]
        assert silence <= WRITABLE_MAX_S, f"nobody wrote for {silence:.1f} s although two sidecars live"
        sampled.wait_ready()
    run.say(f"started again after {', '.join(f'{wait:.1f} s' for wait in waits)}; primary {sampled.holder()}")
    assert waits[-1] > BACK_OFF_S, f"kubelet's back-off was never met: {waits}"
    return kills


def deleted_in_back_off(run: Run, sampled: Sampled) -> None:
    """The pod is deleted while its sidecar is dead and not started again yet: only the guard can unmount."""
    pod = sampled.replica()
    node, before = sampled.node_of(pod), parts.uid(sampled, pod)
    for _ in range(20):
        if "CrashLoopBackOff" in str(parts.container(sampled, pod, "sqlite-sidecar")["state"]):
            break
        try:
            parts.kill_container(sampled.sidecar_pid(pod))
        except AssertionError:
            time.sleep(0.5)
        time.sleep(0.5)
    else:
        raise AssertionError(f"the sidecar of {pod} never came into back-off")
    assert parts.mounts_of(node, before) > 0
    began = time.monotonic()
    sampled.kubectl("delete", "pod", pod, "--wait=false")
    _torn_down(sampled, pod, node, before)
    run.say(f"torn down after {time.monotonic() - began:.1f} s")


def content_removed_with_the_mount_alive(_run: Run, sampled: Sampled) -> None:
    """Somebody clears the pod's volume away, as a kubelet would, while the sidecar ends and still serves."""
    pod = sampled.replica()
    node, before = sampled.node_of(pod), parts.uid(sampled, pod)
    replicator = parts.worker_pid(sampled, pod, "sqlc-replicator")
    os.kill(replicator, signal.SIGSTOP)  # the sidecar's end takes as long as this test wants
    try:
        sampled.kubectl("delete", "pod", pod, "--wait=false")
        kube.wait_for(f"the program of {pod} has ended", lambda: not parts.programs(before), limit_s=GONE_LIMIT_S)
        time.sleep(4.0)  # the supervisor has its SIGTERM
        folder = f"{parts.volume_dir(before)}/fs"
        listing = parts.on_node(node, f"ls {folder}").stdout.split()
        assert "app.db" in listing, f"the mount is not there any more: {listing}"
        removal = parts.on_node(node, f"rm -rf {folder}/app.db {folder}/app.db-wal; rm -rf {folder}/*")
        assert removal.returncode != 0, "everything could be removed"
        assert parts.on_node(node, f"ls {folder}").stdout.split() == listing, "something is gone"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(replicator, signal.SIGCONT)
    _torn_down(sampled, pod, node, before)


def replica_deleted(_run: Run, sampled: Sampled) -> None:
    """An ordinary deletion of a replica."""
    pod = sampled.replica()
    node, before = sampled.node_of(pod), parts.uid(sampled, pod)
    sampled.kubectl("delete", "pod", pod, "--wait=false")
    _torn_down(sampled, pod, node, before)


def primary_deleted(run: Run, sampled: Sampled) -> None:
    """An ordinary deletion of the primary: somebody else is it before the pod has ended."""
    pod = sampled.holder()
    node, before, moment = sampled.node_of(pod), parts.uid(sampled, pod), time.time()
    sampled.kubectl("delete", "pod", pod, "--wait=false")
    _torn_down(sampled, pod, node, before)
    assert sampled.holder(), "nobody is the primary"
    _handed_over(run, sampled, pod, moment)


def primary_drained(run: Run, sampled: Sampled) -> None:
    """The node of the primary is drained; its pod waits for the node, because its volume is there."""
    pod = sampled.holder()
    node, before, moment = sampled.node_of(pod), parts.uid(sampled, pod), time.time()
    began = time.monotonic()
    with parts.drained(sampled, node):
        run.say(f"drained after {time.monotonic() - began:.1f} s")
        kube.wait_for("nothing is mounted", lambda: parts.mounts_of(node, before) == 0, limit_s=GONE_LIMIT_S)
        assert sampled.holder() != pod, f"{pod} is still the primary"
        sampled.wait_writes()
        _handed_over(run, sampled, pod, moment)


def guard_killed(_run: Run, sampled: Sampled) -> None:
    """The guard itself is killed: it is started again and does its work."""
    pod = sampled.replica()
    node, before = sampled.node_of(pod), parts.uid(sampled, pod)
    times = parts.restarts(sampled, pod, "sqlite-guard")
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q 'guard.sh /mnt' && echo $p; done"
    for line in parts.on_node(node, script).stdout.split():
        done = parts.on_node(node, f"grep -q {before} {line}/mountinfo && kill -9 {line.rpartition('/')[2]}")
        if done.returncode == 0:
            break
    kube.wait_for(
        "the guard was started again",
        lambda: parts.restarts(sampled, pod, "sqlite-guard") > times,
        limit_s=BACK_LIMIT_S,
    )
    sampled.wait_ready()
    sampled.kubectl("delete", "pod", pod, "--wait=false")
    _torn_down(sampled, pod, node, before)


CASES: dict[str, Case] = {
    case.__name__.replace("_", "-"): case
    for case in (
        replica_sidecar_killed,
        primary_sidecar_killed,
        replica_deleted,
        replica_out_of_memory,
        primary_deleted,
        primary_out_of_memory,
        content_removed_with_the_mount_alive,
        primary_drained,
        deleted_in_back_off,
        guard_killed,
        killed_again_and_again,
    )
}


def _torn_down(sampled: Sampled, pod: str, node: str, before: str) -> None:
    """A pod ended, its volumes were taken away, and another one stands in its place."""
    kube.wait_for(
        f"{pod} was made anew", lambda: parts.uid(sampled, pod) not in ("", before), limit_s=GONE_LIMIT_S, step_s=0.5
    )
    kube.wait_for("nothing is mounted", lambda: parts.mounts_of(node, before) == 0, limit_s=GONE_LIMIT_S)
    folder = f"{parts.KUBELET}/{before}"
    kube.wait_for(
        "the pod's folder is gone", lambda: parts.on_node(node, f"test -e {folder}").returncode, limit_s=GONE_LIMIT_S
    )


def _handed_over(run: Run, sampled: Sampled, old: str, moment: float) -> None:
    gap = ledger.handed_over(sampled.acks(), moment, old)
    run.say(f"write gap {gap.seconds * 1000:.0f} ms")


def _mark(sampled: Sampled) -> dict[Path, int]:
    """Put a file beside every pod's database; the databases' files and inodes."""
    found = {}
    for pod in sampled.pods():
        path = parts.database_files(sampled, pod)[DATABASE]
        path.with_name(SENTINEL).write_text(pod)
        found[path] = path.stat().st_ino
    return found


def _check_files(marked: dict[Path, int]) -> None:
    """Every volume has the file of before, neither emptied nor made again, and what lay beside it."""
    for path, inode in marked.items():
        assert path.exists(), f"{path} is gone"
        assert path.stat().st_ino == inode, f"{path} is another file"
        assert path.stat().st_size, f"{path} is empty"
        assert path.with_name(SENTINEL).exists(), f"what lay beside {path} is gone"


def _check(run: Run, sampled: Sampled, kills: list[Kill], marked: dict[Path, int]) -> None:
    """After each case: Ready, every file and every row there."""
    sampled.wait_ready()
    sampled.wait_writes()
    _check_files(marked)
    lost, twice = sampled.check_rows(sampled.acks())
    assert not twice, f"{len(twice)} rows are doubled"
    wrong = [ack for ack in lost if not any(kill.excuses(ack) for kill in kills)]
    assert not wrong, f"{len(wrong)} acknowledged rows are lost: {wrong[:3]}; {kills}"
    if lost:
        run.say(f"{len(lost)} rows of the moment of a kill had not been replicated")
        sampled.forget(lost)


def body(run: Run) -> None:
    """All cases in turn on one cluster."""
    with kube.deployed(), kube.namespace("pods") as namespace:
        sampled = Sampled(run, namespace, rate=20)
        sampled.start()
        names = [run.options.only] if run.options.only else list(CASES)
        for turn in itertools.count(run.options.skip):
            if run.done + len(run.violations) >= run.wanted:
                break
            name = names[turn % len(names)]
            began = time.monotonic()
            try:
                marked = _mark(sampled)
                _check(run, sampled, CASES[name](run, sampled) or [], marked)
                run.count()
                run.say(f"ok   {name} ({time.monotonic() - began:.1f} s)")
            except AssertionError as error:
                run.violation(f"{name}: {error}\n{sampled.describe()}")
                sampled.wait_ready()


def main() -> int:
    """Entry of ``python -m lanes.kube_pods``."""
    run = parse("kube_pods", "ends of sidecars and pods", len(CASES), None)
    if run.options.list:
        print("\n".join(CASES))
        return 0
    return run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
