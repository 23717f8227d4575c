"""When to look at a database again. Pure; called by ``capture``.

Between a commit's last byte and its publication a program needs some microseconds; a
look at the wal-index costs one. While commits come one after another it pays to let some
gather: they share a turn, and a page that all of them change is compressed once.

All times in seconds.
"""

from __future__ import annotations

from typing import Final

NEVER: Final = float("inf")
SPIN_S: Final = 200e-6
"""After an event publication is polled without a pause for this long."""
NAP_S: Final = 200e-6
"""Pause between two looks while events are frequent; the bell is not needed then."""
LIVELY_S: Final = 2e-3
"""So long after one of many events the thread naps instead of sleeping."""
FREQUENT: Final = 2000.0
"""Events in a second above which naps cost less than a ring of the bell for each."""
GATHER_S: Final = 5e-3
RETRY_S: Final = 0.1
HOUSEKEEPING_S: Final = 0.1

_PACE_S: Final = 5e-3
_BUSY_COMMITS: Final = 4
_BUSY_BYTES: Final = 256 << 10


class Pace:
    """How fast events come."""

    __slots__ = ("_events", "_since", "is_fast")

    def __init__(self) -> None:
        self._since = 0.0
        self._events = 0
        self.is_fast = False
        """Whether naps are better than the bell."""

    def note(self, events: int, now: float) -> None:
        """So many came since the last call."""
        self._events += events
        elapsed = now - self._since
        if elapsed >= _PACE_S:
            self.is_fast = self._events > FREQUENT * elapsed
            self._since, self._events = now, 0


def tail_pause(age_s: float) -> float:
    """Pause before the next look at frames that are written but not published, ``age_s`` after the last event."""
    if age_s < SPIN_S:
        return 0.0
    if age_s < 5e-3:
        return NAP_S
    if age_s < 0.2:
        return 2e-3
    return RETRY_S


def gather_pause(commits: int, size: int) -> float:
    """Pause after a turn that captured ``commits`` commits from ``size`` bytes of log."""
    return GATHER_S if commits >= _BUSY_COMMITS or size >= _BUSY_BYTES else 0.0


def nap_or_sleep(since_event_s: float, until_due_s: float, *, is_fast: bool) -> tuple[float, bool]:
    """(seconds, with the bell) to wait when nothing is due: short waits do without the bell."""
    if until_due_s <= LIVELY_S:
        return min(max(until_due_s, 0.0), NAP_S), False
    if is_fast and since_event_s < LIVELY_S:
        return NAP_S, False
    return min(until_due_s, HOUSEKEEPING_S), True
