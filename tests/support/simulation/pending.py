"""What a simulated replica has on disk and may not show yet.

Production keeps the limit in the store's words (``commit_limit``) and reads what waits from the
log; this is the same rule on a list.

Rules:
    1. Transactions are shown in order, and those that become committed together are shown together.
    2. ``limit`` is what the primary said, never lowered by what it says later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """One transaction, or several of one file."""

    min_txid: int
    max_txid: int
    item: T


class Pending(Generic[T]):
    """Durable transactions of one database, in order, that are not shown."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        """Newest TXID that is known to be committed."""
        self._waiting: list[Waiting[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, min_txid: int, max_txid: int, item: T) -> None:
        """A transaction is durable.

        Raises:
            ValueError: it does not follow the ones before it.
        """
        if self._waiting and min_txid > self._waiting[-1].max_txid + 1:
            raise ValueError(f"transaction {min_txid} does not follow {self._waiting[-1].max_txid}")
        self._waiting.append(Waiting(min_txid, max_txid, item))

    def commit(self, txid: int) -> list[T]:
        """Everything up to ``txid`` is committed; what is to be shown now, together."""
        self.limit = max(self.limit, txid)
        count = sum(1 for waiting in self._waiting if waiting.max_txid <= self.limit)
        shown, self._waiting = self._waiting[:count], self._waiting[count:]
        return [waiting.item for waiting in shown]

    def clear(self) -> None:
        """Another image took the place of everything."""
        self._waiting.clear()
