"""The page of memory that the mount and the replicator of one node share.

The supervisor makes it (a memfd), both children map it. It is their only way to
talk, besides two eventfds ("bells") that wake the other side. There is no queue
that could overflow: a side that looks late sees the newest words.

Rules:
    1. Every word is a u64 written by one aligned store through
       ``memoryview.cast("Q")``; never ``struct.pack_into``, which zeroes first.
    2. Each word has one writer process, named beside it.
    3. A pair of words that belong together (a position) is read under a sequence
       lock (``*_SEQ`` odd while it is being written).
    4. Slots are given out by the mount only and are never reused for another name
       while the node lives.

Layout: one node block of ``NODE_WORDS`` words, then ``SLOTS`` slots of
``SLOT_WORDS`` words, of which the last ``NAME_WORDS`` hold the database's name.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import Final

import numpy as np
import numpy.typing as npt

SLOTS: Final = 8192
SLOT_WORDS: Final = 192
NAME_WORDS: Final = 128  # 1,024 bytes: a u64 length and up to 1,016 bytes of UTF-8
NAME_AT: Final = SLOT_WORDS - NAME_WORDS
NODE_WORDS: Final = 512
SIZE: Final = (NODE_WORDS + SLOTS * SLOT_WORDS) * 8  # bytes; untouched pages cost nothing

ROLE_NONE, ROLE_PRIMARY, ROLE_REPLICA, ROLE_FENCED, ROLE_DISCONNECTED = range(5)
ROLE_NAMES: Final = ("disconnected", "primary", "replica", "fenced", "disconnected")

KIND_EMPTY, KIND_DATABASE, KIND_OTHER = range(3)
HELD_WAL, HELD_SPOOL = range(2)


class NodeWord:
    """Indices of the node block's words; the writer is in brackets."""

    ROLE = 0  # [replicator] ROLE_*
    EPOCH = 1  # [replicator]
    SLOT_COUNT = 2  # [mount] slots 0 … SLOT_COUNT-1 are in use; stored after the slot is complete
    REPLICATOR_PID = 3  # [supervisor] whose threads are privileged
    MOUNT_PID = 4  # [supervisor]
    MOUNT_SLEEPING = 5  # [mount] ring its bell when 1
    REPLICATOR_SLEEPING = 6  # [replicator] ring its bell when 1
    LAG_MS = 7  # [replicator] (1 << 31) - 1 while never in sync
    PRIMARY_NAME_SEQ = 8  # [replicator] sequence lock of PRIMARY_NAME
    WRITES_REFUSED = 9  # [mount] writes that reached a node that may not write
    MOUNT_GENERATION = 10  # [supervisor] counts mount processes
    REMOUNTS = 11  # [supervisor] connections that had to be aborted
    RESENDING = 12  # [supervisor] 1 when the kernel can resend unanswered requests
    STOPPING = 13  # [supervisor] 1 once the node is being stopped
    FENCE_BOOT_NS = 14  # [replicator] CLOCK_BOOTTIME deadline of the fence; 0 = none
    FENCE_REAL_NS = 15  # [replicator] CLOCK_REALTIME deadline of the fence; 0 = none
    REQUESTS = 16  # [mount] requests answered
    PARKED = 17  # [mount] requests waiting now
    CAPTURE_ALIVE_NS = 18  # [replicator] CLOCK_MONOTONIC of the capture's last turn
    NO_SPACE = 19  # [mount] requests answered ENOSPC because of the reserve
    FREE_LOW = 20  # [replicator] 1 while free space is below the reserve
    MOUNT_ASKED = 21  # [replicator] grows with each RAW_ASK or POISONED; a mount that is awake is not rung
    DRAINING = 22  # [replicator] 1: no database is made, opened or dropped now; a hand-off is being prepared
    PROMOTIONS = 23  # [replicator] grows each time that this node stops applying and lets programs write
    OPENER_PID = 24  # [supervisor] opens files of the mount for the replicator, as privileged as that; 0 = none
    HOLD = 25  # [replicator] 1: the write that completes a commit waits for HELD_DONE
    HOLD_MS = 26  # [replicator] ms after which such a write fails even if the replicator says nothing
    PRIMARY_NAME = 64  # [replicator] 64 words: length and bytes


