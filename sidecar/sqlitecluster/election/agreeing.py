"""The elector's part in going on without the API server: asking as the primary, promising as a candidate.

``holding`` has the rules and the values.
"""

from __future__ import annotations

from typing import Final

from sqlitecluster.election.core import ElectorCore
from sqlitecluster.election.holding import PLEDGE_MAX_NS, Pledge
from sqlitecluster.election.instants import MILLISECOND, SECOND, Instant, seconds
from sqlitecluster.election.messages import AskPledges, OthersKnown, PledgeAnswered, SetFence
from sqlitecluster.election.record import must_agree_to_json

PROBLEM: Final = "HoldingByAgreement"
_LATE: Final = 1.25
"""Retry periods without a good renewal after which the others are asked."""


class Agreeing(ElectorCore):
    """Goes on, and lets others go on, by agreement."""

    # -- as the primary --------------------------------------------------------------

    @property
    def is_holding(self) -> bool:
        """Only the word of the others keeps the fence open."""
        return PROBLEM in self._reported

    def _hold(self, now: Instant) -> None:
        """Ask for the next stretch each retry period, from the first renewal that is late."""
        agreement, needed = self.agreement, self._needed()
        if needed is None or now.since(agreement.lease_fence) + self._fence_ns < self._retry_ns * _LATE:
            return
        if now.boot_ns >= agreement.ask_at.boot_ns:
            agreement.ask_at = now.plus(self._retry_ns)
            if needed:
                length = seconds(max(1, round(self.settings.times.duration_s)))
                self._do(AskPledges(self.epoch, length, tuple(sorted(needed))))
            else:
                self._prolong(now, now)
        if now.passed(agreement.lease_fence):
            late_s = (now.since(agreement.lease_fence) + self._fence_ns) // SECOND
            if not self.is_holding:
                self._report(PROBLEM, f"the Lease could not be renewed for {late_s} s; every other candidate agrees")

    def _fence_by_lease(self, sent: Instant, now: Instant) -> None:
        """A renewal that was sent at a moment is stored; what was agreed on holds as well."""
        fence, agreement = sent.plus(self._fence_ns), self.agreement
        if now.until(fence) > now.until(agreement.lease_fence):
            agreement.lease_fence = fence
        if now.until(fence) > now.until(self.fence):
            self.fence = fence
        if not now.passed(agreement.lease_fence):
            self._report(PROBLEM, "")

    def _on_others(self, event: OthersKnown | PledgeAnswered) -> None:
        if isinstance(event, PledgeAnswered):
            self._on_pledge(event)
        else:
            self._others = event.others if must_agree_to_json(event.others) else None

    def _on_pledge(self, event: PledgeAnswered) -> None:
        if not self.is_primary or event.epoch != self.epoch:
            return
        if event.why:
            self.agreement.refused(event.who, event.why)
            return
        self.agreement.given(event.who, event.sent)
        needed = self._needed()
        since = self.agreement.since(needed) if needed else None
        if since is not None:
            self._prolong(since, event.now)

    def _prolong(self, since: Instant, now: Instant) -> None:
        deadline = since.plus(self._fence_ns)
        if now.until(deadline) > now.until(self.fence):
            self.fence = deadline
            self._do(SetFence(deadline))

    # -- as a candidate --------------------------------------------------------------

    def asked_to_pledge(self, holder: str, epoch: int, length_ns: int, now: Instant) -> Pledge | str:
        """Promise not to take over, or say why not. The promise counts from here on; store it before it is sent."""
        if why := self._why_not(holder, epoch, length_ns):
            return why
        length = length_ns + self.settings.times.margin_ms * MILLISECOND
        until = now.boot_ns + length
        if self.pledge is not None:
            until = max(until, self.pledge.until_ns)
        self.pledge = Pledge(holder, epoch, length, until)
        return self.pledge

    def _why_not(self, holder: str, epoch: int, length_ns: int) -> str:
        record, known = self.seen.record, max(self.seen.known_epoch, self._promise)
        if not 0 < length_ns <= PLEDGE_MAX_NS:
            return "it is asked for too long a time"
        if self.is_primary or self._releasing or holder == str(self.me):
            return "it is the primary itself"
        if epoch < max(known, self.pledge.epoch if self.pledge else 0):
            return f"it knows a newer epoch than {epoch}"
        if self._sent is not None or self._offer is not None or self.seen.is_unsettled:
            return "it is about to take over"
        if record is not None and record.epoch >= epoch and record.holder != holder:
            return f"the Lease names {record.pod or 'nobody'}"
        return ""
