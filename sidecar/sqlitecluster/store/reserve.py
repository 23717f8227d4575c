"""Room on the disk that is kept for capture, so that programs meet a full disk before the log does.

Called by the mount (programs' writes) and the housekeeper.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIN_RESERVE: Final = 64 << 20  # bytes
_SHARE: Final = 50  # 1/50 = 2 % of the disk


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """Bytes of a file system."""

    total: int
    free: int
    """What we may still take."""


def room(path: Path | str) -> DiskRoom:
    """Ask the file system."""
    status = os.statvfs(path)
    return DiskRoom(status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail)


def reserve_bytes(configured: int, disk: DiskRoom) -> int:
    """How much to keep: what the configuration says, or max(64 MiB, 2 %)."""
    return configured if configured > 0 else max(MIN_RESERVE, disk.total // _SHARE)


def is_low(disk: DiskRoom, reserve: int) -> bool:
    """Whether programs should get no more room."""
    return disk.free < reserve
