"""The primary's side of a hand-off, and of the end of a node. ``transfer`` has the phases.

Rule: programs may write again only after a renewal that was sent later than the last swap.
"""

from __future__ import annotations

from dataclasses import replace

from sqlitecluster.election import transfer as handing
from sqlitecluster.election.core import ElectorCore
from sqlitecluster.election.instants import NEVER, Instant, seconds
from sqlitecluster.election.messages import AskPeers, NodeState, NotDrained, PeersAnswered, Resume, SetFence, TellTarget
from sqlitecluster.election.record import COMPLETED, HandOff, LeaseRecord
from sqlitecluster.election.transfer import Phase, Transfer


class Giving(ElectorCore):
    """Gives the role away."""

    def _look_for_request(self, now: Instant) -> None:
        record = self.seen.record
        request = record.pending if record is not None else None
        if request is not None and self.is_open and not self._stopping:
            self._start(handing.begin(request, now, self.settings.switchover_timeout_s))
            if why := handing.already_done(request, self.me):
                self._finish_at_once(why, now)

    def _start(self, transfer: Transfer) -> None:
        self.transfer, self._asking, self._asked = transfer, True, 0
        self._do(AskPeers(0))

    def _finish_at_once(self, why: str, now: Instant) -> None:
        assert self.transfer is not None
        self._result = self.transfer.result(self.me, COMPLETED, now, why)
        self.transfer.phase, self._next = Phase.ABORTING, now

    def _chosen(self, transfer: Transfer, event: PeersAnswered) -> None:
        record = self.seen.record
        found: NodeState | str = "the Lease is missing"
        if record is not None:
            found = handing.choose(transfer, record, event)
        if isinstance(found, str):
            self._abort(found, event.now)
            return
        transfer.target, transfer.phase = found, Phase.ANNOUNCING
        self._result, self._next = transfer.draining(self.me, event.now), event.now

    def _on_drained(self, now: Instant) -> None:
        if self.transfer is not None and self.transfer.phase is Phase.DRAINING:
            self.transfer.phase = Phase.SWAPPING
            self._result = None

    def _on_not_drained(self, event: NotDrained) -> None:
        """Programs wait on while another target is looked for; without one they go on here."""
        transfer = self.transfer
        if transfer is None or transfer.phase is not Phase.DRAINING:
            return
        if not transfer.is_to_anybody or transfer.target is None or event.now.passed(transfer.deadline):
            self._abort(event.reason, event.now)
            return
        transfer.passed_over.add(transfer.target.pod)
        transfer.failure, transfer.phase = event.reason, Phase.CHOOSING
        self._asking, self._asked = True, 0
        self._do(AskPeers(0))

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
        self._put(transfer.swap(self._promised_in(record), self.me, self.seen.known_epoch + 1, until, now), now)

    def _promised_in(self, record: LeaseRecord) -> LeaseRecord:
        return replace(record, promise=self._held) if self._held is not None else record

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
