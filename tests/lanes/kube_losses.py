"""Lane ``kube-losses``: the primary is lost without a word, and its cluster writes again by itself.

Each case takes the primary away in another way and measures the time until a row is acknowledged again.
In Async mode rows that had not reached a replica may be missing afterwards; they are counted, and may only be
those of the old primary's last moment. When the primary itself is not lost (its Lease, the API server), none may be.
An old primary that lives on must acknowledge nothing once another one has begun, and begin nothing after its fence.

``api-frozen``: the API server answers nothing; the fence ends writing. ``api-frozen-agreed``: the same for a minute
in a cluster with ``apiOutagePolicy: HoldIfPeersAgree``: the primary writes on, and nobody else does.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from localcluster import ClusterError
from support import kube, ledger, podparts
from support.lane import Run, parse, run_lane
from support.sampled import Sampled, annotate_id

WRITABLE_MAX_S = 20.0
WRITABLE_P50_S = 15.0
FENCE_S = 7.0
"""Nothing is begun so long after the last renewal: 6 s are promised."""
HANDOFF_LIMIT_S = 60.0
API_FREEZE_S = (20.0, 40.0, 60.0)
AGREED_S = 60.0
AGREED_WAIT_MAX_S = 2.0
SIDECAR = "sqlite-sidecar"
MUST_AGREE = "sqlitecluster.dev/must-agree"


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done to a primary."""

    moment: float
    repair: Callable[[], None] = lambda: None


Loss = Callable[[Sampled, str], Damage]
"""Takes (cluster, primary pod) and does the damage."""


def sidecar_killed(sampled: Sampled, primary: str) -> Damage:
    # One that died a short time ago is in kubelet's back-off when it dies again, which is lane kube_pods' subject.
    assert podparts.restarts(sampled, primary, SIDECAR) == 0, "the lane lets nobody lead whose sidecar was restarted"
    pid = sampled.sidecar_pid(primary)
    moment = time.time()
    os.kill(pid, signal.SIGKILL)
    return Damage(moment)


def pod_killed(sampled: Sampled, primary: str) -> Damage:
    return Damage(podparts.kill_pod(sampled, primary))


def node_power_lost(sampled: Sampled, primary: str) -> Damage:
    node = sampled.node_of(primary)
    moment = time.time()
    kube.cluster_object().power_off(node)
    return Damage(moment, lambda: kube.cluster_object().power_on(node))


def node_cut_off(sampled: Sampled, primary: str) -> Damage:
    node = sampled.node_of(primary)
    moment = time.time()
    kube.cluster_object().cut(node)
    return Damage(moment, lambda: kube.cluster_object().mend(node))


def node_frozen(sampled: Sampled, primary: str) -> Damage:
    node = sampled.node_of(primary)
    moment = time.time()
    kube.cluster_object().freeze(node)
    return Damage(moment, lambda: kube.cluster_object().thaw(node))


def lease_deleted(sampled: Sampled, _primary: str) -> Damage:
    moment = time.time()
    sampled.kubectl("delete", "lease", sampled.name)
    return Damage(moment)


LOSSES: dict[str, Loss] = {
    "sidecar-killed": sidecar_killed,
    "node-cut-off": node_cut_off,
    "pod-killed": pod_killed,
    "node-power-lost": node_power_lost,
    "lease-deleted": lease_deleted,
    "node-frozen": node_frozen,
}


LIVES_ON = ("node-cut-off", "node-frozen", "node-power-lost")
"""Losses after which the old primary cannot come back before they are repaired."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is known when the primary was lost."""

    name: str
    primary: str
    lease: dict[str, Any]
    """Before it."""
    moment: float
    done_at: float
    """When the damage was complete."""

    @property
    def frozen_at(self) -> float:
        """From when on the old primary did nothing and will go on."""
        return self.done_at if self.name == "node-frozen" else float("inf")

    @property
    def may_lose(self) -> bool:
        """Whether rows can be gone with the old primary."""
        return not self.name.startswith("lease-")


def _lose(run: Run, sampled: Sampled, name: str) -> float:
    if name == "sidecar-killed":
        _fresh_primary(sampled)
    primary, lease = sampled.holder(), sampled.lease()
    sampled.wait_writes()
    damage = LOSSES[name](sampled, primary)
    case = Case(name, primary, lease, damage.moment, time.time())
    try:
        if name == "lease-deleted":
            _wait_epoch(sampled, _epoch(lease))
        others = name in LIVES_ON  # the old primary goes on up to its fence; somebody else must follow
        sampled.wait_writes(WRITABLE_MAX_S + 10, after=case.done_at + 0.5, but=primary if others else "")
        time.sleep(3)  # time for an old primary to do what it must not
        if name == "node-cut-off":
            _check_fence(sampled.acks(), primary, case.done_at, time.time())
    finally:
        damage.repair()
    return _judge(run, sampled, case)


