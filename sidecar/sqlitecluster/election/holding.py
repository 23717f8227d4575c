"""Going on without the API server, by the word of every other candidate: values and rules. Pure.

``agreeing.Agreeing`` is the elector's part that uses them; docs/election.md has the argument.

Rules:
    1. Who must agree stands in the Lease (``must_agree``, pods with their uid), written with
       the renewals. Without it in the Lease nobody goes on without renewals. Until a new
       list is known to be stored, those of the old and of the new one must agree.
    2. A pledge is counted from its *sending* by the primary, on two clocks, and for no longer
       than a renewal is: ``renewDeadline - margin``. Who gave it counts from when it was given,
       by CLOCK_BOOTTIME, ``duration + margin``; as with the Lease itself.
    3. A node that gave a pledge does not take the Lease until it has run out, unless its
       holder released or offered the Lease. Nor does a node that hears of somebody else's.
    4. A node that must agree and is not bound knows that the holder's fence is shut. A node
       that is not on the list knows nothing by itself: it needs the word of one that is (it
       gave no pledge, and knows the new epoch, so that it never will), or of the holder; or
       none of them may exist any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlitecluster.election.instants import NEVER, SECOND, Instant
from sqlitecluster.election.messages import NodeState, PeersAnswered
from sqlitecluster.election.observation import Claim
from sqlitecluster.election.record import Holder, LeaseRecord

PLEDGE_MAX_NS: Final = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Pledge:
    """A promise not to take the Lease over from a holder."""

    holder: str
    epoch: int
    length_ns: int
    """With the margin of who gave it."""
    until_ns: int
    """CLOCK_BOOTTIME of who gave it."""

    def left_ns(self, now: Instant) -> int:
        """For how long it still binds."""
        return max(0, self.until_ns - now.boot_ns)

    def binds(self, me: str, claim: Claim, record: LeaseRecord, now: Instant) -> bool:
        """Whether a node that gave it must leave the Lease alone."""
        if not self.left_ns(now) or self.holder == me or claim is Claim.OFFERED:
            return False
        return claim is not Claim.FREE or record.epoch < self.epoch


class Agreement:
    """What the primary has of the others."""

    def __init__(self) -> None:
        self.listed: frozenset[str] | None = None
        """Who must agree, in the newest record that was sent."""
        self.lease_fence = NEVER
        """The fence that the Lease alone gives."""
        self.ask_at = NEVER
        self._given: dict[str, Instant] = {}
        self._refused: dict[str, str] = {}

    def begin(self, stored: frozenset[str] | None, fence: Instant) -> None:
        """Of a new epoch: nobody has agreed to anything yet."""
        self.listed, self.lease_fence, self.ask_at = stored, fence, NEVER
        self._given, self._refused = {}, {}

    def given(self, who: str, sent: Instant) -> None:
        """Somebody agreed to what was asked at a moment."""
        before = self._given.get(who)
        if before is None or before.boot_ns < sent.boot_ns:
            self._given[who] = sent
        self._refused.pop(who, None)

    def refused(self, who: str, why: str) -> None:
        """Somebody did not, or did not answer; what it gave before still holds."""
        self._refused[who] = why

    def since(self, needed: Iterable[str]) -> Instant | None:
        """The sending that all of them have agreed to, or to a later one; None: not all did."""
        found = [self._given.get(who) for who in needed]
        moments = [moment for moment in found if moment is not None]
        if len(moments) < len(found) or not moments:
            return None
        return Instant(min(m.boot_ns for m in moments), min(m.real_ns for m in moments))

    def complaint(self, needed: Iterable[str]) -> str:
        """Who did not agree, for people."""
        wrong = [f"{Holder.parse(who).pod}: {self._refused[who]}" for who in sorted(needed) if who in self._refused]
        return "; ".join(wrong)


def still_held(claim: Claim, record: LeaseRecord, answer: PeersAnswered) -> str:
    """Why the holder may still be writing by agreement although its Lease has run out; empty: it is not."""
    if claim in (Claim.FREE, Claim.OFFERED):
        return ""
    me = _id(answer.local)
    bound = next((p for p in answer.peers if p.pledged_ms > 0 and p.pledged_to != me), None)
    if bound is not None:
        return f"{bound.pod} has promised {Holder.parse(bound.pledged_to).pod or 'somebody'} not to take over"
    if not is_outside(record, me):
        return ""
    needed = record.must_agree or frozenset()
    if any(_id(p) in needed | {record.holder} and p.epoch >= answer.asked for p in answer.peers):
        return ""
    if answer.pods and not answer.pods & (needed | {record.holder}):
        return ""
    return (
        f"{record.pod or 'the last holder'} may go on by agreement with pods that this one cannot ask: "
        f"{', '.join(sorted(Holder.parse(who).pod for who in needed)) or 'it needs nobody'}"
    )


def is_outside(record: LeaseRecord, me: str) -> bool:
    """Whether the holder may go on without asking this node."""
    return record.must_agree is not None and record.holder != me and me not in record.must_agree


def _id(node: NodeState) -> str:
    return str(Holder(node.pod, node.uid))
