"""Lane ``kube-losses``: the primary is lost without a word, and its cluster writes again by itself.

Each case takes the primary away in another way and measures the time until a row is acknowledged again.
In Async mode rows that had not reached a replica may be missing afterwards; they are counted, and may only be
those of the last moment. An old primary that lives on must acknowledge nothing once another one has begun.

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

from support import kube, ledger, podparts
from support.lane import Run, parse, run_lane
from support.sampled import Sampled

WRITABLE_MAX_S = 20.0
WRITABLE_P50_S = 15.0
UNREPLICATED_S = 1.0
API_FREEZE_S = (20.0, 40.0, 60.0)
AGREED_S = 60.0
AGREED_WAIT_MAX_S = 2.0
SIDECAR = "sqlite-sidecar"
MUST_AGREE = "sqlitecluster.dev/must-agree"

Loss = Callable[[Sampled, str], Callable[[], None]]
"""Takes (cluster, primary pod), does the damage, returns what repairs it."""


def sidecar_killed(sampled: Sampled, primary: str) -> Callable[[], None]:
    # One that died a short time ago is in kubelet's back-off when it dies again, which is lane kube_pods' subject.
    assert podparts.restarts(sampled, primary, SIDECAR) == 0, "the lane lets nobody lead whose sidecar was restarted"
    os.kill(sampled.sidecar_pid(primary), signal.SIGKILL)
    return _nothing


def pod_killed(sampled: Sampled, primary: str) -> Callable[[], None]:
    sampled.kubectl("delete", "pod", primary, "--grace-period=0", "--force", "--wait=false")
    return _nothing


def node_power_lost(sampled: Sampled, primary: str) -> Callable[[], None]:
    node = sampled.node_of(primary)
    kube.cluster_object().power_off(node)
    return lambda: kube.cluster_object().power_on(node)


def node_cut_off(sampled: Sampled, primary: str) -> Callable[[], None]:
    node = sampled.node_of(primary)
    kube.cluster_object().cut(node)
    return lambda: kube.cluster_object().mend(node)


def node_frozen(sampled: Sampled, primary: str) -> Callable[[], None]:
    node = sampled.node_of(primary)
    kube.cluster_object().freeze(node)
    return lambda: kube.cluster_object().thaw(node)


def lease_deleted(sampled: Sampled, _primary: str) -> Callable[[], None]:
    sampled.kubectl("delete", "lease", sampled.name)
    return _nothing


def lease_and_object_set_back(sampled: Sampled, _primary: str) -> Callable[[], None]:
    """An old backup of the Lease is restored: another holder, an epoch of the past."""
    lease = sampled.lease()
    for key in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        lease["metadata"].pop(key, None)
    lease["metadata"]["annotations"]["sqlitecluster.dev/epoch"] = "1"
    lease["spec"]["holderIdentity"] = f"{sampled.pods()[-1]}_00000000-0000-0000-0000-000000000000"
    sampled.kubectl("replace", "-f", "-", text=json.dumps(lease))
    return _nothing


LOSSES: dict[str, Loss] = {
    "sidecar-killed": sidecar_killed,
    "node-cut-off": node_cut_off,
    "pod-killed": pod_killed,
    "node-power-lost": node_power_lost,
    "lease-deleted": lease_deleted,
    "node-frozen": node_frozen,
    "lease-set-back": lease_and_object_set_back,
}


LIVES_ON = ("node-cut-off", "node-frozen", "node-power-lost")
"""Losses after which the old primary cannot come back before they are repaired."""


def _nothing() -> None:
    """Needs no repair."""


def _lose(run: Run, sampled: Sampled, name: str) -> float:
    if name == "sidecar-killed":
        _fresh_primary(sampled)
    primary = sampled.holder()
    sampled.wait_writes()
    moment = time.time()
    repair = LOSSES[name](sampled, primary)
    frozen_at = time.time() if name == "node-frozen" else float("inf")
    try:
        others = name in LIVES_ON  # the old primary goes on up to its fence; somebody else must follow
        sampled.wait_writes(WRITABLE_MAX_S + 10, after=moment + 0.5, but=primary if others else "")
        time.sleep(3)  # time for an old primary to do what it must not
    finally:
        repair()
    acks = sampled.acks()
    after = [ack for ack in acks if ack.at > moment]
    writable = ledger.resumed_after(acks, moment)
    assert writable is not None, "nothing was acknowledged"
    gap = ledger.gap_after(acks, moment, primary)
    kube.cluster_object().wait_nodes()
    sampled.wait_ready()
    if gap is not None:
        late = ledger.late(sampled.acks(), primary, gap.resumed_at, frozen_at=frozen_at)
        assert not late, f"{primary} acknowledged {len(late)} rows after {gap.new} had begun: {late[:2]}"
    _count_lost(run, sampled, acks, moment)
    where = f"{gap.new} instead of {primary}" if gap else f"{primary} goes on"
    run.say(f"{name}: writable after {writable:.1f} s ({where}), {len(after)} rows since")
    assert writable <= WRITABLE_MAX_S, f"{name}: writable after {writable:.1f} s, at most {WRITABLE_MAX_S} s"
    return writable


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


def _count_lost(run: Run, sampled: Sampled, acks: list[ledger.Ack], moment: float) -> None:
    lost, twice = sampled.check_rows(acks)
    assert not twice, f"{len(twice)} rows are doubled"
    old = [ack for ack in lost if ack.at < moment - UNREPLICATED_S]
    assert not old, f"{len(old)} rows that were acknowledged long before are lost: {old[:3]}"
    new = [ack for ack in lost if ack.at > moment + WRITABLE_MAX_S]
    assert not new, f"{len(new)} rows that were acknowledged after the take-over are lost: {new[:3]}"
    if lost:
        run.say(f"{len(lost)} rows of the last {moment - min(lost).at:.3f} s had not been replicated")
        sampled.forget(lost)  # counted once


def _api_frozen(run: Run, sampled: Sampled, seconds: float) -> None:
    """Nobody can renew: the fence closes, reads go on, and all is well soon after."""
    primary = sampled.holder()
    moment = time.time()
    kube.cluster_object().freeze_api()
    try:
        time.sleep(seconds)
    finally:
        kube.cluster_object().thaw_api()
    thawed = time.time()
    acks = [ack for ack in sampled.acks() if moment < ack.at < thawed]
    sampled.wait_writes(WRITABLE_MAX_S + 10, after=thawed)
    writable = sampled.acks()[-1].at - thawed
    assert len({ack.pod for ack in acks}) <= 1, "two pods acknowledged rows while nobody could be elected"
    longest = max((ack.at for ack in acks), default=moment) - moment
    assert longest < 12, f"{primary} acknowledged rows {longest:.1f} s after the API server had frozen"
    sampled.wait_ready()
    _count_lost(run, sampled, sampled.acks(), moment)
    run.say(f"API frozen {seconds:.0f} s: fenced after {longest:.1f} s, writable {writable:.1f} s after the thaw")


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
        cases: list[str] = [*LOSSES, "api-frozen", "api-frozen-agreed"]
        for turn in itertools.count(run.options.skip):
            if run.done + len(run.violations) >= run.wanted:
                break
            name = run.options.only or cases[turn % len(cases)]
            try:
                if name == "api-frozen-agreed":
                    _api_frozen_agreed(run)
                elif name == "api-frozen":
                    _api_frozen(run, sampled, API_FREEZE_S[turn // len(cases) % len(API_FREEZE_S)])
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
    return run_lane(parse("kube_losses", "losses", len(LOSSES) + 2, None), body)


if __name__ == "__main__":
    sys.exit(main())