def _judge(run: Run, sampled: Sampled, case: Case) -> float:
    primary, moment = case.primary, case.moment
    acks = sampled.acks()
    after = [ack for ack in acks if ack.at > moment]
    writable = ledger.resumed_after(acks, moment)
    assert writable is not None, "nothing was acknowledged"
    gap = ledger.gap_after(acks, moment, primary)
    kube.cluster_object().wait_nodes()
    sampled.wait_ready()
    if gap is not None:
        late = ledger.late(sampled.acks(), primary, gap.resumed_at, frozen_at=case.frozen_at)
        assert not late, f"{primary} acknowledged {len(late)} rows after {gap.new} had begun: {late[:2]}"
    _count_lost(run, sampled, acks, case, gap.resumed_at if gap else moment + writable)
    where = f"{gap.new} instead of {primary}" if gap else f"{primary} goes on"
    run.say(f"{case.name}: writable after {writable:.1f} s ({where}), {len(after)} rows since")
    if case.name == "pod-killed":
        _check_taken_over(sampled, case.lease, moment + writable)
    assert writable <= WRITABLE_MAX_S, f"{case.name}: writable after {writable:.1f} s, at most {WRITABLE_MAX_S} s"
    return writable


def _check_taken_over(sampled: Sampled, before: dict[str, Any], resumed_at: float) -> None:
    """Nobody handed over: another holder, and not before the Lease as it was known had run out."""
    spec = before["spec"]
    ends = datetime.fromisoformat(spec["renewTime"]).timestamp() + float(spec["leaseDurationSeconds"])
    assert sampled.lease()["spec"]["holderIdentity"] != spec["holderIdentity"], "the killed pod is still the holder"
    assert resumed_at >= ends, f"a row was acknowledged {ends - resumed_at:.1f} s before the Lease ran out"


def _check_fence(acks: list[ledger.Ack], primary: str, since: float, until: float) -> float:
    """Who can renew nothing begins nothing after its fence; seconds from ``since`` to the last row that it began."""
    began = [ack.began for ack in acks if ack.pod == primary and ack.began > since and ack.at < until]
    late = [moment for moment in began if moment > since + FENCE_S]
    assert not late, f"{primary} began {len(late)} rows up to {max(late) - since:.1f} s after its last renewal"
    return max(began, default=since) - since


def _epoch(lease: dict[str, Any]) -> int:
    return int(lease["metadata"]["annotations"]["sqlitecluster.dev/epoch"])


def _wait_epoch(sampled: Sampled, above: int) -> int:
    """Wait until somebody holds the Lease in an epoch that is newer than ``above``."""
    limit_s = WRITABLE_MAX_S + 10
    kube.wait_for("a newer epoch", lambda: sampled.holder() and _epoch(sampled.lease()) > above, limit_s=limit_s)
    return _epoch(sampled.lease())


def _fresh_primary(sampled: Sampled) -> None:
    """Replace the primary's pod if kubelet restarted its sidecar: a kill must not meet the back-off of another one."""
    primary = sampled.holder()
    while podparts.restarts(sampled, primary, SIDECAR):
        before = podparts.uid(sampled, primary)
        sampled.kubectl("delete", "pod", primary)
        kube.wait_for(f"a new {primary}", lambda pod=primary, old=before: _is_new(sampled, pod, old), limit_s=120)
        sampled.wait_ready()
        primary = sampled.holder()


def _is_new(sampled: Sampled, pod: str, old: str) -> bool:
    return pod in sampled.pods() and podparts.uid(sampled, pod) != old


