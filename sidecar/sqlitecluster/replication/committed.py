"""Transactions of a replica that become committed together are shown together. Pure.

In a stream that holds transactions back a replica acknowledges a transaction as soon as it is
durable, and shows it once the primary says that it is committed. The transaction that takes
back one before it (its program was told that it failed) never lets a reader see that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Page = tuple[int, bytes]


def merged(files: Iterable[tuple[Sequence[Page], int]]) -> tuple[list[Page], int]:
    """The pages (ascending) and the size in pages that several increments (pages, size) leave together."""
    pages: dict[int, bytes] = {}
    size = 0
    for some, commit in files:
        if commit < size:
            pages = {pgno: page for pgno, page in pages.items() if pgno <= commit}
        pages.update(some)
        size = commit
    return sorted(pages.items()), size
