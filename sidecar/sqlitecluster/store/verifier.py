"""Comparing a database's image with its page checksums, slowly, beside the running programs.

A page that differs is looked at again in later steps; only what stays different for
``PATIENCE`` looks is a suspect, told once in each walk. Running transactions, checkpoints and
commits that are not captured yet make pages differ for a moment; ``replicator.mending`` looks
at a suspect under SQLite's locks before it believes it. While the log has a transaction that
the image is still without (it waits for acknowledgements), pages differ rightly: such looks do
not count. Page cache is dropped first: what counts is what the disk gives.

Called by the replicator (``verify: Background``) a few times a second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.scrub import evict
from sqlitecluster.store.snapshot import LogicalImage, Lookup

STEP_BYTES: Final = 1 << 20
PATIENCE: Final = 3  # looks


class Verifier:
    """One walk after another over one database."""

    def __init__(
        self, database_path: Path, wal_path: Path, checksums: ChecksumArray, wal_lookup: Lookup | None = None
    ) -> None:
        self._paths = (database_path, wal_path)
        self._checksums = checksums
        self._lookup = wal_lookup
        self._next, self._end = 1, 0  # a walk ends where the database ended when it began
        self._suspects: dict[int, int] = {}
        self.rounds = 0
        """Complete walks."""
        self.verified = 0
        """Pages found right since the start."""

    @property
    def seen(self) -> int:
        """Pages of the present walk that were looked at."""
        return self._next - 1

    def step(self, is_settled: Callable[[], bool] = lambda: True) -> list[int]:
        """Look at the next 1 MiB and at earlier suspects; returns pages that stayed wrong.

        ``is_settled``: whether the image has, or soon gets, everything that the page checksums speak of.
        """
        if not self._checksums.page_size:
            return []
        image = LogicalImage(*self._paths, self._checksums, self._lookup)
        image.refresh()
        wrong = self._look_again(image, is_settled)
        if self._next > self._end:
            self.rounds += self._end > 0
            self._next, self._end = 1, self._checksums.count
        run = min(max(1, STEP_BYTES // image.page_size), self._end + 1 - self._next)
        if run <= 0:
            return wrong
        evict(self._paths[0], (self._next - 1) * image.page_size, run * image.page_size)
        batch, missing = image.read_run(self._next, run)
        self.verified += len(batch)
        for pgno in missing:
            self._suspects.setdefault(pgno, 0)
        self._next += run
        return wrong

    def _look_again(self, image: LogicalImage, is_settled: Callable[[], bool]) -> list[int]:
        wrong: list[int] = []
        for pgno, looks in list(self._suspects.items()):
            if image.read_page(pgno) is not None:
                del self._suspects[pgno]
            elif not is_settled():
                continue
            elif looks + 1 >= PATIENCE:
                del self._suspects[pgno]
                wrong.append(pgno)
            else:
                self._suspects[pgno] = looks + 1
        return wrong
