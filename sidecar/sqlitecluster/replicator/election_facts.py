"""Figures of the election for ``/metrics``: counted in the event loop, read from any thread."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from sqlitecluster.election.instants import MILLISECOND, SECOND, Instant

if TYPE_CHECKING:
    from sqlitecluster.election import Elector
    from sqlitecluster.replicator.metrics import Sample

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Facts:
    """What happened so far."""

    def __init__(self, elector: Elector) -> None:
        self._elector = elector
        self.transitions = 0
        self.failures = 0
        self.reason = ""
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_ns = 0

    def renewed(self, took_ns: int) -> None:
        """A PUT of the Lease was answered."""
        self._counts[bisect_left(BUCKETS_S, took_ns / SECOND)] += 1
        self._sum_ns += took_ns

    def failed(self) -> None:
        """A request for the Lease had no usable answer."""
        self.failures += 1

    def opened(self) -> None:
        """This node became the primary."""
        self.transitions += 1

    def demoted(self, reason: str) -> None:
        """This node stopped being the primary."""
        self.transitions += 1
        self.reason = reason

    def samples(self) -> list[Sample]:
        """For ``/metrics``."""
        now = Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
        found: list[Sample] = [
            ("sqlitecluster_time_to_fence_seconds", {}, self._elector.fence_ms(now) * MILLISECOND / SECOND),
            ("sqlitecluster_leader_transitions_total", {}, self.transitions),
            ("sqlitecluster_lease_failures_total", {}, self.failures),
        ]
        total = 0
        for bound, count in zip((*(f"{b:g}" for b in BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            found.append(("sqlitecluster_lease_renew_seconds_bucket", {"le": bound}, total))
        found.append(("sqlitecluster_lease_renew_seconds_sum", {}, self._sum_ns / SECOND))
        found.append(("sqlitecluster_lease_renew_seconds_count", {}, total))
        return found
