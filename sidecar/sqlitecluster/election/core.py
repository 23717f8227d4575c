"""What the parts of an elector share: its state, its requests, how it steps down.

``giving`` (handing the role over), ``taking`` (getting it) and ``machine`` (events) build on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election.holding import Agreement, Pledge
from sqlitecluster.election.instants import MILLISECOND, NEVER, Instant, seconds
from sqlitecluster.election.membership import Trial, Wanted
from sqlitecluster.election.messages import (
    Action,
    DataPath,
    Demote,
    Note,
    PutLease,
    ReadLease,
    Released,
    Report,
    SetFence,
)
from sqlitecluster.election.observation import Observation
from sqlitecluster.election.promise import Promise
from sqlitecluster.election.record import HandOffResult, Holder, LeaseRecord
from sqlitecluster.election.transfer import Arrival, Transfer


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
    hold: bool = False
    """Go on without the API server as long as every other candidate agrees."""

    wanted: Wanted = field(default_factory=lambda: Wanted(0))
    """What commits wait for, and this node's own store id."""

    def problem(self) -> str:
        """Why these times are not safe; empty when they are."""
        t = self.times
        if t.renew_deadline_s * 1000 - t.margin_ms < 2 * t.retry_period_s * 1000:
            return "renewDeadlineS less marginMs must leave room for two renewals (2 x retryPeriodS)"
        if t.duration_s <= t.renew_deadline_s:
            return "durationS must be above renewDeadlineS"
        return ""


class ElectorCore:
    """State, requests and the way down."""

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
        """The hand-off under way."""
        self.ended = False
        self.agreement = Agreement()
        """As the primary: what the others agreed to."""
        self.pledge: Pledge | None = None
        """As a candidate: what it agreed to; told once from what was stored."""
        self._others: frozenset[str] | None = None
        self._held: Promise | None = None
        """As primary: what it has promised in the Lease."""
        self._next_promise: Promise | None = None
        self._trial: Trial | None = None
        self._no_trial_before = NEVER
        self._takes_loss = False
        self._short = False
        self._path: DataPath | None = None
        self._in_force: tuple[frozenset[int], bool] | None = None
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
        self._asked = 0
        self._ask_at = NEVER
        self._has_fetched = False
        self._patient_since: Instant | None = None
        self._not_before = NEVER
        self._following: tuple[str, str, int] | None = None
        self._arrival: Arrival | None = None
        self._offer: LeaseRecord | None = None
        self._result: HandOffResult | None = None
        self._releasing = False
        self._reported: set[str] = set()
        self._fenced = False

    def promised(self, epoch: int, cluster_id: str = "") -> None:
        """The newest epoch that this node knows durably: none up to it can begin here. Told before each event."""
        self._promise = epoch
        self._cluster_id = cluster_id or self._cluster_id
        self.seen.note(epoch)

    @property
    def is_stopping(self) -> bool:
        """``Terminate`` was told: this node takes no role any more."""
        return self._stopping

    def fence_ms(self, now: Instant) -> int:
        """For how long this node may still acknowledge writes."""
        if not self.is_primary or (self.transfer is not None and self.transfer.swapped):
            return 0
        return max(0, now.until(self.fence) // MILLISECOND)

    def _do(self, action: Action) -> None:
        self._out.append(action)

    def _open_fence(self) -> None:
        """Let programs write up to the fence, unless people forbid it."""
        record = self.seen.record
        self._fenced = record is not None and record.is_fenced(self.me.pod)
        self._do(SetFence(NEVER if self._fenced else self.fence))

    def _report(self, code: str, message: str) -> None:
        if message or code in self._reported:
            (self._reported.add if message else self._reported.discard)(code)
            self._do(Report(code, message))

    def _learn(self, record: LeaseRecord, now: Instant) -> None:
        if self.seen.see(record, now) and record.holder != str(self.me):
            self._do(Note(record.epoch))

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
            must_agree=self._to_list(record),
            promise=self._next_promise or self._promise_to_take(record),
            loss=None,  # used now, or not needed: somebody leads
            loss_handled=record.loss.id if self._takes_loss and record.loss is not None else record.loss_handled,
        )

    def _promise_to_take(self, record: LeaseRecord) -> Promise:
        """See ``promising``."""
        raise NotImplementedError

    def _to_list(self, record: LeaseRecord) -> frozenset[str] | None:
        """Who must agree when this node goes on without renewals. A new one waits until the last one is stored."""
        others = self._others if self.settings.hold else None
        if self.is_primary:
            if self.agreement.listed != record.must_agree:
                return self.agreement.listed
            self.agreement.listed = others
        return others

    def _needed(self) -> frozenset[str] | None:
        """Who must agree now, whichever list the Lease has; None: this node may not go on by agreement."""
        record, listed = self.seen.record, self.agreement.listed
        if not self.is_primary or not self.settings.hold or self._reclaim or record is None:
            return None
        if record.holder != str(self.me) or record.epoch != self.epoch or record.must_agree is None or listed is None:
            return None
        if self.transfer is not None and self.transfer.swapped:
            return None
        return record.must_agree | listed

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

    def _release(self, now: Instant) -> None:
        record = self.seen.record
        if record is None or record.holder != str(self.me) or now.passed(self.fence):
            self._end()
            return
        promise = self._held if self._held is not None and record.epoch == self.epoch else record.promise
        self._put(replace(record, holder="", released=True, advertise="", must_agree=None, promise=promise), now)

    def _check_fence(self, now: Instant) -> None:
        if self.is_primary and now.passed(self.fence):
            complaint = self.agreement.complaint(self._needed() or ())
            self._step_down("the lease could not be renewed in time" + (f", and {complaint}" if complaint else ""))

    def _step_down(self, reason: str) -> None:
        self.is_primary = self.is_open = self._reclaim = False
        self.transfer, self._result, self._arrival = None, None, None
        self._must_read, self._following = True, None
        self._path, self._in_force, self._short, self._trial = None, None, False, None
        for code in ("HoldingByAgreement", "Degraded"):
            self._report(code, "")
        self._do(SetFence(NEVER))
        self._do(Demote(reason))

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
