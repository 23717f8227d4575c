"""What this node's own stored transactions can give to mend a database, and what they lack.

Called by ``replicator.mending``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlitecluster.errors import FormatError, LimitError
from sqlitecluster.ltx import decode, page_checksum
from sqlitecluster.store import damage
from sqlitecluster.store.database import DatabaseStore

MOST_BYTES: Final = 256 << 20


def find_pages(database: DatabaseStore, pgnos: Sequence[int]) -> dict[int, bytes]:
    """Pages whose present content is in an LTX file or in the log; large chains are not searched."""
    if database.files.size > MOST_BYTES:
        return {}
    found: dict[int, bytes] = {}
    wanted = {pgno: database.checksums.get(pgno) for pgno in pgnos}
    for blob in database.since(database.earliest()) or ():
        try:
            pages = decode(blob).pages
        except (FormatError, LimitError):
            continue
        for pgno, page in pages:
            if pgno in wanted and page_checksum(pgno, page) == wanted[pgno]:
                found[pgno] = bytes(page)
    return found


def find_gaps(database: DatabaseStore) -> list[damage.Gap]:
    """Transactions that are missing between stored ones: they were in a part of the log that was damaged."""
    spans = sorted((info.min_txid, info.max_txid) for info in database.files.files)
    oldest = database.tail.first_uncut()
    if oldest is not None:
        spans.append((oldest.min_txid, oldest.max_txid))
    found, reach = [], 0
    for first, last in sorted(spans):
        if reach and first > reach + 1:
            found.append(damage.Gap(database.name, reach + 1, first - 1, damage.LOG))
        reach = max(reach, last)
    return found
