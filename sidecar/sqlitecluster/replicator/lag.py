"""How far a replica is behind, by the primary's clock.

The stream client feeds heartbeats as they arrive; the apply thread says which of the
primary's moments is visible now. Neither node's clock has to be right: the offset
between the two is learned from heartbeats.

Rules:
    1. Connected and nothing waits: the lag is the delay of the last transaction or
       heartbeat. Something waits, or the primary is silent: it grows with time.
    2. Until the first full sync the lag is ``NEVER``.
"""

from __future__ import annotations

from collections import deque
from typing import Final

NEVER: Final = (1 << 31) - 1
_WINDOW: Final = 60
_SILENT_MS: Final = 2000


class LagMeter:
    """Written by the event loop and the apply thread; every field is one store."""

    def __init__(self) -> None:
        self._offsets: deque[int] = deque(maxlen=_WINDOW)
        self._offset = 0
        self._heard_ms = 0
        self._visible_ms = 0
        self._delay_ms = NEVER
        self.in_sync = False

    def reset(self) -> None:
        """Another primary is followed, or none: not in sync with it yet."""
        self.in_sync = False
        self._offsets.clear()
        self._visible_ms, self._delay_ms = 0, NEVER

    def heartbeat(self, primary_ms: int, now_ms: int) -> None:
        """A heartbeat arrived; the smallest difference seen is the clocks' offset."""
        self._offsets.append(now_ms - primary_ms)
        self._offset = min(self._offsets)
        self._heard_ms = now_ms

    def visible(self, primary_ms: int, now_ms: int) -> None:
        """Everything the primary had at ``primary_ms`` can be read here now."""
        self._visible_ms = max(self._visible_ms, primary_ms)
        self._delay_ms = max(0, now_ms - self._offset - primary_ms)

    def restart(self) -> None:
        """A new stream, perhaps to another primary."""
        self._offsets.clear()

    def lag_ms(self, now_ms: int, waiting: bool) -> int:
        """The lag in ms."""
        if not self.in_sync:
            return NEVER
        if not waiting and now_ms - self._heard_ms < _SILENT_MS:
            return min(self._delay_ms, NEVER)
        return max(0, min(now_ms - self._offset - self._visible_ms, NEVER))
