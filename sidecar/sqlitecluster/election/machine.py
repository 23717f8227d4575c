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

from typing import Final

from sqlitecluster.election import transfer as handing
from sqlitecluster.election.agreeing import Agreeing
from sqlitecluster.election.core import ElectorSettings
from sqlitecluster.election.giving import Giving
from sqlitecluster.election.instants import Instant, seconds
from sqlitecluster.election.messages import (
    Action,
    DataPath,
    Drain,
    Drained,
    Event,
    HandOffReady,
    LeaseConflict,
    LeaseFailed,
    LeasePut,
    LeaseRead,
    NewerEpoch,
    NotDrained,
    NotOpened,
    Opened,
    OthersKnown,
    PeersAnswered,
    PledgeAnswered,
    Terminate,
)
from sqlitecluster.election.promising import Promising
from sqlitecluster.election.record import FINAL, LeaseRecord
from sqlitecluster.election.taking import Taking
from sqlitecluster.election.transfer import Phase

_POLL: Final = 1.5
"""Retry periods without news of the Lease after which a replica asks for it."""
_COOL_DOWN_S: Final = 10.0
_CONFLICTS: Final = 3

__all__ = ["Elector", "ElectorSettings"]


class Elector(Promising, Giving, Taking, Agreeing):
    """One node's part in electing the primary."""

    def step(self, event: Event) -> list[Action]:
        """Take one event in; what is to be done now."""
        self._out = []
        if self.ended:
            return []
        now = event.received if isinstance(event, LeaseRead | LeasePut | LeaseConflict | LeaseFailed) else event.now
        self._check_fence(now)
        if isinstance(event, LeaseRead | LeasePut | LeaseConflict | LeaseFailed):
            self._on_answer(event)
        elif isinstance(event, Terminate):
            self._stopping = True
        else:
            self._on_news(event)
        self._drive(now)
        self._tell_data_path()
        return self._out

    def _drive(self, now: Instant) -> None:
        if self.ended:
            return
        if self._stopping and not self.is_primary and not self._releasing and self._sent is None:
            self._end()
        elif self.is_primary:
            self._hold(now)
            self._drive_primary(now)
        else:
            self._drive_follower(now)

    def _on_answer(self, event: LeaseRead | LeasePut | LeaseConflict | LeaseFailed) -> None:
        match event:
            case LeaseRead():
                self._on_read(event)
            case LeasePut():
                self._on_put(event)
            case LeaseConflict():
                self._busy, self._must_read, self._conflicts = False, True, self._conflicts + 1
            case LeaseFailed():
                self._on_failure(event)

    def _on_news(self, event: Event) -> None:
        match event:
            case PeersAnswered():
                self._on_peers(event)
            case Opened():
                self._on_opened(event)
            case NotOpened():
                self._on_not_opened(event)
            case Drained():
                self._on_drained(event.now)
            case NotDrained():
                self._on_not_drained(event)
            case HandOffReady():
                self._on_ready(event)
            case NewerEpoch():
                self._on_newer_epoch(event.epoch)
            case DataPath():
                self._on_data_path(event)
            case OthersKnown() | PledgeAnswered():
                self._on_others(event)

    def _on_peers(self, event: PeersAnswered) -> None:
        self._asking = False
        self._cluster_id = event.local.cluster_id or self._cluster_id
        if self.transfer is not None and self.transfer.phase is Phase.CHOOSING:
            self._chosen(self.transfer, event)
        else:
            self._judge_peers(event)

    def _on_newer_epoch(self, epoch: int) -> None:
        self.seen.note(epoch)
        self._reclaim = self._reclaim or (self.is_primary and epoch > self.epoch)

    def _drive_primary(self, now: Instant) -> None:
        if self._stopping and self.transfer is None:
            self._stop_as_primary(now)
        transfer = self.transfer
        if transfer is not None and now.passed(transfer.deadline):
            self._abort("it took longer than the switchover timeout", now)
        if self._busy or not self.is_primary:
            return
        early = now.boot_ns < self._next.boot_ns
        if self._must_read:
            if not early or self._conflicts in range(1, _CONFLICTS):
                self._read()
        elif self._reclaim:
            self._take(now, self.seen.known_epoch + 1)
        elif self.transfer is not None and self.transfer.phase is Phase.SWAPPING:
            self._swap(now)
        elif not self._change_promise(now) and not early:
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

    def _on_read(self, event: LeaseRead) -> None:
        if not event.watched:
            self._busy, self._must_read, self._next = False, False, event.sent.plus(self._retry_ns)
            self._sent = None  # it was refused: while a request is under way nothing is read
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
        self._report_fence(record)
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
            self._held = event.record.promise
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

    def _has_news(self, record: LeaseRecord) -> bool:
        """Whether a watch tells a primary something that its own renewals do not."""
        if record.is_fenced(self.me.pod) != self._fenced:
            return True
        return record.holder != str(self.me) or record.epoch != self.epoch or record.pending is not None

    def _report_fence(self, record: LeaseRecord) -> None:
        why = (
            "by spec.fence, or because the cluster hibernates: this pod does not write, lead nor serve until that ends"
        )
        self._report("Fenced", why if record.is_fenced(self.me.pod) else "")

    def _no_lease(self, event: LeaseRead) -> None:
        if event.watched:
            self._must_read = True
            return
        self.seen.missing(event.received)
        self._must_read = True
        self._report("LeaseMissing", "the Lease does not exist; the operator makes it again. Writing ends at the fence")
        if self._releasing:
            self._end()

    def _renewed(self, sent: Instant, now: Instant) -> None:
        self._fence_by_lease(sent, now)
        transfer = self.transfer
        if transfer is None or not transfer.swapped or transfer.phase is Phase.ABORTING:
            self._refence()
        written = self.seen.record is not None and self._result == self.seen.record.result
        if written:
            self._result = None
        if transfer is None:
            self._look_for_request(now)
        elif transfer.phase is Phase.ABORTING and written:
            self._aborted(transfer)
        elif transfer.phase is Phase.ANNOUNCING and written:
            transfer.phase, transfer.drained_at = Phase.DRAINING, transfer.drained_at or now
            target = transfer.target.pod if transfer.target else ""
            self._do(Drain(target, max(0.0, now.until(transfer.deadline) / 1e9)))

    def _refence(self) -> None:
        """After a renewal. A fence that people lifted is opened by a new epoch: what met it is settled first."""
        before = self._fenced
        record = self.seen.record
        if before and record is not None and not record.is_fenced(self.me.pod):
            self._fenced, self._reclaim = False, True
        else:
            self._open_fence()

    def _read_as_primary(self, record: LeaseRecord, sent: Instant | None, now: Instant) -> None:
        """What a primary reads after a conflict, a failure, or when told of news."""
        mine, self._reclaim = record.holder == str(self.me), False
        if mine and record.epoch == self.epoch:
            self._held = record.promise if sent is not None else self._held
            if sent is not None and not now.passed(sent.plus(self._fence_ns)):
                self._fence_by_lease(sent, now)
                if self.transfer is None or not self.transfer.swapped:
                    self._refence()
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
