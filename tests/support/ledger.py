"""What programs were told: rows that were acknowledged, read from the journals of the sample program."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

UNREPLICATED_S = 1.0
"""What a primary that is lost in Async acknowledged so long before may have reached no replica."""
HANDOFF_GAP_S = 3.0


@dataclass(frozen=True, slots=True, order=True)
class Ack:
    """One acknowledged commit."""

    at: float
    """Wall clock in seconds; all nodes of the local cluster share one."""
    pod: str
    token: str
    row: int
    began: float
    """When the program began this commit."""


def read(folder: Path) -> list[Ack]:
    """All acknowledged rows of all pods, in the order in which they were acknowledged."""
    acks = []
    for path in folder.glob("*.journal"):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a killed program
            acks.append(Ack(entry["at"], entry["pod"], entry["token"], entry["id"], entry["began"]))
    return sorted(acks)


@dataclass(frozen=True, slots=True)
class Gap:
    """Who wrote last, who wrote next, and the time between the two."""

    old: str
    new: str
    seconds: float
    resumed_at: float


def gap_after(acks: Sequence[Ack], moment: float, old: str) -> Gap | None:
    """The first acknowledgement of another pod than ``old`` after ``moment``, and the last one of ``old`` before it."""
    later = next((ack for ack in acks if ack.at > moment and ack.pod != old), None)
    if later is None:
        return None
    before = [ack.at for ack in acks if ack.pod == old and ack.at <= later.at]
    return Gap(old, later.pod, later.at - (before[-1] if before else moment), later.at)


def handed_over(acks: Sequence[Ack], moment: float, old: str) -> Gap:
    """As ``gap_after``, of a role that was given away: writes went on elsewhere at once."""
    gap = gap_after(acks, moment, old)
    assert gap is not None, f"nobody but {old} acknowledged a row"
    assert gap.seconds < HANDOFF_GAP_S, f"no writes for {gap.seconds:.1f} s: that was no hand-off"
    return gap


def resumed_after(acks: Sequence[Ack], moment: float) -> float | None:
    """Seconds from ``moment`` to the first acknowledgement after the longest silence that follows it."""
    times = [moment, *(ack.at for ack in acks if ack.at > moment)]
    if len(times) < 2:
        return None
    return longest_silence(times)[1] - moment


def longest_silence(times: Sequence[float]) -> tuple[float, float]:
    """(seconds, end) of the longest time between two of at least two moments, which ascend."""
    return max((after - before, after) for before, after in pairwise(times))


def missing(acks: Iterable[Ack], rows: dict[str, list[int]]) -> list[Ack]:
    """Acknowledged rows that a database does not have."""
    return [ack for ack in acks if ack.row not in rows.get(ack.token, ())]


def doubled(rows: dict[str, list[int]]) -> list[str]:
    """Tokens that a database has more than once."""
    return [token for token, ids in rows.items() if len(ids) > 1]


def by_token(pairs: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """(id, token) pairs as a table."""
    table: dict[str, list[int]] = defaultdict(list)
    for row, token in pairs:
        table[token].append(row)
    return dict(table)


def late(acks: Iterable[Ack], pod: str, moment: float, *, frozen_at: float = float("inf")) -> list[Ack]:
    """What a pod acknowledged after ``moment``, when another one had begun: two primaries at once.

    ``frozen_at``: its node did nothing from then on. A commit that it had begun before may have been answered before,
    too, and the program notes that when it goes on.
    """
    return [ack for ack in acks if ack.pod == pod and ack.at > moment and not ack.began < frozen_at <= moment]


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least ``part`` of all do not exceed (nearest rank); 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)] if ordered else 0.0
