"""Which stored LTX files may go: a pure decision.

    decide(files, policy, now_ms, pinned=..., needed=...) -> files to remove

Rules:
    1. The newest file always stays: it carries the position.
    2. A file whose transactions are also in a file of a higher level goes after a short while.
    3. Otherwise files go by age, oldest first, never one that a connected replica, a backup or
       a restore still needs (``pinned``), never one that the local image needs (``needed``).
    4. Beyond ``size_bytes`` the oldest go whoever needs them, except the local image: a
       replica that comes too late gets a snapshot.

Called by ``store.retention`` each minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

SNAPSHOT_LEVEL: Final = 9


class StoredFile(Protocol):
    """What is known of a file without opening it."""

    @property
    def level(self) -> int: ...
    @property
    def min_txid(self) -> int: ...
    @property
    def max_txid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def stored_ms(self) -> int: ...


F = TypeVar("F", bound=StoredFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long files stay."""

    age_s: float = 600.0
    """Seconds."""
    size_bytes: int = 4 << 30
    """Bytes of all files of one database."""
    joined_s: tuple[float, float] = (60.0, 300.0)
    """Seconds that files of level 0 and 1 stay once a higher level holds their transactions."""


def decide(
    files: Sequence[F],
    policy: RetentionPolicy,
    now_ms: int,
    *,
    pinned: int | None = None,
    needed: int | None = None,
) -> list[F]:
    """The files to remove, oldest first.

    Args:
        pinned: transactions above this one are still needed by somebody elsewhere; None = by nobody.
        needed: transactions above this one are needed to repair the local image; None = none are.
    """
    if not files:
        return []
    ordered = sorted(files, key=lambda f: (f.max_txid, f.level))
    newest = ordered[-1]
    kept: list[F] = []
    gone: list[F] = []
    for file in ordered:
        removable = file is not newest and (
            _is_joined(file, ordered, policy, now_ms) or _is_old(file, policy, now_ms, pinned, needed)
        )
        (gone if removable else kept).append(file)
    excess = sum(file.size for file in kept) - policy.size_bytes
    for file in kept:
        if excess <= 0:
            break
        if file is not newest and not (needed is not None and file.max_txid > needed):
            gone.append(file)
            excess -= file.size
    return sorted(gone, key=lambda f: (f.max_txid, f.level))


def _is_joined(file: StoredFile, files: Sequence[StoredFile], policy: RetentionPolicy, now_ms: int) -> bool:
    if file.level >= len(policy.joined_s) or now_ms - file.stored_ms < policy.joined_s[file.level] * 1000:
        return False
    return any(
        file.level < other.level < SNAPSHOT_LEVEL
        and other.min_txid <= file.min_txid
        and file.max_txid <= other.max_txid
        for other in files
    )


def _is_old(file: StoredFile, policy: RetentionPolicy, now_ms: int, pinned: int | None, needed: int | None) -> bool:
    if now_ms - file.stored_ms < policy.age_s * 1000:
        return False
    return not any(limit is not None and file.max_txid > limit for limit in (pinned, needed))