def _count_lost(run: Run, sampled: Sampled, acks: list[ledger.Ack], case: Case, resumed_at: float) -> None:
    """Only the old primary's last rows, and those that it acknowledged until somebody followed, may be missing."""
    lost, twice = sampled.check_rows(acks)
    assert not twice, f"{len(twice)} rows are doubled"
    assert case.may_lose or not lost, f"{len(lost)} rows are lost and no pod was: {lost[:3]}"
    wrong = [ack for ack in lost if not _excused(ack, case, resumed_at)]
    assert not wrong, (
        f"{len(wrong)} acknowledged rows are lost that {case.primary} had replicated, or the new primary acknowledged: "
        f"{wrong[:3]}; lost at {case.moment:.3f}, resumed at {resumed_at:.3f}"
    )
    if lost:
        first, last = (end(lost).at - case.moment for end in (min, max))
        run.say(f"{len(lost)} rows had not been replicated: acknowledged {first:+.3f} to {last:+.3f} s from the loss")
        sampled.forget(lost)  # counted once


def _excused(ack: ledger.Ack, case: Case, resumed_at: float) -> bool:
    in_time = ack.at < resumed_at or ack.began < case.frozen_at <= ack.at
    return ack.pod == case.primary and ack.at >= case.moment - ledger.UNREPLICATED_S and in_time


def _set_back(run: Run, sampled: Sampled) -> float:
    """Old backups of the SQLiteCluster, its status too, and of the Lease are restored: what they tell was long ago."""
    old_request = _hand_off(sampled)
    sampled.wait_ready()
    saved, lease = _object(sampled), sampled.lease()
    known = _record(saved["status"], old_request)
    _hand_off(sampled)
    sampled.wait_ready()
    before, epoch = _object(sampled), _epoch(sampled.lease())
    primary, moment = sampled.holder(), time.time()
    _replace(sampled, saved)
    with ThreadPoolExecutor() as both:
        waits = [both.submit(_replace, sampled, saved, "--subresource=status"), both.submit(_replace, sampled, lease)]
    for one in waits:
        one.result()
    case = Case("lease-set-back", primary, lease, moment, time.time())
    after = _wait_epoch(sampled, epoch)
    sampled.wait_writes(WRITABLE_MAX_S + 10)
    time.sleep(5)  # time to do again what the old copies ask for
    writable = _judge(run, sampled, case)
    identity = before["status"]["clusterID"]
    shown = _object(sampled)["status"]["clusterID"]
    held = sampled.lease()["metadata"]["annotations"]["sqlitecluster.dev/cluster-id"]
    assert identity == shown == held, f"{identity} became {shown}, in the Lease {held}"
    again = _record(sampled.status(), old_request)
    assert again == known, f"hand-off {old_request} was done again: {known} became {again}"
    run.say(f"lease-set-back: epoch {epoch}, set back to {_epoch(lease)}, became {after}")
    return writable


def _hand_off(sampled: Sampled) -> str:
    """Hand off to whomever; the id."""
    token = annotate_id()
    sampled.annotate(handoff_to="*", handoff_id=token)
    what = f"hand-off {token}"
    kube.wait_for(what, lambda: _record(sampled.status(), token).get("phase") == "Completed", limit_s=HANDOFF_LIMIT_S)
    return token


def _object(sampled: Sampled) -> dict[str, Any]:
    return kube.get(f"sqlitecluster/{sampled.name}", sampled.namespace)


def _record(status: dict[str, Any], token: str) -> dict[str, Any]:
    """What a status says of a hand-off."""
    records = [status.get("handoff") or {}, *(status.get("history") or ())]
    return next((dict(one) for one in records if one.get("id") == token), {})


def _replace(sampled: Sampled, body: dict[str, Any], *options: str) -> None:
    """Restore an object whatever became of it; the operator's writes at the same time make it a conflict."""
    for key in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        body["metadata"].pop(key, None)
    for _ in range(10):
        try:
            sampled.kubectl("replace", *options, "-f", "-", text=json.dumps(body))
            return
        except ClusterError as error:
            if "the object has been modified" not in str(error):
                raise
    raise AssertionError(f"{body['kind']} cannot be replaced")


