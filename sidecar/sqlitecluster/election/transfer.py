"""One hand-off as its old primary sees it: phases, target, times, and the records to write.

Made and driven by ``machine.Elector``; knows nothing of fences and requests in flight.

    CHOOSING    peers are asked who can take over
                (again, when the one that was chosen went away and anybody will do)
    ANNOUNCING  a renewal carries the result's phase Draining, and that the request is handled
    DRAINING    new writes wait, running ones end, the target acknowledges the last transaction
    SWAPPING    one compare-and-swap names the target as holder, in the next epoch
    ABORTING    a renewal must succeed before programs may write: it makes a swap that is
                still under way fail

Rules:
    1. The same id is begun once: ``handled`` is written before anything else happens.
    2. Nothing is resumed while a swap could still land.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from sqlitecluster.election.candidacy import may_lead
from sqlitecluster.election.instants import MILLISECOND, Instant, seconds
from sqlitecluster.election.membership import offered
from sqlitecluster.election.messages import NodeState, PeersAnswered
from sqlitecluster.election.notes import micro_time, parse_time
from sqlitecluster.election.ranking import best
from sqlitecluster.election.record import (
    COMPLETED,
    DRAINING,
    FAILED,
    FINAL,
    TRANSFERRING,
    HandOff,
    HandOffResult,
    Holder,
    LeaseRecord,
)


class Phase(Enum):
    """Where a hand-off stands."""

    CHOOSING = "choosing"
    ANNOUNCING = "announcing"
    DRAINING = "draining"
    SWAPPING = "swapping"
    ABORTING = "aborting"


@dataclass(slots=True)
class Transfer:
    """A hand-off under way."""

    request: HandOff
    started: Instant
    deadline: Instant
    stopping: bool = False
    """Because the node stops: it gives the Lease up in any case."""
    phase: Phase = Phase.CHOOSING
    target: NodeState | None = None
    drained_at: Instant | None = None
    swapped: bool = False
    """A swap was sent."""
    failure: str = ""
    passed_over: set[str] = field(default_factory=set)
    """Pods that were chosen and did not acknowledge everything."""

    @property
    def is_to_anybody(self) -> bool:
        """Whether another target will do."""
        return self.request.kind == "demote" or self.request.to == "*"

    def result(self, me: Holder, phase: str, now: Instant, message: str = "") -> HandOffResult:
        """What to write beside the holder."""
        final = phase in FINAL
        return HandOffResult(
            id=self.request.id,
            source=me.pod,
            target=self.target.pod if self.target else self.request.to,
            phase=phase,
            started_at=micro_time(self.started.real_ns),
            completed_at=micro_time(now.real_ns) if final else "",
            duration_ms=now.since(self.started) // MILLISECOND if final else None,
            message=message,
        )

    def draining(self, me: Holder, now: Instant) -> HandOffResult:
        """Phase Draining."""
        return self.result(me, DRAINING, now)

    def failed(self, me: Holder, now: Instant) -> HandOffResult:
        """Phase Failed."""
        return self.result(me, FAILED, now, self.failure)

    def swap(self, record: LeaseRecord, me: Holder, epoch: int, demote_until: int | None, now: Instant) -> LeaseRecord:
        """The record that makes the target the holder."""
        assert self.target is not None
        ineligible = {pod: until for pod, until in record.ineligible.items() if until > now.real_ns}
        ineligible.pop(self.target.pod, None)
        if demote_until is not None:
            ineligible[me.pod] = demote_until
        return replace(
            record,
            holder=str(Holder(self.target.pod, self.target.uid)),
            epoch=epoch,
            acquire_real_ns=now.real_ns // 1000 * 1000,
            transitions=record.transitions + 1,
            advertise=self.target.address,
            result=self.result(me, TRANSFERRING, now),
            ineligible=ineligible,
            released=False,
            must_agree=None,
            promise=offered(record.promise, self.target.store),
        )


def begin(request: HandOff, now: Instant, limit_s: float, *, stopping: bool = False) -> Transfer:
    """A hand-off that has just been asked for."""
    return Transfer(request, now, now.plus(seconds(limit_s)), stopping)


def choose(transfer: Transfer, record: LeaseRecord, answer: PeersAnswered) -> NodeState | str:
    """The target, or why there is none."""
    request = transfer.request
    rivals = [peer for peer in answer.peers if peer.uid and may_lead(peer, record, answer.now)]
    if transfer.is_to_anybody:
        found = best((peer for peer in rivals if peer.pod not in transfer.passed_over), "")
        return found if found is not None else transfer.failure or _nobody(answer)
    named = next((peer for peer in answer.peers if peer.pod == request.to), None)
    if named is None:
        return f"{request.to} does not answer"
    if not named.candidate or record.is_kept_out(named.pod):
        return f"{request.to} is not a candidate"
    return named if named.uid else f"{request.to} does not say which pod it is"


def _nobody(answer: PeersAnswered) -> str:
    if not answer.known:
        return "there is no other pod"
    if not answer.peers:
        return "no other pod answers"
    return "no other pod may take over: " + ", ".join(sorted(peer.pod for peer in answer.peers))


def already_done(request: HandOff, me: Holder) -> str:
    """Why nothing has to be done for a request; empty when something has."""
    if request.kind == "demote":
        return "" if request.to in ("*", me.pod) else f"{request.to} is not the primary"
    return f"{me.pod} is the primary already" if request.to == me.pod else ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the old primary told its target."""

    gap_ms: int
    total_ms: int
    at: Instant


def finished(result: HandOffResult, me: Holder, arrival: Arrival | None, now: Instant) -> HandOffResult:
    """The end of a hand-off that another primary began, written by the new one when it is open."""
    done = micro_time(now.real_ns)
    started = parse_time(result.started_at)
    by_clocks = max(0, now.real_ns - started) // MILLISECOND if started is not None else None
    if result.target != me.pod:
        why = f"{result.source} was lost while it handed over; {me.pod} took over"
        return replace(result, phase=FAILED, completed_at=done, duration_ms=by_clocks, message=why)
    if arrival is None:
        return replace(result, phase=COMPLETED, completed_at=done, duration_ms=by_clocks, write_gap_ms=by_clocks)
    mine = now.since(arrival.at) // MILLISECOND
    return replace(
        result,
        phase=COMPLETED,
        completed_at=done,
        duration_ms=arrival.total_ms + mine,
        write_gap_ms=arrival.gap_ms + mine,
    )
