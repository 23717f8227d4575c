"""How often somebody may ask: token buckets by key, in bounded memory.

Used by ``server``: one table by address before a token is looked at, one by pod after.
"""

from __future__ import annotations

import math
from collections import OrderedDict


class Buckets:
    """``burst`` requests at once, then one each ``every_s`` seconds, for each key."""

    def __init__(self, burst: int, every_s: float, keys: int = 4096) -> None:
        self._burst, self._every_s, self._keys = burst, every_s, keys
        self._table: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now_s: float) -> int:
        """0 when the request may go on, else the whole seconds to wait."""
        left, at = self._table.pop(key, (float(self._burst), now_s))
        left = min(float(self._burst), left + max(0.0, now_s - at) / self._every_s)
        wait = 0 if left >= 1 else math.ceil((1 - left) * self._every_s)
        self._table[key] = (left if wait else left - 1, now_s)
        if len(self._table) > self._keys:
            self._table.popitem(last=False)  # the one that was silent for longest
        return wait
