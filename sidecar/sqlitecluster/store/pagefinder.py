"""Good copies of damaged pages out of this node's own stored transactions.

Called by ``replicator.mending`` when no peer has a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlitecluster.errors import FormatError, LimitError
from sqlitecluster.ltx import decode, page_checksum
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
