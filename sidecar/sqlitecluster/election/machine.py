"""The elector: one pure state machine for each node, driven by values.

``step(event)`` returns the actions to carry out, in their order. Used by
``replicator.elected`` and by the operator's own election (without peers and hand-offs).

Rules:
    1. The fence counts from when the last good renewal was *sent*, less the margin, on two
       clocks. Once it has passed, this epoch never writes again: a late answer opens
       nothing, the way back is a new epoch.
    2. Everything is written by compare-and-swap; an unknown result is resolved by reading.
    3. Every start as primary is a new epoch, above all that anybody reachable knows.
    4. The Lease is never created here. Without one the primary goes on to its fence.
    5. A lower epoch in the Lease is never accepted: within its fence the primary writes a
       higher one, everybody else waits as if somebody held the Lease.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import transfer as handing
from sqlitecluster.election.candidacy import judge, may_lead
from sqlitecluster.election.instants import MILLISECOND, NEVER, Instant, seconds
from sqlitecluster.election.messages import (
    Action,
    AskPeers,
    BecomePrimary,
    Demote,
    Drain,
    Drained,
    Event,
    Follow,
    HandOffReady,
    LeaseConflict,
    LeaseFailed,
    LeasePut,
    LeaseRead,
    NewerEpoch,
    NodeState,
    NotDrained,
    Note,
    NotOpened,
    Opened,
    PeersAnswered,
    PutLease,
    ReadLease,
    Released,
    Report,
    Resume,
    SetFence,
    TellTarget,
    Terminate,
    Tick,
)
from sqlitecluster.election.observation import Claim, Observation
from sqlitecluster.election.record import FINAL, HandOff, HandOffResult, Holder, LeaseRecord
from sqlitecluster.election.transfer import Arrival, Phase, Transfer

_POLL: Final = 1.5
"""Retry periods without news of the Lease after which a replica asks for it."""
_PATIENCE: Final = 3.0
"""Retry periods that a better candidate gets to go first."""
_COOL_DOWN_S: Final = 10.0
_CONFLICTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectorSettings:
    """What one elector is told once."""

    me: Holder
    times: LeaseTimes
    address: str = ""
    candidate: bool = True
    failover_delay_s: float = 0.0
    switchover_timeout_s: float = 60.0
    demote_delay_s: float = 10.0
    cluster_id: str = ""

    def problem(self) -> str:
        """Why these times are not safe; empty when they are."""
        t = self.times
        if t.renew_deadline_s * 1000 - t.margin_ms < 2 * t.retry_period_s * 1000:
            return "renewDeadlineS less marginMs must leave room for two renewals (2 x retryPeriodS)"
        if t.duration_s <= t.renew_deadline_s:
            return "durationS must be above renewDeadlineS"
        return ""


class Elector:
    """One node's part in electing the primary."""

    def __init__(self, settings: ElectorSettings, known_epoch: int = 0) -> None:
        times = settings.times
        self.settings = settings
        self.me = settings.me
        self.seen = Observation(settings.me, known_epoch, times.margin_ms, settings.failover_delay_s)
        self.is_primary = False
        self.is_open = False
        """Programs can write."""
        self.epoch = 0
        self.fence = NEVER
        self.transfer: Transfer | None = None
        self.ended = False
        self._promise = known_epoch
        self._fence_ns = seconds(times.renew_deadline_s) - times.margin_ms * MILLISECOND
        self._retry_ns = seconds(times.retry_period_s)
        self._cluster_id = settings.cluster_id
        self._out: list[Action] = []
        self._busy = False
        self._sent: LeaseRecord | None = None
        self._next = NEVER
        self._must_read = True
        self._reclaim = False
        self._conflicts = 0
        self._stopping = False
        self._asking = False
        self._ask_at = NEVER
        self._patient_since: Instant | None = None
        self._not_before = NEVER
        self._following: tuple[str, str, int] | None = None
        self._arrival: Arrival | None = None
        self._offer: LeaseRecord | None = None
        self._result: HandOffResult | None = None
        self._releasing = False
        self._reported: set[str] = set()

    def step(self, event: Event) -> list[Action]:
        """Take one event in; what is to be done now."""
        self._out = []
        if self.ended:
            return []
        now = event.received if isinstance(event, LeaseRead | LeasePut | LeaseConflict | LeaseFailed) else event.now
        self._check_fence(now)
        match event:
            case LeaseRead():
                self._on_read(event)
            case LeasePut():
                self._on_put(event)
            case LeaseConflict():
                self._busy, self._must_read, self._conflicts = False, True, self._conflicts + 1
            case LeaseFailed():
                self._on_failure(event)
            case PeersAnswered():
                self._on_peers(event)
            case Opened():
                self._on_opened(event)
            case NotOpened():
                self._on_not_opened(event)
            case Drained():
                self._on_drained(event.now)
            case NotDrained():
                self._abort(event.reason, event.now)
            case HandOffReady():
                self._on_ready(event)
            case NewerEpoch():
                self._on_newer_epoch(event.epoch)
            case Terminate():
                self._stopping = True
            case Tick():
                pass
        self._drive(now)
        return self._out

    def promised(self, epoch: int) -> None:
        """The newest epoch that this node knows durably: none up to it can begin here. Told before each event."""
        self._promise = epoch
        self.seen.note(epoch)

    def fence_ms(self, now: Instant) -> int:
        """For how long this node may still acknowledge writes."""
        if not self.is_primary or (self.transfer is not None and self.transfer.swapped):
            return 0
        return max(0, now.until(self.fence) // MILLISECOND)

    # -- what to do next -------------------------------------------------------------

    def _drive(self, now: Instant) -> None:
        if self.ended:
            return
        if self._stopping and not self.is_primary and not self._releasing and self._sent is None:
            self._end()
        elif self.is_primary:
            self._drive_primary(now)
        else:
            self._drive_follower(now)

    def _on_newer_epoch(self, epoch: int) -> None:
        self.seen.note(epoch)
        self._reclaim = self._reclaim or (self.is_primary and epoch > self.epoch)

    def _drive_primary(self, now: Instant) -> None:
        if self._stopping and self.transfer is None:
            self._stop_as_primary(now)
            if not self.is_primary:
                return
        if self.transfer is not None and self.transfer.phase is not Phase.ABORTING:
            if now.passed(self.transfer.deadline):
                self._abort("it took longer than the switchover timeout", now)
                if not self.is_primary:
                    return
        if self._busy:
            return
        early = now.boot_ns < self._next.boot_ns
        if self._must_read:
            if not early or self._conflicts in range(1, _CONFLICTS):
                self._read()
        elif self._reclaim:
            self._take(now, self.seen.known_epoch + 1)
        elif self.transfer is not None and self.transfer.phase is Phase.SWAPPING:
            self._swap(now)
        elif not early:
            self._renew(now)

    def _drive_follower(self, now: Instant) -> None:
        if self._busy:
            return
        if self._releasing and not self._must_read:
            self._release(now)
            return
        if self._offer is not None:
            self._take_offer(now)
            return
        early = now.boot_ns < self._next.boot_ns
        heard = self.seen.at
        quiet = heard is None or now.since(heard) >= self._retry_ns * _POLL
        if self._must_read or quiet:
            if not early or self._conflicts in range(1, _CONFLICTS):
                self._read()
            return
        if not self._asking and now.boot_ns >= self._ask_at.boot_ns:
            self._consider(now)

    def _consider(self, now: Instant) -> None:
        """Ask the peers when the Lease could be taken."""
        record, claim = self.seen.record, self.seen.claim(now)
        if record is None or claim is None or not self._may_try(record, claim, now):
            self._patient_since = None
            return
        offered = claim is Claim.OFFERED
        self._asking = True
        self._do(AskPeers(record.epoch if offered else self.seen.known_epoch + 1))

    def _may_try(self, record: LeaseRecord, claim: Claim, now: Instant) -> bool:
        if self._stopping or not self.settings.candidate or now.boot_ns < self._not_before.boot_ns:
            return False
        return claim is Claim.OFFERED or record.ineligible.get(self.me.pod, 0) <= now.real_ns

    # -- requests --------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        self._out.append(action)

    def _read(self) -> None:
        self._busy = True
        self._do(ReadLease())

    def _put(self, record: LeaseRecord, now: Instant) -> None:
        self._busy, self._sent = True, self.seen.stamp(now.real_ns, record)
        self._do(PutLease(self._sent))

    def _mine(self, record: LeaseRecord, epoch: int) -> LeaseRecord:
        """The record with this node as its holder."""
        return replace(
            record,
            holder=str(self.me),
            epoch=epoch,
            duration_s=max(1, round(self.settings.times.duration_s)),
            cluster_id=record.cluster_id or self._cluster_id,
            advertise=self.settings.address,
            released=False,
            result=self._result or record.result,
        )

    def _renew(self, now: Instant) -> None:
        record = self.seen.record
        if record is None:
            return
        value = self._mine(record, self.epoch)
        if self.transfer is not None:
            value = replace(value, handled=self.transfer.request.id if not self.transfer.stopping else record.handled)
        self._put(value, now)

    def _take(self, now: Instant, epoch: int) -> None:
        record = self.seen.record
        if record is None:
            return
        value = self._mine(record, epoch)
        if value.holder != record.holder or self._offer is not None or self.seen.offered():
            at = now.real_ns // 1000 * 1000
            value = replace(value, acquire_real_ns=at, transitions=record.transitions + (value.holder != record.holder))
        self._put(value, now)

    def _swap(self, now: Instant) -> None:
        record, transfer = self.seen.record, self.transfer
        if record is None or transfer is None:
            return
        if not transfer.swapped:
            self._do(SetFence(NEVER))
        transfer.swapped = True
        until = None
        if transfer.request.kind == "demote":
            until = now.real_ns + seconds(self.settings.demote_delay_s)
        self._put(transfer.swap(record, self.me, self.seen.known_epoch + 1, until, now), now)

    def _release(self, now: Instant) -> None:
        record = self.seen.record
        if record is None or record.holder != str(self.me) or now.passed(self.fence):
            self._end()
            return
        self._put(replace(record, holder="", released=True, advertise=""), now)

    # -- answers ---------------------------------------------------------------------

    def _on_read(self, event: LeaseRead) -> None:
        if not event.watched:
            self._busy, self._must_read, self._next = False, False, event.sent.plus(self._retry_ns)
        record = event.record
        if record is None:
            self._no_lease(event)
            return
        if self.seen.is_older(record, event.sent, watched=event.watched):
            return
        if event.watched and (self.is_primary or self._sent is not None or self._releasing):
            self._must_read = self._must_read or self._has_news(record)
            return
        self._report("LeaseMissing", "")
        attempt = self.seen.resolve(record)
        self._learn(record, event.received)
        if self.is_primary:
            self._read_as_primary(record, attempt.sent if attempt else None, event.received)
        elif attempt is not None and record.holder == str(self.me) and not self._releasing:
            self._won(record, attempt.sent, event.received)
        self._follow()

    def _on_put(self, event: LeasePut) -> None:
        self._busy, self._conflicts, self._next = False, 0, event.sent.plus(self._retry_ns)
        self._sent = None
        self._learn(event.record, event.received)
        self._must_read = False
        if self._releasing:
            if event.record.holder != str(self.me):
                self._end()
        elif event.record.holder != str(self.me):
            self._swapped(event.record, event.received)
        elif self.is_primary and event.record.epoch == self.epoch:
            self._renewed(event.sent, event.received)
        else:
            self._won(event.record, event.sent, event.received)
        self._follow()

    def _on_failure(self, event: LeaseFailed) -> None:
        self._busy, self._must_read, self._next = False, True, event.sent.plus(self._retry_ns)
        if self._sent is not None:
            self.seen.attempted(self._sent, event.sent)
            self._sent = None
        if self._releasing and event.received.passed(self.fence):
            self._end()

    def _learn(self, record: LeaseRecord, now: Instant) -> None:
        if self.seen.see(record, now) and record.holder != str(self.me):
            self._do(Note(record.epoch))

    def _has_news(self, record: LeaseRecord) -> bool:
        """Whether a watch tells a primary something that its own renewals do not."""
        return record.holder != str(self.me) or record.epoch != self.epoch or record.pending is not None

    def _no_lease(self, event: LeaseRead) -> None:
        if event.watched:
            self._must_read = True
            return
        self.seen.missing(event.received)
        self._must_read = True
        self._report("LeaseMissing", "the Lease does not exist; the operator makes it again. Writing ends at the fence")
        if self._releasing:
            self._end()

    # -- being the primary -----------------------------------------------------------

    def _check_fence(self, now: Instant) -> None:
        if self.is_primary and now.passed(self.fence):
            self._step_down("the lease could not be renewed in time")

    def _step_down(self, reason: str) -> None:
        self.is_primary = self.is_open = self._reclaim = False
        self.transfer, self._result, self._arrival = None, None, None
        self._must_read, self._following = True, None
        self._do(SetFence(NEVER))
        self._do(Demote(reason))

    def _won(self, record: LeaseRecord, sent: Instant, now: Instant) -> None:
        """The Lease names this node in an epoch that it has not begun."""
        self.seen.used()
        self._offer, self._patient_since, self._reclaim = None, None, False
        fence = sent.plus(self._fence_ns)
        if record.epoch <= self._promise:
            self._reclaim = self.is_primary
            return
        if now.passed(fence) or record.epoch <= self.epoch:
            self._must_read = True
            return
        if self.transfer is not None:  # a reclaim in the middle of a hand-off
            self._do(Resume())
            self.transfer = None
        self.is_primary, self.is_open, self.epoch, self.fence = True, False, record.epoch, fence
        self._following = None
        for code in ("EmptyNode", "ClusterMismatch"):
            self._report(code, "")
        self._do(SetFence(fence))
        self._do(BecomePrimary(record.epoch))

    def _renewed(self, sent: Instant, now: Instant) -> None:
        self.fence = sent.plus(self._fence_ns)
        transfer = self.transfer
        if transfer is None or not transfer.swapped or transfer.phase is Phase.ABORTING:
            self._do(SetFence(self.fence))
        written = self.seen.record is not None and self._result == self.seen.record.result
        if written:
            self._result = None
        if transfer is None:
            self._look_for_request(now)
        elif transfer.phase is Phase.ABORTING and written:
            self._aborted(transfer)
        elif transfer.phase is Phase.ANNOUNCING and written:
            transfer.phase, transfer.drained_at = Phase.DRAINING, now
            target = transfer.target.pod if transfer.target else ""
            self._do(Drain(target, max(0.0, now.until(transfer.deadline) / 1e9)))

    def _read_as_primary(self, record: LeaseRecord, sent: Instant | None, now: Instant) -> None:
        """What a primary reads after a conflict, a failure, or when told of news."""
        mine, self._reclaim = record.holder == str(self.me), False
        if mine and record.epoch == self.epoch:
            if sent is not None and not now.passed(sent.plus(self._fence_ns)):
                self.fence = max(self.fence, sent.plus(self._fence_ns), key=lambda f: f.boot_ns)
                if self.transfer is None or not self.transfer.swapped:
                    self._do(SetFence(self.fence))
            self._next = now
            return
        if mine and sent is not None and record.epoch > self.epoch:  # our own reclaim landed
            self._won(record, sent, now)
        elif not mine and sent is not None and self.transfer is not None and self.transfer.swapped:
            self._swapped(record, now)
        elif not mine and record.holder and record.epoch > self.epoch:
            self._step_down(f"{record.pod} holds the Lease in epoch {record.epoch}")
        else:
            self._reclaim = True

    def _on_opened(self, event: Opened) -> None:
        if not self.is_primary or event.epoch != self.epoch:
            return
        self.is_open = True
        record = self.seen.record
        if record is not None and record.result is not None and record.result.phase not in FINAL:
            self._result = handing.finished(record.result, self.me, self._arrival, event.now)
            self._next = event.now
        self._arrival = None

    def _on_not_opened(self, event: NotOpened) -> None:
        if self.is_primary and event.epoch == self.epoch:
            self._not_before = event.now.plus(seconds(_COOL_DOWN_S))
            self._give_up(f"this node could not open: {event.reason}")

    def _give_up(self, reason: str) -> None:
        """Stop writing, then let others have the Lease at once."""
        fence = self.fence
        self._step_down(reason)
        self.fence, self._releasing, self._must_read = fence, True, False

    def _end(self) -> None:
        self._releasing = False
        if self._stopping:
            self.ended = True
            self._do(Released())

    # -- taking over -----------------------------------------------------------------

    def _on_peers(self, event: PeersAnswered) -> None:
        self._asking = False
        self._cluster_id = event.local.cluster_id or self._cluster_id
        if self.transfer is not None and self.transfer.phase is Phase.CHOOSING:
            self._chosen(self.transfer, event)
            return
        record, claim = self.seen.record, self.seen.claim(event.now)
        if self.is_primary or self._busy or self._must_read or record is None or claim is None:
            return
        if not self._may_try(record, claim, event.now):
            return
        verdict = judge(claim, record, event, self.seen.known_epoch)
        patient_since = self._patient_since or event.now
        if verdict.patient and event.now.since(patient_since) >= self._retry_ns * _PATIENCE:
            alone = replace(event, peers=tuple(p for p in event.peers if not may_lead(p, record, event.now)))
            verdict = judge(claim, record, alone, max(self.seen.known_epoch, *(p.epoch for p in event.peers)))
        if verdict.code:
            self._report(verdict.code, verdict.reason)
        if verdict.epoch:
            self._take(event.now, verdict.epoch)
        else:
            self._patient_since = patient_since if verdict.patient else None
            self._ask_at = event.now.plus(self._retry_ns // 2)

    def _on_ready(self, event: HandOffReady) -> None:
        """The old primary says that the Lease is ours: no need to ask anybody."""
        record = event.record
        current = self.seen.record
        if self.is_primary or self._stopping or not self.settings.candidate or record.holder != str(self.me):
            return
        if current is not None and current.uid != record.uid:
            return
        if record.epoch > self.seen.known_epoch:
            self._learn(record, event.now)
        if self.seen.offered() and self.seen.record is not None and self.seen.record.epoch == record.epoch:
            self._offer, self._arrival = self.seen.record, Arrival(event.gap_ms, event.total_ms, event.now)
            self._must_read = False

    def _take_offer(self, now: Instant) -> None:
        self._offer = None
        if self.seen.offered() and self.seen.record is not None:
            self._take(now, self.seen.record.epoch)

    def _follow(self) -> None:
        record = self.seen.record
        if self.is_primary or record is None or not record.holder or record.holder == str(self.me):
            return
        if not record.advertise:
            return
        if (whom := (record.pod, record.advertise, record.epoch)) != self._following:
            self._following = whom
            self._do(Follow(*whom))

    # -- handing over ----------------------------------------------------------------

    def _look_for_request(self, now: Instant) -> None:
        record = self.seen.record
        request = record.pending if record is not None else None
        if request is not None and self.is_open and not self._stopping:
            self._start(handing.begin(request, now, self.settings.switchover_timeout_s))
            if why := handing.already_done(request, self.me):
                self._finish_at_once(why, now)

    def _start(self, transfer: Transfer) -> None:
        self.transfer, self._asking = transfer, True
        self._do(AskPeers(0))

    def _finish_at_once(self, why: str, now: Instant) -> None:
        assert self.transfer is not None
        self._result = self.transfer.result(self.me, "Completed", now, why)
        self.transfer.phase, self._next = Phase.ABORTING, now

    def _chosen(self, transfer: Transfer, event: PeersAnswered) -> None:
        record = self.seen.record
        found: NodeState | str = "the Lease is missing"
        if record is not None:
            found = handing.choose(transfer.request, record, event)
        if isinstance(found, str):
            self._abort(found, event.now)
            return
        transfer.target, transfer.phase = found, Phase.ANNOUNCING
        self._result, self._next = transfer.draining(self.me, event.now), event.now

    def _on_drained(self, now: Instant) -> None:
        if self.transfer is not None and self.transfer.phase is Phase.DRAINING:
            self.transfer.phase = Phase.SWAPPING
            self._result = None

    def _swapped(self, record: LeaseRecord, now: Instant) -> None:
        """The Lease names the target: this node is a replica from here on."""
        transfer = self.transfer
        if transfer is not None and transfer.target is not None:
            since = transfer.drained_at or transfer.started
            self._do(TellTarget(transfer.target.pod, record, since, transfer.started))
        self._step_down(f"handed over to {record.pod}")
        self._must_read = False

    def _abort(self, reason: str, now: Instant) -> None:
        transfer = self.transfer
        if transfer is None or transfer.phase is Phase.ABORTING:
            return
        if transfer.stopping:
            self._give_up(f"the node stops; no hand-off: {reason}")
            return
        transfer.failure, transfer.phase = reason, Phase.ABORTING
        self._result, self._next = transfer.failed(self.me, now), now

    def _aborted(self, transfer: Transfer) -> None:
        self.transfer = None
        if transfer.drained_at is not None:
            self._do(Resume())

    def _stop_as_primary(self, now: Instant) -> None:
        if not self.is_open:
            self._give_up("the node stops")
            return
        request = HandOff(f"stop-{self.epoch}", "*", requested_by=self.me.pod)
        self._start(handing.begin(request, now, self.settings.switchover_timeout_s, stopping=True))

    # -- problems --------------------------------------------------------------------

    def _report(self, code: str, message: str) -> None:
        if message or code in self._reported:
            (self._reported.add if message else self._reported.discard)(code)
            self._do(Report(code, message))
