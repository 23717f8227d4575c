"""The primary's side of members and acknowledgements: what it promises in the Lease, and tells its data path.

``membership`` decides what changes; here it is written with a renewal. ``machine.Elector`` drives it.

Rules:
    1. A change is decided and sent in the same step as the ``DataPath`` that allows it. One
       that lets less count (a member goes, fewer acknowledgements do no more) is in force
       before the look that allows it: commits are answered by other threads meanwhile.
    2. ``SetMembers`` comes before the request whose result it depends on, and follows what
       every Lease says that may be there (``membership.in_force``).
    3. Only a record that this node has written in its epoch changes what it promises: a
       Lease that was changed by somebody else gets the members again with the next renewal.
"""

from __future__ import annotations

from typing import Final

from sqlitecluster.election.core import ElectorCore
from sqlitecluster.election.instants import Instant, seconds
from sqlitecluster.election.membership import Trial, in_force, inherited, is_stricter, next_promise
from sqlitecluster.election.messages import DataPath, SetMembers
from sqlitecluster.election.notes import micro_time
from sqlitecluster.election.promise import Promise
from sqlitecluster.election.record import LeaseRecord

_TRIAL_S: Final = 2.0


class Promising(ElectorCore):
    """Keeps the promise."""

    def _promise_to_take(self, record: LeaseRecord) -> Promise:
        """What to promise with a take-over."""
        if self.is_primary and self._held is not None:
            return self._held
        return inherited(record.promise, self.settings.wanted, loss=self._takes_loss)

    def _on_data_path(self, event: DataPath) -> None:
        if not self.is_primary or self._held is None:
            return
        self._short = event.short or (self._short and self._held.degraded_ns is None)
        self._path = event

    def _change_promise(self, now: Instant) -> bool:
        """Write the next change, if there is one; only in the step of a ``DataPath``."""
        path, held = self._path, self._held
        if path is None or held is None or self.transfer is not None or self._stopping:
            return False
        if self.seen.pending():
            return False  # one change at a time
        changed = next_promise(held, self.settings.wanted, path, short=self._short, real_ns=now.real_ns)
        self._short = self._short and changed is not None
        if not self._is_tried(changed, held, path, now) or changed is None:
            return False
        self._next_promise = changed
        self._renew(now)
        self._next_promise = None
        return True

    def _is_tried(self, changed: Promise | None, held: Promise, path: DataPath, now: Instant) -> bool:
        """Whether a change may be written: a stricter one only when it was in force before ``path`` was looked at."""
        tried = self._trial
        if changed is not None and not is_stricter(held, changed):
            self._trial = None
            return True
        if tried is not None and changed == tried.promise:
            self._trial = None
            return True
        if tried is not None and (path.short or now.since(tried.at) > seconds(_TRIAL_S)):
            self._trial, self._no_trial_before = None, now.plus(seconds(_TRIAL_S))
        if tried is None and changed is not None and now.boot_ns >= self._no_trial_before.boot_ns:
            self._trial = Trial(changed, now)
        return False

    def _tell_data_path(self) -> None:
        """At the end of each step."""
        self._path = None
        if not self.is_primary or self._held is None or self.settings.wanted.acks <= 0:
            return
        force = in_force(self._possible(), self.settings.wanted)
        if force != self._in_force:
            self._in_force = force
            self._out.insert(0, SetMembers(*force))
        self._report("Degraded", self._degraded())

    def _possible(self) -> list[Promise]:
        """Of every Lease that may be there now, or come."""
        record, held = self.seen.record, self._held
        assert held is not None
        found = [record.promise if record is not None else held]
        if self._trial is not None:
            found.append(self._trial.promise)
        version = record.resource_version if record is not None else ""
        pending = self.seen.pending() + ([self._sent] if self._sent is not None else [])
        return found + [sent.promise for sent in pending if record is None or sent.resource_version == version]

    def _degraded(self) -> str:
        since = self._held.degraded_ns if self._held is not None else None
        if since is None:
            return ""
        return f"since {micro_time(since)} commits may have fewer acknowledgements than configured: too few replicas"
