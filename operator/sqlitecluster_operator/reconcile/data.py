"""Conditions about the data: who holds it, and whether it is one history and whole. Pure.

They come from the Lease, and from the problems that sidecars report at ``/info``. A sidecar that does not
answer says nothing, so these conditions may be late; nothing is decided by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlitecluster.election.quorum import ADVICE
from sqlitecluster_operator.reconcile.case import Case, Sum
from sqlitecluster_operator.reconcile.observed import moment_of

QUORUM_LOST: Final = ("QuorumLost",)
HOLDING: Final = ("HoldingByAgreement",)
DIVERGED: Final = ("TailKept", "Diverged")
DAMAGED: Final = ("ImageDamaged", "CorruptLTX", "CorruptStore")
"""Codes of sidecars' problems, as in docs/errors.md and docs/http.md."""
PATIENCE_S: Final = 10.0
"""So long after a Lease ended nobody leading is an ordinary failover: candidates need time to ask each other."""
_WORDS_MAX: Final = 300


def said(case: Case, codes: tuple[str, ...]) -> str:
    """What pods say with these codes, each with its name; empty when none does."""
    words = [
        f"{pod.name}: {text.removesuffix(f'; {ADVICE}')[:_WORDS_MAX]}"
        for pod in case.around.pods
        if (probe := case.around.probes.get(pod.name)) is not None
        for code, text in probe.problems
        if code in codes
    ]
    return "; ".join(words)


def quorum_lost(case: Case) -> Sum:
    """Whether too few instances are there to commit, or to know what was committed."""
    words = said(case, QUORUM_LOST)
    lease = case.around.lease
    if not words or (case.primary is None and lease is not None and lease.expired_for(case.clock) < PATIENCE_S):
        return Sum(False, "NotReported")
    if case.primary is not None:
        return Sum(True, "TooFewReplicas", f"commits fail, reads go on: {words}")
    return Sum(True, "NobodyMayLead", f"{ADVICE}. {words}")


def durability_degraded(case: Case) -> Sum:
    """Whether commits are answered with fewer acknowledgements than asked for (``durability: Preferred``)."""
    since = case.around.lease.degraded_since if case.around.lease else ""
    if not since:
        return Sum(False, "AsAsked")
    moment = moment_of(since)
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else since[:64]
    text = f"since {stamp} commits are answered with fewer acknowledgements than acks; the primary's loss may cost them"
    return Sum(True, "FewerAcknowledgements", text)


def holding_by_agreement(case: Case) -> Sum:
    """Whether a primary goes on without an API server (``apiOutagePolicy: HoldIfPeersAgree``)."""
    words = said(case, HOLDING)
    return Sum(True, "APIServerUnreachable", words) if words else Sum(False, "NotReported")


def data_diverged(case: Case) -> Sum:
    """Whether an instance kept transactions that are not in the cluster's history."""
    words = said(case, DIVERGED)
    cure = "look into lost+found of the volume; what you want back, write again"
    return Sum(True, "TailKept", f"{cure}. {words}") if words else Sum(False, "NotReported")


def data_damaged(case: Case) -> Sum:
    """Whether an instance found bytes on its disk that are not what was written."""
    words = said(case, DAMAGED)
    return Sum(True, "DamageFound", f"check the disk. {words}") if words else Sum(False, "NotReported")


CONDITIONS: Final[dict[str, Callable[[Case], Sum]]] = {
    "QuorumLost": quorum_lost,
    "DurabilityDegraded": durability_degraded,
    "HoldingByAgreement": holding_by_agreement,
    "DataDiverged": data_diverged,
    "DataDamaged": data_damaged,
}
"""Those that are bad when they are True; an Event says so when they become it."""
