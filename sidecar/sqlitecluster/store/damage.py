"""What bit rot was found in the data directory, and what was made whole again: counted per database.

The store's parts report what they find while they read; the verifier and ``replicator.mending``
report pages. ``/metrics`` shows the sums.

Rules:
    1. Any thread may report; numbers only grow.
    2. A damaged LTX file that left the chain waits in ``gaps`` until somebody looked for a good copy.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

PAGE, LTX, LOG, CHECKSUMS, STATE = "page", "ltx", "log", "checksums", "state"
KINDS: Final = (PAGE, LTX, LOG, CHECKSUMS, STATE)
_MOST_GAPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Gap:
    """Transactions whose only LTX file was damaged."""

    database: str
    min_txid: int
    max_txid: int
    kind: str = LTX
    """Where they were."""


@dataclass(slots=True)
class Damage:
    """Counters by (kind, database), and gaps that wait for a copy."""

    found: dict[tuple[str, str], int] = field(default_factory=dict)
    repaired: dict[tuple[str, str], int] = field(default_factory=dict)
    gaps: deque[Gap] = field(default_factory=lambda: deque(maxlen=_MOST_GAPS))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_found(self, kind: str, database: str, count: int = 1) -> None:
        """Something of this database was damaged."""
        self._add(self.found, kind, database, count)

    def note_repaired(self, kind: str, database: str, count: int = 1) -> None:
        """It is whole again, or nobody needs it any more."""
        self._add(self.repaired, kind, database, count)

    def take_gap(self) -> Gap | None:
        """The next gap that waits, or None."""
        try:
            return self.gaps.popleft()
        except IndexError:
            return None

    def _add(self, table: dict[tuple[str, str], int], kind: str, database: str, count: int) -> None:
        with self._lock:
            table[kind, database] = table.get((kind, database), 0) + count
