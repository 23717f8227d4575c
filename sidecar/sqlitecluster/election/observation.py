"""What one node has seen of the Lease, and for how long nothing changed in it.

Used by ``machine.Elector``. Everything that speaks for or against a take-over and can
be known from the Lease alone is decided here.

Rules:
    1. Time starts when an answer has come (not when it was asked for): whoever wrote the
       record sent it before that, so a fence counted from that sending is shut first.
    2. An empty Lease may be taken at once only if its last holder said so (``released``),
       or if it has never been held. One that was emptied, deleted and made again, or set
       back to an older copy is treated as if somebody held it.
    3. Our own name in the Lease is no right: a process that was started anew takes a new
       epoch, and only if its own wall clock says that the lease is still running.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sqlitecluster.election.instants import MILLISECOND, SECOND, Instant, seconds
from sqlitecluster.election.record import Holder, LeaseRecord


class Claim(Enum):
    """Why this node may take the Lease now."""

    FREE = "nobody holds it"
    OFFERED = "it was handed to this node"
    RESTART = "this node held it before it was started anew"
    EXPIRED = "its holder did not renew it in time"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A PUT without a known result: it may have landed, or may still land."""

    record: LeaseRecord
    sent: Instant


class Observation:
    """The Lease as one node knows it."""

    def __init__(self, me: Holder, known_epoch: int, margin_ms: int, failover_delay_s: float) -> None:
        self._me = str(me)
        self._margin = margin_ms * MILLISECOND
        self._delay = seconds(failover_delay_s)
        self.known_epoch = known_epoch
        """The newest epoch this node knows of; durable by ``Note``."""
        self.record: LeaseRecord | None = None
        self.at: Instant | None = None
        """When the newest answer came."""
        self.is_renewed = False
        """The holder was seen to renew the Lease in this epoch: it lives."""
        self._life: tuple[object, ...] | None = None
        self._since: Instant | None = None
        self._uid = ""
        self._strange = False
        self._offered = 0
        self._own: tuple[object, ...] | None = None
        self._attempts: list[Attempt] = []

    # -- learning --------------------------------------------------------------------

    def missing(self, now: Instant) -> None:
        """There is no Lease."""
        self.record, self._life, self._since = None, None, None
        self.at, self._strange = now, True

    def see(self, record: LeaseRecord, now: Instant) -> bool:
        """Take a record in; True when its epoch is new to this node (make that durable)."""
        if self._uid and record.uid != self._uid:
            self._strange = True
        self._uid = record.uid
        if record.life() != self._life:
            same = self._life is not None and self._life[:3] == record.life()[:3]
            self.is_renewed = same
            self._life, self._since = record.life(), now
        newer = record.epoch > self.known_epoch
        if newer:
            self.known_epoch = record.epoch
            self._offered = record.epoch if record.holder == self._me else 0
        if record.holder and record.epoch >= self.known_epoch:
            self._strange = False
        self.record, self.at = record, now
        self._attempts = [a for a in self._attempts if a.record.resource_version == record.resource_version]
        return newer

    def is_older(self, record: LeaseRecord, sent: Instant, *, watched: bool) -> bool:
        """Whether an answer is overtaken by what is known: asked for before, and of a lower version."""
        if self.record is None or record.uid != self.record.uid or self.at is None:
            return False
        have, got = self.record.resource_version, record.resource_version
        if not (have.isdigit() and got.isdigit()):
            return watched
        if watched:
            return int(got) <= int(have)
        return int(got) < int(have) and sent.boot_ns <= self.at.boot_ns

    def attempted(self, record: LeaseRecord, sent: Instant) -> None:
        """Remember a PUT whose result is unknown."""
        self._attempts = [*self._attempts[-7:], Attempt(record, sent)]

    def resolve(self, record: LeaseRecord) -> Attempt | None:
        """The attempt that a record is the outcome of."""
        found = next((a for a in self._attempts if a.record.life() == record.life()), None)
        if found is not None:
            self._own = record.life()
        return found

    @property
    def is_unsettled(self) -> bool:
        """A PUT of this node may still land."""
        return bool(self._attempts)

    def stamp(self, real_ns: int, record: LeaseRecord) -> LeaseRecord:
        """A record to send, told apart from every other that may still land."""
        stamped = record.renewed(real_ns)
        while any(a.record.renew_real_ns == stamped.renew_real_ns for a in self._attempts):
            stamped = stamped.renewed(stamped.renew_real_ns or 0)
        return stamped

    def pending(self) -> list[LeaseRecord]:
        """Records of this node that may still land."""
        return [attempt.record for attempt in self._attempts]

    def note(self, epoch: int) -> None:
        """Another epoch became known."""
        self.known_epoch = max(self.known_epoch, epoch)

    # -- deciding --------------------------------------------------------------------

    def claim(self, now: Instant) -> Claim | None:
        """Whether the Lease, as far as this node can see, may be taken."""
        record = self.record
        if record is None or self._since is None:
            return None
        if self._is_free(record):
            return Claim.FREE
        if record.holder == self._me and not self._strange and record.epoch == self.known_epoch:
            if self._offered == record.epoch:
                return Claim.OFFERED
            if self._is_running(record, now):
                return Claim.RESTART
        return Claim.EXPIRED if now.since(self._since) >= self._patience(record) else None

    def offered(self) -> bool:
        """Whether the Lease was handed to this process and not used yet."""
        return self.record is not None and self.record.holder == self._me and self._offered == self.record.epoch > 0

    def used(self) -> None:
        """An offer is used once."""
        self._offered = 0

    def _is_free(self, record: LeaseRecord) -> bool:
        if record.holder or self._strange or record.epoch < self.known_epoch:
            return False
        return record.released or (record.epoch == 0 and record.renew_real_ns is None)

    def _patience(self, record: LeaseRecord) -> int:
        delay = self._delay if record.holder not in ("", self._me) else 0
        return record.duration_s * SECOND + self._margin + delay

    def _is_running(self, record: LeaseRecord, now: Instant) -> bool:
        """By the wall clock that wrote it (a pod never changes its machine), or because this very process
        sent it and the server, which had stood still, has only now carried it out.
        """
        if record.renew_real_ns is None or self._since is None:
            return False
        if record.life() == self._own and now.since(self._since) < record.duration_s * SECOND:
            return True
        return 0 <= now.real_ns - record.renew_real_ns < record.duration_s * SECOND
