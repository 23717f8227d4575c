"""How a node gets the Lease: by its own claim, by a hand-off, and whom it follows otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlitecluster.election.candidacy import judge
from sqlitecluster.election.core import ElectorCore
from sqlitecluster.election.holding import is_outside
from sqlitecluster.election.instants import Instant
from sqlitecluster.election.messages import (
    AskPeers,
    BecomePrimary,
    FetchMissing,
    Follow,
    HandOffReady,
    PeersAnswered,
    Resume,
)
from sqlitecluster.election.observation import Claim
from sqlitecluster.election.record import LeaseRecord
from sqlitecluster.election.transfer import Arrival

_PATIENCE: Final = 3.0
"""Retry periods that a better candidate gets to go first."""


class Taking(ElectorCore):
    """Gets the role."""

    def _consider(self, now: Instant) -> None:
        """Ask the peers when the Lease could be taken."""
        record, claim = self.seen.record, self.seen.claim(now)
        if record is None or claim is None or not self._may_try(record, claim, now):
            self._patient_since = None
            if claim is None:
                self._report("QuorumLost", "")
            return
        if claim is Claim.OFFERED:
            self._ask_peers(record.epoch)
        elif claim is not Claim.FREE and is_outside(record, str(self.me)):
            self._ask_peers(0)  # a holder that goes on by agreement must not be disturbed
        else:
            self._ask_peers(self.seen.known_epoch + 1)

    def _ask_peers(self, epoch: int) -> None:
        self._asking, self._asked = True, epoch
        self._do(AskPeers(epoch))

    def _may_try(self, record: LeaseRecord, claim: Claim, now: Instant) -> bool:
        if self._stopping or not self.settings.candidate or now.boot_ns < self._not_before.boot_ns:
            return False
        if self.pledge is not None and self.pledge.binds(str(self.me), claim, record, now):
            return False
        if claim is Claim.OFFERED:
            return not record.is_fenced(self.me.pod)
        return record.may_lead(self.me.pod, now.real_ns)

    def _judge_peers(self, event: PeersAnswered) -> None:
        record, claim = self.seen.record, self.seen.claim(event.now)
        if self.is_primary or self._busy or self._must_read or record is None or claim is None:
            return
        if not self._may_try(record, claim, event.now):
            return
        patient_since, event = self._patient_since or event.now, replace(event, asked=self._asked)
        acks = self.settings.wanted.acks
        verdict = judge(claim, record, event, self.seen.known_epoch, acks=acks)
        if verdict.patient and event.now.since(patient_since) >= self._retry_ns * _PATIENCE:
            verdict = judge(claim, record, event, self.seen.known_epoch, impatient=True, acks=acks)
        if verdict.lacks and not self._has_fetched:
            self._asking = self._has_fetched = True
            self._do(FetchMissing(verdict.lacks, self._asked))
            return
        self._has_fetched = False
        if verdict.code:
            self._report(verdict.code, verdict.reason)
        if verdict.epoch and not self._asked:  # it seems possible: only now are older epochs refused
            self._ask_peers(self.seen.known_epoch + 1)
        elif verdict.epoch:
            self._takes_loss = verdict.loss
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
        self._offer, self._takes_loss = None, False
        if self.seen.offered() and self.seen.record is not None:
            self._take(now, self.seen.record.epoch)

    def _follow(self) -> None:
        record = self.seen.record
        if self.is_primary or record is None or not record.holder or record.holder == str(self.me):
            return
        if not record.advertise or (record.epoch < self.seen.known_epoch and not self.seen.is_renewed):
            return  # an old copy, unless its holder lives: then it hears from its replicas of the newer epoch
        if (whom := (record.pod, record.advertise, record.epoch)) != self._following:
            self._following = whom
            self._do(Follow(*whom))

    def _won(self, record: LeaseRecord, sent: Instant, now: Instant) -> None:
        """The Lease names this node in an epoch that it has not begun."""
        self.seen.used()
        self._offer, self._patient_since, self._reclaim = None, None, False
        fence = sent.plus(self._fence_ns)
        if record.epoch <= self._promise:
            self._reclaim = self.is_primary
            return
        if now.passed(fence) or record.epoch <= self.epoch:
            self._reclaim = self.is_primary and record.epoch > self.epoch
            return
        if self.transfer is not None:  # a reclaim in the middle of a hand-off
            self._do(Resume())
            self.transfer = None
        self.is_primary, self.is_open, self.epoch, self.fence = True, False, record.epoch, fence
        self._following = None
        self._held, self._in_force, self._takes_loss = record.promise, None, False
        self.agreement.begin(record.must_agree, fence)
        for code in ("EmptyNode", "ClusterMismatch", "QuorumLost"):
            self._report(code, "")
        self._open_fence()
        self._do(BecomePrimary(record.epoch))
