"""What a replica has on disk and may not show yet. Pure.

In a stream that holds transactions back a replica acknowledges a transaction as soon as it
is durable, and shows it once the primary says that it is committed. One ``Pending`` belongs
to one database of a replica.

Rules:
    1. Transactions are shown in order, and those that become committed together are shown
       together: the transaction that takes back one before it (its program was told that it
       failed) never lets a reader see that one.
    2. ``limit`` is what the primary said, never lowered by what it says later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
Page = tuple[int, bytes | memoryview]


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


def merged(files: Iterable[tuple[Sequence[Page], int]]) -> tuple[list[Page], int]:
    """The pages (ascending) and the size in pages that several increments (pages, size) leave together."""
    pages: dict[int, bytes | memoryview] = {}
    size = 0
    for some, commit in files:
        if commit < size:
            pages = {pgno: page for pgno, page in pages.items() if pgno <= commit}
        pages.update(some)
        size = commit
    return sorted(pages.items()), size
