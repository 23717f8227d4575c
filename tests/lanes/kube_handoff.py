"""Lane ``kube-handoff``: the primary moves by plain kubectl while programs write.

A SQLiteCluster of three on the local cluster; the sample program writes 100 rows a second in whichever
pod may. Each hand-off is asked for by annotation; counted when the new primary acknowledges, every row
that was acknowledged is there once, on all pods, and the status says what happened. Printed: the write
gap (last acknowledged row of the old primary to the first of the new one) and the gap that a client of
the ``-rw`` Service sees.
"""

from __future__ import annotations

import itertools
import sys
import time

from support import kube, ledger
from support.lane import Run, parse, run_lane
from support.rwclient import RwClient
from support.sampled import Sampled, annotate_id

GAP_P95_S = 0.5
ENOUGH = 20
RW_GAP_S = 3.0
HANDOFF_LIMIT_S = 30.0
REOPENED = "opening the database again"
"""What the sample program says when it does."""
UNOBSERVED_S = 1.0
"""Nobody looks for so long: each kubectl takes a tenth of a second of the two processors that the nodes share."""


def _ask(sampled: Sampled, turn: int, old: str) -> str:
    """One of the three ways to move the primary; returns the id that the status will show."""
    others = [pod for pod in sampled.pods() if pod != old]
    token = annotate_id()
    if turn % 4 == 3:
        sampled.annotate(demote=old, handoff_id=token)
    elif turn % 4 == 2:
        sampled.annotate(handoff_to="*", handoff_id=token)
    else:
        sampled.annotate(handoff_to=others[turn % len(others)], handoff_id=token)
    return token


def _completed(sampled: Sampled, token: str) -> bool:
    handoff = sampled.status().get("handoff") or {}
    if handoff.get("id") == token and handoff.get("phase") == "Failed":
        raise AssertionError(f"the hand-off failed: {handoff}")
    return handoff.get("id") == token and handoff.get("phase") == "Completed"


def _one(run: Run, sampled: Sampled, turn: int) -> float:
    old = sampled.holder()
    moment = time.time()
    token = _ask(sampled, turn, old)
    time.sleep(UNOBSERVED_S)
    try:
        kube.wait_for(f"hand-off {token}", lambda: _completed(sampled, token), limit_s=HANDOFF_LIMIT_S)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{sampled.describe()}") from None
    sampled.wait_writes()
    gap = ledger.gap_after(sampled.acks(), moment, old)
    assert gap is not None, f"nobody but {old} acknowledged a row after the hand-off"
    late = ledger.late(sampled.acks(), old, gap.resumed_at)
    assert not late, f"{old} acknowledged {len(late)} rows after {gap.new} had begun"
    shown = sampled.status()["handoff"]
    assert shown.get("to") == gap.new and shown.get("from") == old, f"the status says {shown}, {gap} was seen"
    for key in ("writeGapMillis", "durationMillis"):
        assert isinstance(shown.get(key), int), f"the status does not say {key}: {shown}"
    assert shown.get("requestedBy"), f"the status does not say who asked: {shown}"
    measured, told = f"{gap.seconds * 1000:.0f} ms", f"{shown.get('writeGapMillis')} ms"
    run.say(f"{turn + 1}: {old} -> {gap.new}, write gap {measured} (status {told})")
    sampled.wait_ready(60)
    return gap.seconds


def _once_only(sampled: Sampled) -> None:
    """The same id again changes nothing."""
    before = sampled.lease()["spec"]["leaseTransitions"]
    handoff = sampled.status()["handoff"]
    sampled.annotate(handoff_to=handoff["from"], handoff_id=handoff["id"])
    time.sleep(3)
    assert sampled.lease()["spec"]["leaseTransitions"] == before, "the same id moved the primary twice"


def _check_programs(run: Run, sampled: Sampled) -> None:
    """Open connections survived: no program opened its database again, no container was started again."""
    for pod in sampled.pods():
        again = [line for line in sampled.kubectl("logs", pod, "-c", "app").splitlines() if REOPENED in line]
        if again:
            run.violation(f"the program of {pod} lost its connection {len(again)} times: {again[:3]}")
        status = kube.get(f"pod/{pod}", sampled.namespace)["status"]
        statuses = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
        if any(one["restartCount"] for one in statuses):
            run.violation(f"{pod}: {[(one['name'], one['restartCount']) for one in statuses]} restarts")


def body(run: Run) -> None:
    """Hand-offs up to the count."""
    with kube.deployed(), kube.namespace("handoff") as namespace:
        sampled = Sampled(run, namespace)
        sampled.start()
        gaps: list[float] = []
        with RwClient(run, sampled) as client:
            for turn in itertools.count():
                if run.done + len(run.violations) >= run.wanted:
                    break
                try:
                    gaps.append(_one(run, sampled, turn))
                    run.count()
                except AssertionError as error:
                    run.violation(str(error))
            rw_gap, met = client.longest_gap()
        _once_only(sampled)
        _check_programs(run, sampled)
        acks = sampled.acks()
        lost, twice = sampled.check_rows(acks)
        if lost or twice:
            run.violation(
                f"{len(lost)} of {len(acks)} acknowledged rows are lost, {len(twice)} are doubled: {lost[:3]}"
            )
        if client.lost(sampled.rows(sampled.holder())):
            run.violation(f"rows acknowledged through -rw are lost: {client.lost(sampled.rows(sampled.holder()))[:3]}")
        p50, p95 = ledger.percentile(gaps, 0.5), ledger.percentile(gaps, 0.95)
        run.say(f"{len(acks)} rows; write gap p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")
        run.say(f"-rw at most {rw_gap:.1f} s ({met})")
        judged, name = (p95, "p95") if len(gaps) >= ENOUGH else (p50, "p50")  # of a few, the worst says nothing
        if judged > GAP_P95_S:
            run.violation(f"write gap {name} {judged:.2f} s, at most {GAP_P95_S} s are promised")
        if rw_gap > RW_GAP_S:
            run.violation(f"no write through -rw for {rw_gap:.1f} s, at most {RW_GAP_S} s are promised: {met}")


def main() -> int:
    """Entry of ``python -m lanes.kube_handoff``."""
    return run_lane(parse("kube_handoff", "hand-offs", 4, None), body)


if __name__ == "__main__":
    sys.exit(main())
