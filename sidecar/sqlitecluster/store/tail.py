"""The newest transactions of a database: in memory, in the log, or both.

``Tail`` is the ordered list of one database; ``Ring`` bounds the memory that the blobs
of all databases of a node take together, dropping the oldest first.

Rules:
    1. An entry stays in the list while it is not in an LTX file, or while its blob is
       in memory.
    2. Every method may be called from any thread; a returned list is the caller's own.

Called by ``database`` (append, lookup) and ``cutter``.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from typing import Final

from sqlitecluster.store.log import Logged

RING_BYTES: Final = 32 << 20


class Entry:
    """One appended blob. ``blob`` is None once the memory was needed for newer ones."""

    __slots__ = ("blob", "cut", "max_txid", "min_txid", "place", "post")

    def __init__(self, min_txid: int, max_txid: int, post: int, place: Logged, blob: bytes | None) -> None:
        self.min_txid, self.max_txid, self.post, self.place, self.blob = min_txid, max_txid, post, place, blob
        self.cut = False  # also in an LTX file

    def read(self) -> bytes | None:
        """The LTX bytes; None when they are only in an LTX file any more."""
        blob = self.blob
        return blob if blob is not None else self.place.segment.read(self.place.offset, self.place.size)


class Ring:
    """The memory for blobs of one node."""

    def __init__(self, budget: int = RING_BYTES) -> None:
        self._budget = budget
        self._used = 0
        self._entries: deque[Entry] = deque()
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes of blobs in memory."""
        return self._used

    def add(self, entry: Entry) -> None:
        """Count a new blob; the oldest ones leave when there are too many bytes."""
        with self._lock:
            self._entries.append(entry)
            self._used += entry.place.size
            while self._used > self._budget:
                self._drop_oldest()

    def expire(self, sequence: int) -> None:
        """Drop blobs up to a sequence number of the log: nobody asked for a long time."""
        with self._lock:
            while self._entries and self._entries[0].place.sequence <= sequence:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        entry = self._entries.popleft()
        entry.blob = None
        self._used -= entry.place.size


class Tail:
    """Entries of one database, by ascending last TXID."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._entries: list[Entry] = []
        self._uncut = 0  # index of the first entry that is in no LTX file
        self._gaps = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Append the newest entry."""
        with self._lock:
            if self._entries and self._entries[-1].max_txid + 1 < entry.min_txid:
                self._gaps = True
            self._entries.append(entry)
        if entry.blob is not None:
            self._ring.add(entry)

    def find(self, txid: int) -> Entry | None:
        """An entry that holds transaction ``txid``; of several the first."""
        with self._lock:
            at = bisect_left(self._entries, txid, key=_last)
            for index in range(at, len(self._entries)):
                entry = self._entries[index]
                if entry.min_txid <= txid:
                    return entry
            return None

    def oldest(self) -> Entry | None:
        """The first entry."""
        with self._lock:
            return self._entries[0] if self._entries else None

    def uncut(self) -> list[Entry]:
        """Entries that are in no LTX file, oldest first."""
        with self._lock:
            return self._entries[self._uncut :]

    def first_uncut(self) -> Entry | None:
        """The oldest entry that is in no LTX file."""
        with self._lock:
            return self._entries[self._uncut] if self._uncut < len(self._entries) else None

    def leads_to(self, txid: int) -> bool:
        """Whether the entries go on to ``txid`` without a gap (large transactions go straight to files)."""
        with self._lock:
            return not self._gaps and bool(self._entries) and self._entries[-1].max_txid >= txid

    @property
    def has_uncut(self) -> bool:
        """Whether something waits to be cut."""
        return self._uncut < len(self._entries)

    def mark_cut(self, entries: list[Entry]) -> None:
        """Say that the oldest uncut entries, these, are in an LTX file now."""
        with self._lock:
            for entry in entries:
                entry.cut = True
            while self._uncut < len(self._entries) and self._entries[self._uncut].cut:
                self._uncut += 1
            self._trim()

    def trim(self) -> None:
        """Forget entries that are cut and out of memory."""
        with self._lock:
            self._trim()

    def clear(self) -> list[Entry]:
        """Forget everything; returns what was not cut."""
        with self._lock:
            left = self._entries[self._uncut :]
            self._entries = []
            self._uncut = 0
            self._gaps = False
            return left

    def _trim(self) -> None:
        gone = 0
        while gone < self._uncut and self._entries[gone].blob is None:
            gone += 1
        if gone:
            del self._entries[:gone]
            self._uncut -= gone
            self._gaps = self._gaps and len(self._entries) > 0


def _last(entry: Entry) -> int:
    return entry.max_txid
