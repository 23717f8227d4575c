"""Keeping what a replica has of its own where nothing can tell whether the primary has the same.

Several commits may travel as one transaction. When it covers some that are here already,
and is of a newer epoch, then these may have other content there; if the pages are the
same in the end the checksums agree all the same, and what was lost would go unnoticed.

Called by ``replica`` before such a transaction is taken.
"""

from __future__ import annotations

import logging

from sqlitecluster.ltx import HEADER_SIZE, Header
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import NodeWord
from sqlitecluster.store.database import DatabaseStore

log = logging.getLogger(__name__)


def keep_covered(node: NodeServices, store: DatabaseStore, header: Header) -> None:
    """Copy own transactions that ``header``'s covers to lost+found, unless they are of its epoch."""
    if header.min_txid > store.position.txid or store.epoch >= int(node.state.node[NodeWord.EPOCH]):
        return
    blobs: list[tuple[str, bytes]] = []
    for blob in store.since(header.min_txid - 1) or ():
        own = Header.parse(blob[:HEADER_SIZE])
        blobs.append((f"{own.min_txid:016x}-{own.max_txid:016x}.ltx", bytes(blob)))
    if blobs:
        folder = node.store.keep(store.name, "covered by a newer epoch", [], blobs)
        log.info(
            "%s: what was here from %016x on may be of another history; a copy is in %s",
            store.name,
            header.min_txid,
            folder,
        )
