"""Bugs for the simulation to find: production functions that are replaced for a moment.

Each entry of ``BUGS`` is a context manager. What is found with them proves that the oracles
look; what is not found without them is the product's own merit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sqlitecluster.mount.context import Context
from sqlitecluster.mount.waltrack import WalTracker
from sqlitecluster.replication.quorum import AckTable
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.store.log import NodeLog
from support.simulation.pending import Pending

Bug = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def fence_off() -> contextlib.AbstractContextManager[None]:
    """A primary writes on when its lease has run out."""
    return _replaced(Context, "is_fenced", property(lambda _self: False))


def acknowledged_before_fsync() -> contextlib.AbstractContextManager[None]:
    """The log says that it is durable without a sync."""

    def sync(self: NodeLog) -> int:
        self.synced = self.sequence
        return self.synced

    return _replaced(NodeLog, "sync", sync)


def epoch_unchecked() -> contextlib.AbstractContextManager[None]:
    """A node that promised an epoch goes on taking from an older primary."""
    return _replaced(EpochFile, "promise", lambda _self, _epoch: None)


def quorum_miscounted() -> contextlib.AbstractContextManager[None]:
    """One acknowledgement less is taken for enough."""
    real = AckTable._enough

    def enough(self: AckTable, replicas: set[int]) -> bool:
        self.acks -= 1
        try:
            return self.acks <= 0 or real(self, replicas)
        finally:
            self.acks += 1

    return _replaced(AckTable, "_enough", enough)


def committed_to_ignored() -> contextlib.AbstractContextManager[None]:
    """A replica shows what it has, committed or not."""
    real = Pending.commit
    return _replaced(Pending, "commit", lambda self, _txid: real(self, 1 << 62))


def commit_unseen() -> contextlib.AbstractContextManager[None]:
    """The mount does not see which write completes a commit after a spill."""
    real = WalTracker.completes

    def completes(self: WalTracker, offset: int, data: bytes) -> int:
        return real(self, offset, data) if len(data) > 24 else 0

    return _replaced(WalTracker, "completes", completes)


BUGS: dict[str, Bug] = {
    bug.__name__.replace("_", "-"): bug
    for bug in (
        fence_off,
        acknowledged_before_fsync,
        epoch_unchecked,
        quorum_miscounted,
        committed_to_ignored,
        commit_unseen,
    )
}
