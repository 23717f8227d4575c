"""A moment on both clocks of a node, and the arithmetic of deadlines.

``boot_ns`` is CLOCK_BOOTTIME (goes on while the machine is suspended, never jumps),
``real_ns`` is CLOCK_REALTIME (goes on while a hypervisor holds the machine, may jump).

Rules:
    1. A fence is shut when either clock has passed it.
    2. Waiting for somebody else's lease to end is measured by ``boot_ns`` alone: a clock
       that stood still only makes the wait longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading of both clocks."""

    boot_ns: int
    real_ns: int

    def plus(self, ns: int) -> Instant:
        """Later by ``ns`` on both clocks."""
        return Instant(self.boot_ns + ns, self.real_ns + ns)

    def passed(self, deadline: Instant) -> bool:
        """Whether either clock has reached a deadline."""
        return self.boot_ns >= deadline.boot_ns or self.real_ns >= deadline.real_ns

    def since(self, earlier: Instant) -> int:
        """Nanoseconds by CLOCK_BOOTTIME."""
        return self.boot_ns - earlier.boot_ns

    def until(self, deadline: Instant) -> int:
        """Nanoseconds to a deadline by whichever clock reaches it first; negative when it has passed."""
        return min(deadline.boot_ns - self.boot_ns, deadline.real_ns - self.real_ns)


def seconds(value: float) -> int:
    """Seconds as nanoseconds."""
    return int(value * SECOND)


NEVER: Final = Instant(0, 0)
"""Before every moment; as a deadline it has always passed."""