class Word:
    """Indices of one slot's words; the writer is in brackets."""

    KIND = 0  # [mount] KIND_*
    EVENT_SEQ = 1  # [mount] grows with everything the replicator should look at
    WAL_GEN = 2  # [mount] grows with each new WAL content (header rewrite, new file)
    WAL_END = 3  # [mount] bytes: end of the highest complete commit frame of this generation
    WAL_SIZE = 4  # [mount] bytes: end of the highest write of this generation
    CAPTURED_GEN = 5  # [replicator] the generation CAPTURED_END belongs to
    CAPTURED_END = 6  # [replicator] bytes of the WAL that are safe in the log
    SPOOL_SEQ = 7  # [mount] newest spool file <slot>-<seq>
    SPOOL_DONE = 8  # [replicator] newest spool that is captured (and unlinked)
    DIRTY_RAW = 9  # [mount] 1 while ranges were written with neither journal nor WAL
    RAW_ASK = 10  # [replicator] asks the mount to spool raw ranges: value = EVENT_SEQ seen
    RAW_HINT = 11  # [mount] grows when the whole image must be compared
    RAW_HINT_DONE = 12  # [replicator] newest RAW_HINT that was compared
    LOCK_WANTED = 13  # [mount] 1: a program waits for the role locks
    LOCKED = 14  # [replicator] 1: role locks are held (replica); programs may open
    GONE_SEQ = 15  # [mount] grows with each drop of the database
    GONE_DONE = 16  # [replicator] newest drop that is captured
    WRITERS = 17  # [mount] open write handles on the database file
    LAST_WRITE_NS = 18  # [mount] CLOCK_MONOTONIC of the last untracked database write
    POS_SEQ = 19  # [replicator] sequence lock of the four words below
    TXID = 20  # [replicator]
    CHECKSUM = 21  # [replicator]
    TIMESTAMP_MS = 22  # [replicator]
    PAGES = 23  # [replicator]
    POISONED = 24  # [replicator] handles opened at or before this generation answer EIO
    OPEN_GEN = 25  # [mount] generation of newly opened handles
    HAS_WAL = 26  # [mount] 1 while a -wal with a header exists
    HAS_JOURNAL = 27  # [mount] 1 while a -journal exists (any size)
    PAGE_SIZE = 28  # [mount] bytes, from the database header; 0 unknown
    FROZEN = 29  # [replicator] 1: opens by programs park (an install is running)
    WAL_OF = 30  # [mount] PROMOTIONS for which the WAL words are true: a replica writes past the mount
    HELD_SEQ = 31  # [mount] grows with each commit that is held back; stored after the four below
    HELD_KIND = 32  # [mount] HELD_WAL: bytes of the log; HELD_SPOOL: a spool of the database
    HELD_AT = 33  # [mount] byte offset in the log, or number of the spool
    HELD_LEN = 34  # [mount] bytes
    HELD_GEN = 35  # [mount] WAL_GEN it belongs to
    HELD_DONE = 36  # [replicator] newest that is acknowledged: it may be completed
    HELD_FAILED = 37  # [replicator] newest that must not be completed
    HELD_OVER = 38  # [mount] newest whose program was answered
    HELD_WRITTEN = 39  # [mount] newest that is completed: its bytes are in the log, or its journal has ended
    JOURNAL_SIZE = 40  # [mount] bytes of a journal in a kept file, plus 1; bit 62: not settled; 0: its own file
    INDEX_GONE = 41  # [mount] WAL_GEN plus 1 whose wal-index was removed (a last close); 0 after the next commit


