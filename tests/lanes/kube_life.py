"""Lane ``kube-life``: what happens to every cluster one day, with real pods under a writing program.

Each case has a SQLiteCluster of its own with the sample program; at its end every acknowledged row is
there once on every pod.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support import cel_case, cel_cases, kube, kubeapi, ledger, podparts
from support.lane import Run, parse, registry, run_cases, run_lane
from support.sampled import Sampled

CASES, case = registry()
CHANGE_LIMIT_S = 240.0
CHANGE = {"name": "CHANGED", "value": "yes"}


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
        before, old, moment = _uids(sampled), sampled.holder(), time.time()
        _change_template(sampled)
        sampled.apply()
        _wait(sampled, "all pods are new and ready", lambda: _all_changed(sampled, 3))
        sampled.wait_writes()
        assert not set(before.values()) & set(_uids(sampled).values())
        made = sorted((pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]) for pod in sampled.pod_objects())
        assert made[-1][1] == old, f"{old} was the primary and not the last one to be replaced: {made}"
        assert sampled.holder() != old, "nothing was handed over"
        times = [moment, *(ack.at for ack in sampled.acks() if ack.at > moment)]
        longest = ledger.longest_silence(times)[0]
        run.say(f"rolling update: no writes for {longest * 1000:.0f} ms at most")
        assert longest < 5, f"no writes for {longest:.1f} s during a rolling update"


@case
def a_replica_that_lost_its_volume_gets_everything_again(run: Run) -> None:
    with _running(run, "volume") as sampled:
        pod = sampled.replica()
        uid, volume = podparts.uid(sampled, pod), _claim_uid(sampled, pod)
        _lose_volume(sampled, pod)
        _wait(sampled, f"{pod} is back", lambda: podparts.uid(sampled, pod) not in ("", uid) and sampled.ready())
        assert _claim_uid(sampled, pod) != volume, f"{pod} still has its volume"


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
        with _no_operator(sampled):
            old = sampled.holder()
            sampled.kubectl("delete", "pod", old, "--wait=false")
            sampled.wait_writes(60, but=old)
        sampled.wait_ready()


@contextmanager
def _no_operator(sampled: Sampled) -> Iterator[None]:
    """The operator is away."""
    where = ("--namespace", "sqlitecluster-system")
    kube.kubectl(*where, "scale", "deployment", "sqlitecluster", "--replicas=0")
    try:
        _wait(sampled, "the operator is away", lambda: not kube.get("pods", "sqlitecluster-system")["items"], 60)
        yield
    finally:
        kube.kubectl(*where, "scale", "deployment", "sqlitecluster", "--replicas=1")


@case
def all_that_came_while_the_operator_was_away_is_done_when_it_is_back(run: Run) -> None:
    """An update, a scale, a drain, the loss of a volume and of a sidecar: programs write on, nothing is half done."""
    with _running(run, "pending") as sampled:
        began = time.time()
        with _no_operator(sampled):
            old = sampled.holder()
            _drained(sampled, old)
            _change_template(sampled)
            sampled.manifest["spec"]["instances"] = 5
            sampled.apply()
            pod = sampled.replica()
            volume = _claim_uid(sampled, pod)
            _lose_volume(sampled, pod)
            third = next(one for one in sampled.pods() if one not in (pod, sampled.holder()))
            os.kill(sampled.sidecar_pid(third), signal.SIGKILL)
            sampled.wait_writes(but=old)
            assert len(sampled.pods()) <= 3, f"somebody scaled: {sampled.pods()}"
        _wait(sampled, "five new pods are ready", lambda: _all_changed(sampled, 5))
        assert _claim_uid(sampled, pod) != volume, f"{pod} still has its volume"
        times = [ack.at for ack in sampled.acks() if ack.at > began]
        longest = ledger.longest_silence(times)[0]
        run.say(f"all done after {time.time() - began:.0f} s, no writes for {longest:.1f} s at most")
        assert longest < 5, f"no writes for {longest:.1f} s although nothing was lost without a word"


def _drained(sampled: Sampled, pod: str) -> None:
    """The pod's node is drained and comes back."""
    node, before = sampled.node_of(pod), podparts.uid(sampled, pod)
    with podparts.drained(sampled, node):
        sampled.wait_writes(but=pod)
    _wait(sampled, f"{pod} is back", lambda: podparts.uid(sampled, pod) not in ("", before))
    kube.wait_condition(f"pod/{pod}", "Ready", sampled.namespace, limit_s=120)


@case
def edits_that_break_a_rule_touch_nothing(run: Run) -> None:
    """Each refused edit of the CRD's table, and a few of this object's own, against a cluster that writes."""
    with _running(run, "edits") as sampled:
        before, began = _shape(sampled), time.time()
        api = kubeapi.connect()
        path = kubeapi.cluster_path(sampled.namespace, sampled.name, query="fieldValidation=Strict")
        for name, edit in _wrong_edits().items():
            answer = api.request("PATCH", path, edit, kind="merge-patch")
            assert answer.status in (400, 422), f"{name} was accepted: {answer.status} {answer.message}"
            assert len(answer.message) > 20, f"{name}: {answer.message}"
        count, took = len(_wrong_edits()), time.time() - began
        time.sleep(5)  # time for the operator to do what it must not
        assert _shape(sampled) == before, f"{before} became {_shape(sampled)}"
        longest = ledger.longest_silence([ack.at for ack in sampled.acks() if ack.at > began])[0]
        run.say(f"{count} edits refused in {took:.1f} s, no writes for {longest * 1000:.0f} ms at most")
        assert longest < 2, f"no writes for {longest:.1f} s"


def _wrong_edits() -> dict[str, kube.Body]:
    """Merge patches that must be refused, whatever the cluster is like."""
    table = {one.name: one.reject for one in cel_cases.CASES if one.before is None and "metadata" not in one.reject}
    return table | {
        "volume shrinks": cel_case.spec(storage={"size": "64Mi"}),
        "storage class": cel_case.spec(storage={"storageClass": "slow"}),
        "mount path": cel_case.spec(mount={"path": "/srv"}),
        "bootstrap": cel_case.spec(bootstrap={"initdb": {"sql": ["CREATE TABLE a (b)"]}}),
    }


def _shape(sampled: Sampled) -> dict[str, object]:
    """What an edit would change."""
    objects = {what: kube.get(f"{what}/{sampled.name}", sampled.namespace) for what in ("sqlitecluster", "statefulset")}
    config = kube.get(f"configmap/{sampled.name}-config", sampled.namespace)
    return {
        **{what: (body["metadata"]["generation"], body["spec"]) for what, body in objects.items()},
        "config": config["data"],
        "pods": _uids(sampled),
        "holder": sampled.holder(),
    }


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


def _uids(sampled: Sampled) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in sampled.pod_objects()}


def _claim_uid(sampled: Sampled, pod: str) -> str:
    return str(kube.get(f"pvc/data-{pod}", sampled.namespace)["metadata"]["uid"])


def _lose_volume(sampled: Sampled, pod: str) -> None:
    sampled.kubectl("delete", "pvc", f"data-{pod}", "--wait=false")
    sampled.kubectl("delete", "pod", pod, "--wait=false")


def _change_template(sampled: Sampled) -> None:
    container = sampled.manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"].append(CHANGE)


def _all_changed(sampled: Sampled, count: int) -> bool:
    """Whether there are so many pods, all of the changed template, and the cluster is Ready."""
    changed = [pod for pod in sampled.pod_objects() if CHANGE in pod["spec"]["containers"][0]["env"]]
    return len(changed) == count and sampled.ready()


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
