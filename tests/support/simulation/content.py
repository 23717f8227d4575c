"""What a simulated database holds, as a tree of states: a bank and an append list.

A state is the content after one operation on another state. Two histories that part
have a common stem and different branches, so that "is a prefix of" is one look.

Each operation appends one row with a unique value and moves money between two accounts,
in one transaction: half of it is visible as money that is gone or a row without it.
"""

from __future__ import annotations

from collections.abc import Sequence

ACCOUNTS = 10
EACH = 1_000_000
TOTAL = ACCOUNTS * EACH
Key = tuple[int, int]
"""(account, or -1 for the row; number of the operation in its history)."""
ROW = -1


class Content:
    """One state."""

    __slots__ = ("balances", "index", "lineage", "op")

    def __init__(self, op: int, index: int, balances: tuple[int, ...], lineage: list[Content]) -> None:
        self.op = op
        """The operation that made it; unique in the run."""
        self.index = index
        """Operations in it."""
        self.balances = balances
        self.lineage = lineage
        """States that led here, by index; longer when another one follows."""

    @classmethod
    def empty(cls) -> Content:
        """Before the first operation."""
        lineage: list[Content] = []
        found = cls(0, 0, (EACH,) * ACCOUNTS, lineage)
        lineage.append(found)
        return found

    def after(self, op: int) -> Content:
        """The state after one operation more."""
        lineage = self.lineage
        if lineage[-1] is not self:
            lineage = lineage[: self.index + 1]
        index = self.index + 1
        source, target = parties(index)
        amount = 1 + op % 5
        balances = list(self.balances)
        balances[source] -= amount
        balances[target] += amount
        found = Content(op, index, tuple(balances), lineage)
        lineage.append(found)
        return found

    def value(self, key: Key) -> bytes:
        """The 16 characters that stand in the database for a key of this state, or of one before."""
        what, index = key
        state = self.lineage[index]
        return b"%016x" % state.op if what == ROW else b"%016d" % state.balances[what]

    def leads_to(self, other: Content) -> bool:
        """Whether the other state has everything of this one."""
        return self.index <= other.index and other.lineage[self.index] is self

    def rows(self, last: int) -> Sequence[bytes]:
        """The newest values of the append list."""
        first = max(1, self.index + 1 - last)
        return [b"%016x" % self.lineage[at].op for at in range(first, self.index + 1)]

    def __repr__(self) -> str:
        return f"<{self.index}:{self.op:x}>"


def parties(index: int) -> tuple[int, int]:
    """Who pays whom in the operation of that number."""
    source = index * 7 % ACCOUNTS
    return source, (source + 1 + index % (ACCOUNTS - 1)) % ACCOUNTS