class State:
    """A mapping of the shared memory, with word access.

    ``node[NodeWord.X]`` is a word of the node block; ``slot(i)`` is the memoryview of
    slot ``i``, indexed by ``Word.X``; ``column(Word.X)`` is a numpy view over all
    slots in use, for scans.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE)
        self._words = memoryview(self._map).cast("Q")
        self._array: npt.NDArray[np.uint64] = np.frombuffer(self._map, dtype=np.uint64)
        self._table = self._array[NODE_WORDS:].reshape(SLOTS, SLOT_WORDS)
        self.node = self._words[:NODE_WORDS]
        self._by_name: dict[str, int] = {}
        self._known = 0

    @staticmethod
    def create() -> int:
        """Make the memory; returns a descriptor that children inherit explicitly."""
        fd = os.memfd_create("sqlitecluster-state", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        return fd

    def slot(self, index: int) -> memoryview:
        """The words of one slot."""
        at = NODE_WORDS + index * SLOT_WORDS
        return self._words[at : at + SLOT_WORDS]

    def column(self, word: int) -> npt.NDArray[np.uint64]:
        """One word of all slots in use, as a live view."""
        return self._table[: self.count, word]

    @property
    def count(self) -> int:
        return int(self.node[NodeWord.SLOT_COUNT])

    def name(self, index: int) -> str:
        """The database path that a slot belongs to."""
        words = self.slot(index)
        return _read_text(words[NAME_AT:SLOT_WORDS])

    def add_slot(self, name: str) -> int:
        """Give out a slot [mount only]; returns the existing one for a known name.

        Raises:
            OverflowError: all slots are taken.
        """
        found = self.find(name)
        if found is not None:
            return found
        index = self.count
        if index >= SLOTS:
            raise OverflowError(f"more than {SLOTS} databases on one node")
        _write_text(self.slot(index)[NAME_AT:SLOT_WORDS], name)
        self.node[NodeWord.SLOT_COUNT] = index + 1
        return index

    def find(self, name: str) -> int | None:
        """The slot of a database path, or None."""
        while self._known < self.count:
            self._by_name[self.name(self._known)] = self._known
            self._known += 1
        return self._by_name.get(name)

    def position(self, index: int) -> tuple[int, int, int, int]:
        """(TXID, checksum, timestamp in ms, pages), consistent."""
        words = self.slot(index)
        while True:
            before = words[Word.POS_SEQ]
            value = (words[Word.TXID], words[Word.CHECKSUM], words[Word.TIMESTAMP_MS], words[Word.PAGES])
            if before % 2 == 0 and words[Word.POS_SEQ] == before:
                return value

    def set_position(self, index: int, value: tuple[int, int, int, int]) -> None:
        """Publish (TXID, checksum, timestamp in ms, pages) [replicator only]."""
        words = self.slot(index)
        seq = words[Word.POS_SEQ] | 1
        words[Word.POS_SEQ] = seq
        words[Word.TXID], words[Word.CHECKSUM], words[Word.TIMESTAMP_MS], words[Word.PAGES] = value
        words[Word.POS_SEQ] = seq + 1

    def primary_name(self) -> str:
        """Name of the primary this node follows; empty when unknown."""
        while True:
            before = self.node[NodeWord.PRIMARY_NAME_SEQ]
            text = _read_text(self.node[NodeWord.PRIMARY_NAME : NodeWord.PRIMARY_NAME + 64])
            if before % 2 == 0 and self.node[NodeWord.PRIMARY_NAME_SEQ] == before:
                return text

    def set_primary_name(self, name: str) -> None:
        """Publish the primary's name [replicator only]."""
        seq = self.node[NodeWord.PRIMARY_NAME_SEQ] | 1
        self.node[NodeWord.PRIMARY_NAME_SEQ] = seq
        _write_text(self.node[NodeWord.PRIMARY_NAME : NodeWord.PRIMARY_NAME + 64], name)
        self.node[NodeWord.PRIMARY_NAME_SEQ] = seq + 1

    def touch(self, index: int) -> None:
        """Count an event for the replicator [mount only]; follow it with ``ring``."""
        words = self.slot(index)
        words[Word.EVENT_SEQ] = words[Word.EVENT_SEQ] + 1


class Bell:
    """An eventfd that is rung only when the other side says that it sleeps."""

    def __init__(self, fd: int, state: State, sleeping_word: int) -> None:
        self.fd = fd
        self._node = state.node
        self._word = sleeping_word

    @staticmethod
    def create() -> int:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        """Wake the owner if it sleeps; costs one load otherwise."""
        if self._node[self._word]:
            self._node[self._word] = 0
            os.eventfd_write(self.fd, 1)

    def going_to_sleep(self) -> None:
        """[owner] Call before the last look for work, then poll ``fd``."""
        self._node[self._word] = 1

    def woke(self) -> None:
        """[owner] Call after the poll."""
        self._node[self._word] = 0
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)


def _read_text(words: memoryview) -> str:
    raw = words.cast("B")
    length = min(words[0], len(raw) - 8)
    return bytes(raw[8 : 8 + length]).decode("utf-8", "replace")


def _write_text(words: memoryview, text: str) -> None:
    raw = text.encode()
    if len(raw) > len(words) * 8 - 8:
        raise ValueError(f"name of {len(raw)} bytes is too long")
    padded = raw + b"\0" * (-len(raw) % 8)
    for i in range(0, len(padded), 8):
        words[1 + i // 8] = int.from_bytes(padded[i : i + 8], "little")
    words[0] = len(raw)
