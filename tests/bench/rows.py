"""The rows of the benchmark: what is measured, and the figure that is promised for it.

Rows that compare with plain ext4 alternate between both, round after round, in the same
run, and take medians: absolute figures depend on the machine, ratios hold.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import work
from support.clients import follows
from support.cluster import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    what: str
    plain: float | None = None
    ours: float
    unit: str
    limit: str
    good: bool

    @property
    def ratio(self) -> float | None:
        return self.ours / self.plain if self.plain else None


@dataclass(frozen=True, slots=True)
class Compared:
    """A measurement that runs on plain ext4 and on our primary."""

    what: str
    run: Callable[[Path, float], float]
    at_least: float
    unit: str = "commits/s"


COMPARED: dict[str, Compared] = {
    "wal-normal": Compared(
        "one-row commits, WAL, synchronous=NORMAL",
        functools.partial(work.one_row_commits, journal="WAL", synchronous="NORMAL"),
        0.25,
    ),
    "wal-full": Compared(
        "one-row commits, WAL, synchronous=FULL",
        functools.partial(work.one_row_commits, journal="WAL", synchronous="FULL"),
        0.40,
    ),
    "delete-full": Compared(
        "one-row commits, DELETE, synchronous=FULL",
        functools.partial(work.one_row_commits, journal="DELETE", synchronous="FULL"),
        0.70,
    ),
    "random-index": Compared("50-row commits with a random index, WAL", work.random_index_commits, 0.25),
}


def compare(name: str, cluster: Cluster, plain: Path, seconds: float, rounds: int) -> list[Row]:
    """Alternate between plain ext4 and the primary."""
    spec = COMPARED[name]
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    for i in range(rounds):
        found["plain"].append(spec.run(plain / f"{name}-{i}.db", seconds))
        found["ours"].append(spec.run(cluster.primary.mount / f"{name}-{i}.db", seconds))
        cluster.wait_synced(f"{name}-{i}.db")
    left, right = statistics.median(found["plain"]), statistics.median(found["ours"])
    good = right / left >= spec.at_least
    return [
        Row(
            name=name,
            what=spec.what,
            plain=left,
            ours=right,
            unit=spec.unit,
            limit=f"ratio ≥ {spec.at_least:.2f}",
            good=good,
        )
    ]


def reads(cluster: Cluster, plain: Path, seconds: float, rounds: int) -> list[Row]:
    """Point reads on plain ext4, the primary and the replica."""
    work.make_read_table(plain / "reads.db")
    work.make_read_table(cluster.primary.mount / "reads.db")
    follows(cluster.replica, "reads.db", "SELECT count(*) FROM t", work.ROWS_READ)
    cluster.wait_synced("reads.db")
    places = {"plain": plain, "primary": cluster.primary.mount, "replica": cluster.replica.mount}
    found: dict[str, list[float]] = {place: [] for place in places}
    for _ in range(rounds):
        for place, folder in places.items():
            found[place].append(work.point_reads(folder / "reads.db", seconds))
    base = statistics.median(found["plain"])
    rows = []
    for place in ("primary", "replica"):
        ours = statistics.median(found[place])
        rows.append(
            Row(
                name=f"reads-{place}",
                what=f"point reads on the {place}",
                plain=base,
                ours=ours,
                unit="reads/s",
                limit="ratio ≥ 0.95",
                good=ours / base >= 0.95,
            )
        )
    return rows
