"""A transaction that makes the database longer holds every page of the new part.

    missing_growth(before, after, pgnos, page_size) -> int    the first page that is missing; 0 when none is

Used by the store (what is captured, what is received) and by ``compact``. Nothing else would notice: the
page checksums of writer and receiver agree on a page that neither has. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlitecluster.units import lock_page


def missing_growth(before: int, after: int, pgnos: Iterable[int], page_size: int) -> int:
    """For a database that was ``before`` pages long and has ``after`` pages now."""
    if after <= before:
        return 0
    skip = lock_page(page_size)
    new = {int(pgno) for pgno in pgnos if pgno > before}
    if len(new) >= after - before - (before < skip <= after):
        return 0
    return next(pgno for pgno in range(before + 1, after + 1) if pgno not in new and pgno != skip)