def _api_frozen(run: Run, sampled: Sampled, seconds: float) -> None:
    """Nobody can renew: the fence closes, reads go on, and all is well soon after."""
    primary, lease = sampled.holder(), sampled.lease()
    sampled.wait_writes()
    moment = time.time()
    kube.cluster_object().freeze_api()
    frozen = time.time()
    try:
        time.sleep(seconds)
        during = [ack for ack in sampled.acks() if ack.at > moment]
        thawing = time.time()
    finally:
        kube.cluster_object().thaw_api()
    thawed = time.time()
    assert during, "nothing was acknowledged before the fence"
    strangers = {ack.pod for ack in during} - {primary}
    assert not strangers, f"{sorted(strangers)} acknowledged rows while nobody could be elected"
    last = _check_fence(during, primary, frozen, thawing)
    writable = sampled.wait_writes(WRITABLE_MAX_S + 10, after=thawed).at - thawed
    sampled.wait_ready()
    acks = sampled.acks()
    gap = ledger.gap_after(acks, moment, primary)
    late = ledger.late(acks, primary, gap.resumed_at) if gap else []
    assert not late, f"{primary} acknowledged {len(late)} rows after its successor had begun: {late[:2]}"
    _count_lost(run, sampled, acks, Case("lease-unreachable", primary, lease, moment, frozen), thawed)
    run.say(f"API frozen {seconds:.0f} s: fenced after {last:.1f} s, writable {writable:.1f} s after the thaw")
    assert writable <= WRITABLE_MAX_S, f"writable {writable:.1f} s after the thaw, at most {WRITABLE_MAX_S} s"


def _api_frozen_agreed(run: Run) -> None:
    """The other pods promise the primary that they do not take over: no program notices."""
    with kube.namespace("agreed") as namespace:
        sampled = Sampled(run, namespace, primary={"apiOutagePolicy": "HoldIfPeersAgree"})
        sampled.start()
        kube.wait_for("the others stand in the Lease", lambda: _must_agree(sampled) == 2, limit_s=60)
        before = sampled.lease()["spec"]
        moment = time.time()
        kube.cluster_object().freeze_api()
        try:
            time.sleep(AGREED_S)
        finally:
            kube.cluster_object().thaw_api()
        thawed = time.time()
        sampled.wait_writes(after=thawed + 2)
        acks = [ack for ack in sampled.acks() if ack.at > moment]
        stops = [moment, *sorted(ack.at for ack in acks), time.time()]
        longest = max(b - a for a, b in itertools.pairwise(stops))
        during = sum(ack.at < thawed for ack in acks)
        run.say(f"API frozen {AGREED_S:.0f} s by agreement: {during} rows, longest wait {longest * 1000:.0f} ms")
        pods = {ack.pod for ack in acks}
        assert len(pods) == 1, f"{sorted(pods)} acknowledged rows while the API server was frozen"
        assert longest <= AGREED_WAIT_MAX_S, f"no row was acknowledged for {longest:.1f} s"
        after = sampled.lease()["spec"]
        same = all(after[key] == before[key] for key in ("holderIdentity", "leaseTransitions"))
        assert same, f"the Lease changed hands: {before} became {after}"
        lost, twice = sampled.check_rows(acks)
        assert not lost and not twice, f"{len(lost)} rows are lost, {len(twice)} are doubled"


def _must_agree(sampled: Sampled) -> int:
    """How many pods the Lease names that must agree."""
    text = (sampled.lease()["metadata"].get("annotations") or {}).get(MUST_AGREE)
    return len(json.loads(text)) if text else 0


def body(run: Run) -> None:
    """Losses in turn, each with the API freezes after a round."""
    with kube.deployed(), kube.namespace("losses") as namespace:
        sampled = Sampled(run, namespace)
        sampled.start()
        times: list[float] = []
        cases: list[str] = [*LOSSES, "lease-set-back", "api-frozen", "api-frozen-agreed"]
        for turn in itertools.count(run.options.skip):
            if run.done + len(run.violations) >= run.wanted:
                break
            name = run.options.only or cases[turn % len(cases)]
            try:
                if name == "api-frozen-agreed":
                    _api_frozen_agreed(run)
                elif name == "api-frozen":
                    _api_frozen(run, sampled, API_FREEZE_S[turn // len(cases) % len(API_FREEZE_S)])
                elif name == "lease-set-back":
                    times.append(_set_back(run, sampled))
                else:
                    times.append(_lose(run, sampled, name))
                run.count()
            except AssertionError as error:
                run.violation(f"{name}: {error}\n{sampled.describe()}")
                sampled.wait_ready()
        if not times:
            return
        p50 = ledger.percentile(times, 0.5)
        run.say(f"writable again: p50 {p50:.1f} s, max {max(times):.1f} s")
        if p50 > WRITABLE_P50_S:
            run.violation(f"writable again after {p50:.1f} s p50, at most {WRITABLE_P50_S} s are promised")


def main() -> int:
    """Entry of ``python -m lanes.kube_losses``."""
    return run_lane(parse("kube_losses", "losses", len(LOSSES) + 3, None), body)


if __name__ == "__main__":
    sys.exit(main())
