"""The start of capture for one database: page checksums and WAL mark follow the log.

A replicator that was killed may have put a transaction into the log without storing its
page checksums or its WAL mark; both are found again from the transaction itself.

Rules:
    1. O(changed): only transactions behind ``checksums.txid`` are read.
    2. What cannot be made to agree with the position is compared with the image.

Called by ``capture_database`` once per database and replicator process.
"""

from __future__ import annotations

from sqlitecluster.ltx import Header, decode, page_checksums
from sqlitecluster.replicator.capture_publish import CapturedDatabase
from sqlitecluster.store.database import DatabaseStore


def recover(database: CapturedDatabase) -> None:
    """Bring a database's checksums and WAL mark up to its position."""
    store = database.store
    if store.needs_compare:
        database.want_compare("the node was not stopped in order")
    if not store.position.txid:
        return
    newest = _repair_checksums(store)
    if newest is not None and newest.wal_salt1 | newest.wal_salt2:
        mark = store.wal_mark
        generation = mark.generation if mark else 0
        store.set_wal_mark(newest.wal_salt1, newest.wal_salt2, newest.wal_offset + newest.wal_size, generation)
    if not _agrees(store):
        database.want_compare("page checksums do not add up to the position")


def _repair_checksums(store: DatabaseStore) -> Header | None:
    """Store the sums of transactions behind ``checksums.txid``; returns the newest header that was read."""
    checksums = store.checksums
    newest: Header | None = None
    if checksums.trusted and checksums.txid >= store.position.txid:
        return None
    blobs = store.since(checksums.txid) if checksums.trusted else None
    for blob in blobs or ():
        file = decode(blob)
        newest = file.header
        if checksums.page_size != newest.page_size:
            checksums.reset(newest.page_size)
        pgnos = [pgno for pgno, _page in file.pages]
        checksums.truncate(newest.commit)
        checksums.set_many(pgnos, page_checksums(pgnos, [page for _pgno, page in file.pages]))
        checksums.mark(newest.max_txid)
    return newest


def _agrees(store: DatabaseStore) -> bool:
    checksums = store.checksums
    return (
        checksums.recount() == store.position.checksum
        and checksums.count == store.commit
        and checksums.page_size in (store.page_size, 0)
    )
