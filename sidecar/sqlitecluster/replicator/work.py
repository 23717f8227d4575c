"""What the stream client hands to the apply thread, and how much may wait there.

The asyncio thread puts work in (``WorkQueue.put``), the apply thread takes all of it
(``take``), so that transactions which waited together can be applied together.

Rules:
    1. Order is kept per database and for markers: a marker is reached when everything
       put before it is applied.
    2. ``put`` never blocks and never refuses; the client stops reading its stream while
       ``full`` is true and goes on when ``on_room`` was called.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster.replication.position import Position

FULL_BYTES: Final = 32 << 20
ROOM_BYTES: Final = 8 << 20
_SMALL: Final = 64


@dataclass(frozen=True, slots=True)
class Transaction:
    """One LTX file that continues (or overlaps) the database's position."""

    name: str
    ltx: bytes
    is_held: bool = False
    """It is acknowledged once it is on disk, and shown once it is committed."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything up to ``txid`` may be shown; None: everything."""

    name: str
    txid: int | None


@dataclass(frozen=True, slots=True)
class Install:
    """A whole image, received and verified, that replaces the database."""

    name: str
    image: Path
    """A plain database file; the apply thread may rename it away or unlink it."""
    page_size: int
    pages: int
    position: Position
    timestamp_ms: int
    diverged: bool
    """The replica's own tail must be kept in lost+found first."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The primary dropped the database and its chain does not say so."""

    name: str
    position: Position


@dataclass(frozen=True, slots=True)
class Epoch:
    """A database that has transaction ``txid`` is of the primary's epoch."""

    name: str
    epoch: int
    txid: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The primary wrote its log back up to ``txid``: so may we."""

    name: str
    txid: int


@dataclass(frozen=True, slots=True)
class Marker:
    """Calls back, in the apply thread, when everything before it is applied."""

    reached: Callable[[], None]


Work = Transaction | Committed | Install | Drop | Epoch | Checkpoint | Marker


class WorkQueue:
    """From the asyncio thread to the apply thread."""

    def __init__(self, wake: Callable[[], None], on_room: Callable[[], None]) -> None:
        self._wake = wake
        self._on_room = on_room
        self._lock = threading.Lock()
        self._items: deque[Work] = deque()
        self._bytes = 0
        self._was_full = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes put in and not yet reported as done."""
        return self._bytes

    @property
    def is_empty(self) -> bool:
        """Nothing waits to be taken."""
        return not self._items

    @property
    def full(self) -> bool:
        """The client must stop reading until ``on_room``."""
        if self._bytes >= FULL_BYTES:
            self._was_full = True
            return True
        return False

    def put(self, work: Work) -> None:
        """Add work and wake the apply thread."""
        with self._lock:
            self._items.append(work)
            self._bytes += _size(work)
        self._wake()

    def take(self) -> list[Work]:
        """All waiting work, in order; the caller reports ``done`` for each item."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
        return items

    def done(self, work: Work) -> None:
        """An item is applied (or failed and was reported)."""
        with self._lock:
            self._bytes -= _size(work)
            room = self._was_full and self._bytes <= ROOM_BYTES
            if room:
                self._was_full = False
        if room:
            self._on_room()


def _size(work: Work) -> int:
    return len(work.ltx) + _SMALL if isinstance(work, Transaction) else _SMALL
