"""``verify: EveryTransaction``: what was applied is read back, as readers will see it.

Called by ``apply`` after each transaction when it is configured; costs a look at the
whole WAL and one read per changed page.
"""

from __future__ import annotations

from sqlitecluster.ltx import decode
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.snapshot import LogicalImage


def wrong_pages(store: DatabaseStore, ltx: bytes) -> list[int]:
    """Pages of a transaction just applied whose bytes do not have their checksum."""
    image = LogicalImage(store.dir / "database", store.dir / "wal", store.checksums)
    image.refresh()
    changed = (pgno for pgno, _page in decode(ltx, verify=False).pages)
    return [pgno for pgno in changed if pgno <= store.commit and image.read_page(pgno) is None]
