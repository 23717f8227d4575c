"""Lane ``kube-life``: what happens to every cluster one day, with real pods under a writing program.

Each case has a SQLiteCluster of its own with the sample program; at its end every acknowledged row is
there once on every pod.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support import kube, ledger, podparts
from support.lane import Run, parse, registry, run_cases, run_lane
from support.sampled import Sampled

CASES, case = registry()
CHANGE_LIMIT_S = 240.0


@contextmanager
def _running(run: Run, label: str, **options: Any) -> Iterator[Sampled]:
    with kube.namespace(label) as namespace:
        sampled = Sampled(run, namespace, **options)
        sampled.start()
        yield sampled
        sampled.wait_writes()
        lost, twice = sampled.check_rows(sampled.acks())
        assert not lost, f"{len(lost)} acknowledged rows are lost: {lost[:3]}"
        assert not twice, f"{len(twice)} rows are doubled"


def _wait(sampled: Sampled, what: str, look: Callable[[], object], limit_s: float = CHANGE_LIMIT_S) -> None:
    try:
        kube.wait_for(what, look, limit_s=limit_s)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{sampled.describe()}") from None


@case
def cordon_moves_the_primary_away(run: Run) -> None:
    with _running(run, "cordon") as sampled:
        old = sampled.holder()
        node = sampled.node_of(old)
        moment = time.time()
        kube.kubectl("cordon", node)
        try:
            _wait(sampled, f"the primary leaves {node}", lambda: sampled.holder() not in ("", old), 60)
            sampled.wait_writes(but=old)
        finally:
            kube.kubectl("uncordon", node)
        gap = ledger.handed_over(sampled.acks(), moment, old)
        run.say(f"cordon: write gap {gap.seconds * 1000:.0f} ms")


@case
def an_update_rolls_replicas_first_and_the_primary_last(run: Run) -> None:
    with _running(run, "rolling") as sampled:
        before = {pod: kube.get(f"pod/{pod}", sampled.namespace)["metadata"]["uid"] for pod in sampled.pods()}
        moment = time.time()
        container = sampled.manifest["spec"]["template"]["spec"]["containers"][0]
        container["env"].append({"name": "CHANGED", "value": "yes"})
        sampled.apply()

        def renewed() -> bool:
            pods = kube.get("pods", sampled.namespace, selector="sqlitecluster.dev/cluster=notes")["items"]
            new = [pod for pod in pods if pod["metadata"]["uid"] != before.get(pod["metadata"]["name"])]
            return len(new) == 3 and sampled.ready()

        _wait(sampled, "all pods are new and ready", renewed)
        sampled.wait_writes()
        times = [moment, *(ack.at for ack in sampled.acks() if ack.at > moment)]
        longest = ledger.longest_silence(times)[0]
        run.say(f"rolling update: no writes for {longest * 1000:.0f} ms at most")
        assert longest < 5, f"no writes for {longest:.1f} s during a rolling update"


@case
def a_replica_that_lost_its_volume_gets_everything_again(run: Run) -> None:
    with _running(run, "volume") as sampled:
        pod = next(pod for pod in sampled.pods() if pod != sampled.holder())
        uid = kube.get(f"pod/{pod}", sampled.namespace)["metadata"]["uid"]
        sampled.kubectl("delete", "pvc", f"data-{pod}", "--wait=false")
        sampled.kubectl("delete", "pod", pod, "--wait=false")

        def back() -> bool:
            found = kube.get(f"pod/{pod}", sampled.namespace)
            return bool(found["metadata"]["uid"] != uid) and sampled.ready()

        _wait(sampled, f"{pod} is back with a new volume", back)


@case
def a_program_that_must_write_runs_on_the_primary_only(run: Run) -> None:
    with kube.namespace("primary") as namespace:
        sampled = Sampled(run, namespace, runOn="Primary")
        container = sampled.manifest["spec"]["template"]["spec"]["containers"][0]
        container["env"].append({"name": "MUST_WRITE", "value": "yes"})
        sampled.start()
        standby = [entry["name"] for entry in sampled.status()["instancesStatus"] if entry.get("standby")]
        assert len(standby) == 2, sampled.status()["instancesStatus"]
        for turn, leave in enumerate((_by_annotation, _by_force)):
            old = sampled.holder()
            leave(sampled, old, f"turn-{turn}")
            sampled.wait_writes(90, but=old)
            sampled.wait_ready()
            run.say(f"{old} -> {sampled.holder()}, program and all")
        restarts = [_restarts(sampled, pod) for pod in sampled.pods()]
        assert max(restarts) <= 1, f"programs that cannot write were started: {restarts} restarts"
        table = sampled.rows(sampled.holder())
        lost = [ack for ack in ledger.missing(sampled.acks(), table) if ack.at < time.time() - 2]
        assert len(lost) <= 100, f"{len(lost)} rows are lost, more than one second of them"


def _by_annotation(sampled: Sampled, _old: str, token: str) -> None:
    sampled.annotate(handoff_to="*", handoff_id=token)


def _by_force(sampled: Sampled, old: str, _token: str) -> None:
    podparts.kill_pod(sampled, old)


def _restarts(sampled: Sampled, pod: str) -> int:
    status = json.loads(sampled.kubectl("get", "pod", pod, "-o", "json"))["status"]
    return max((entry["restartCount"] for entry in status.get("containerStatuses", [])), default=0)


@case
def nobody_misses_the_operator(run: Run) -> None:
    with _running(run, "alone") as sampled:
        where = ("--namespace", "sqlitecluster-system")
        kube.kubectl(*where, "scale", "deployment", "sqlitecluster", "--replicas=0")
        try:
            _wait(sampled, "the operator is away", lambda: not kube.get("pods", "sqlitecluster-system")["items"], 60)
            old = sampled.holder()
            sampled.kubectl("delete", "pod", old, "--wait=false")
            sampled.wait_writes(60, but=old)
        finally:
            kube.kubectl(*where, "scale", "deployment", "sqlitecluster", "--replicas=1")
        sampled.wait_ready()


@case
def scale_one_three_five_two_three(run: Run) -> None:
    with _running(run, "scale", instances=1) as sampled:
        for wanted in (3, 5, 2, 3):
            sampled.kubectl("scale", f"sqlitecluster/{sampled.name}", f"--replicas={wanted}")
            sampled.manifest["spec"]["instances"] = wanted
            _wait(
                sampled, f"{wanted} instances", lambda wanted=wanted: sampled.ready() and len(sampled.pods()) == wanted
            )
            sampled.wait_writes()
            run.say(f"scaled to {wanted}, primary {sampled.holder()}")


@case
def a_fenced_primary_writes_nothing_and_nobody_follows(run: Run) -> None:
    with _running(run, "fence") as sampled:
        old = sampled.holder()
        _set(sampled, fence=[old])
        fenced_at = time.time()
        time.sleep(20)  # longer than the Lease lives without renewals
        late = [ack for ack in sampled.acks() if ack.at > fenced_at + 3]
        assert not late, f"{len(late)} rows were acknowledged by {late[0].pod} although {old} is fenced"
        assert sampled.holder() == old, f"{sampled.holder()} took over from a fenced primary"
        _set(sampled, fence=None)
        sampled.wait_ready()


@case
def pods_that_are_no_candidates_never_lead(run: Run) -> None:
    only = {"selector": {"matchLabels": {"apps.kubernetes.io/pod-index": "1"}}}
    with _running(run, "candidates", primary={"candidates": only}) as sampled:
        assert sampled.holder() == "notes-1", sampled.holder()
        sampled.annotate(handoff_to="notes-2", handoff_id="not-there")
        _wait(sampled, "the hand-off is refused", lambda: sampled.status()["handoff"].get("phase") == "Failed", 60)
        assert sampled.holder() == "notes-1"


@case
def a_cluster_that_hibernates_under_writes_wakes_with_all_of_them(run: Run) -> None:
    with _running(run, "hibernate") as sampled:
        began = time.time()
        _set(sampled, hibernate=True)
        _wait(sampled, "all pods are gone", lambda: not sampled.pods(), 120)
        acks = sampled.acks()
        run.say(f"asleep after {time.time() - began:.1f} s; the last row came after {acks[-1].at - began:.1f} s")
        reasons = {event["reason"] for event in kube.get("events", sampled.namespace)["items"]}
        gave_up = reasons & {"HibernationIncomplete", "HibernationUnchecked"}
        assert not gave_up, f"it did not wait for its replicas: {gave_up}"
        _set(sampled, hibernate=False)
        sampled.wait_ready()
        sampled.wait_writes()


def _set(sampled: Sampled, **fields: Any) -> None:
    """Change fields of the spec."""
    patch = json.dumps({"spec": fields})
    sampled.kubectl("patch", "sqlitecluster", sampled.name, "--type=merge", "-p", patch)


def body(run: Run) -> None:
    """All cases with one installation."""
    with kube.deployed():
        run_cases(run, CASES)


def main() -> int:
    """Entry of ``python -m lanes.kube_life``."""
    run = parse("kube_life", "cases", len(CASES), None)
    if run.options.list:
        print("\n".join(CASES))
        return 0
    return run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
