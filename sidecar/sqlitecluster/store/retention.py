"""Removing LTX files that ``replication.retention`` says may go. Called by the housekeeper."""

from __future__ import annotations

import logging

from sqlitecluster.replication.retention import RetentionPolicy, decide
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.state import OWNER_SIDECAR

log = logging.getLogger(__name__)


def apply(database: DatabaseStore, policy: RetentionPolicy, now_ms: int) -> int:
    """Remove what may go; returns the number of files.

    On a replica, transactions that are not yet durable in the database file stay: its WAL
    is not synced, so a power cut would need them.
    """
    needed = database.durable if database.owner == OWNER_SIDECAR else None
    gone = decide(database.files.files, policy, now_ms, pinned=database.pinned, needed=needed)
    if gone:
        if needed is not None:
            database.state.sync()  # a power cut must not find an older ``durable`` and no file that leads on from it
        database.files.remove(gone)
        log.debug("%s: %d LTX files removed, up to %016x", database.name, len(gone), gone[-1].max_txid)
    return len(gone)
