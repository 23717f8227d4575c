"""Which of page and page checksum is damaged: decided on values, under the caller's locks.

Rules:
    1. The position's checksum is the witness: it is in the log and in every peer. If the array of
       page checksums does not add up to it, entries of the array are damaged, else pages are.
    2. Nothing is believed because somebody sent it: a page must have the checksum that this node
       stored when the page was committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sqlitecluster.ltx import page_checksum
from sqlitecluster.replication.position import Position
from sqlitecluster.store.checksums import ChecksumArray


@dataclass(slots=True)
class Verdict:
    """What was found out about some suspected pages."""

    rebuilt: list[int] = field(default_factory=list)
    """Page checksums that were damaged, and are right again."""
    mend: dict[int, bytes] = field(default_factory=dict)
    """Damaged pages, and what belongs there: the caller writes it."""
    bad: dict[int, bytes] = field(default_factory=dict)
    """What damaged pages hold."""
    left: list[int] = field(default_factory=list)
    """Damaged pages of which nobody gave a good copy."""

    @property
    def damaged(self) -> list[int]:
        """Damaged pages."""
        return sorted([*self.mend, *self.left])


def judge(
    checksums: ChecksumArray,
    position: Position,
    read: Callable[[int], bytes],
    suspects: Iterable[int],
    good: Mapping[int, bytes],
) -> Verdict:
    """Look at suspected pages again; damaged page checksums are put right here."""
    pages = {pgno: read(pgno) for pgno in suspects if checksums.get(pgno)}  # the lock page has none
    have = {pgno: page_checksum(pgno, page) for pgno, page in pages.items()}
    bad = {pgno: seen for pgno, seen in have.items() if seen != checksums.get(pgno)}
    verdict = Verdict()
    if checksums.entries_total() != position.checksum or not checksums.adds_up:
        vouched = {p: seen for p, seen in bad.items() if p in good and page_checksum(p, good[p]) == seen}
        for trial in (bad, vouched):
            if checksums.replace(trial, position.checksum):
                verdict.rebuilt = sorted(trial)
                break
    for pgno in sorted(bad.keys() - set(verdict.rebuilt)):
        page = good.get(pgno)
        if page is not None and page_checksum(pgno, page) == checksums.get(pgno):
            verdict.mend[pgno] = page
        else:
            verdict.left.append(pgno)
    verdict.bad = {pgno: pages[pgno] for pgno in verdict.damaged}
    return verdict
