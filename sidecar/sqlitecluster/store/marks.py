"""What the store remembers of one database beside its chain: words of ``state``, with names.

The base of ``database.DatabaseStore``. Capture writes the WAL mark, apply the words of a
replica, recovery and verification the rest.

Rules:
    1. Words that belong together are guarded by a sequence word (the WAL mark).
    2. ``position`` is one immutable value, replaced whole; any thread may read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.store.state import OWNER_PROGRAMS, OWNER_SIDECAR, StateFile, StateWord


@dataclass(frozen=True, slots=True)
class WalMark:
    """Where capture continues in a WAL."""

    salt1: int
    salt2: int
    end: int
    """Bytes of the WAL that are captured; 0 when there is no captured WAL."""
    generation: int


@dataclass(frozen=True, slots=True)
class ImageLog:
    """The start of a WAL that has pages of a received image, which neither the database file nor any LTX has."""

    txid: int
    """Of the image."""
    salt1: int
    salt2: int
    end: int
    """Bytes."""


class Marks:
    """The state words of one database."""

    def __init__(self, state: StateFile) -> None:
        self.state = state
        self._words = state.words
        self.position: Position = ZERO
        """The newest transaction; a new object with each one."""
        self._settled: Position | None = None
        self.sums_before: Mapping[int, int] = {}
        """While a commit is in flight: page checksums as programs still see them, of the pages that it changes."""

    @property
    def page_size(self) -> int:
        """Bytes; 0 before the first transaction."""
        return int(self._words[StateWord.PAGE_SIZE])

    @property
    def commit(self) -> int:
        """Pages at ``position``; 0 when dropped or new."""
        return int(self._words[StateWord.COMMIT])

    @property
    def timestamp_ms(self) -> int:
        """Wall clock of the newest transaction, given by the primary."""
        return int(self._words[StateWord.TIMESTAMP_MS])

    @property
    def epoch(self) -> int:
        """Epoch of the newest transaction."""
        return int(self._words[StateWord.EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Note the epoch that transactions belong to from now on."""
        self.state.touch()
        self._words[StateWord.EPOCH] = epoch

    @property
    def in_flight(self) -> int:
        """Primary: the transaction whose commit was held back and is not settled; 0: none."""
        return int(self._words[StateWord.IN_FLIGHT])

    def set_in_flight(self, txid: int) -> None:
        """[capture] Before a held commit is appended; 0 once it is settled."""
        self.state.touch()
        self._settled = self.position if txid else None
        if not txid:
            self.sums_before = {}
        self._words[StateWord.IN_FLIGHT] = txid

    @property
    def settled(self) -> Position:
        """The newest transaction that programs of this node can see."""
        limit = self.commit_limit
        if self._settled is None and limit is not None and self.applied == limit < self.position.txid:
            return Position(limit, int(self._words[StateWord.APPLIED_CHECKSUM]))
        return self._settled or self.position

    @property
    def commit_limit(self) -> int | None:
        """Replica: the newest transaction that may be shown; None: every one."""
        limit = int(self._words[StateWord.COMMIT_LIMIT])
        return limit - 1 if limit else None

    def set_commit_limit(self, txid: int | None) -> None:
        """Replica: what may be shown, also after a restart."""
        self.state.touch()
        self._words[StateWord.COMMIT_LIMIT] = 0 if txid is None else txid + 1

    @property
    def certain(self) -> int:
        """The newest transaction that is not in doubt. What follows it is never joined with it: a node that may
        show only what is certain could not find that state again in its files.
        """
        if (limit := self.commit_limit) is not None:
            return limit
        return self.in_flight - 1 if self.in_flight else self.position.txid

    @property
    def after_power_cut(self) -> bool:
        """Whether the machine went down without an orderly stop, and recovery is not finished."""
        return bool(self._words[StateWord.POWER_CUT])

    def recovered(self) -> None:
        """Say that recovery is finished."""
        if self._words[StateWord.POWER_CUT]:
            self.state.touch()
            self._words[StateWord.POWER_CUT] = 0

    @property
    def wal_mark(self) -> WalMark | None:
        """Where capture continues; None when unknown (no WAL captured, or killed while storing it)."""
        words = self._words
        if words[StateWord.WAL_SEQ] % 2 or not words[StateWord.WAL_END]:
            return None
        return WalMark(
            int(words[StateWord.WAL_SALT1]),
            int(words[StateWord.WAL_SALT2]),
            int(words[StateWord.WAL_END]),
            int(words[StateWord.WAL_GEN]),
        )

    def set_wal_mark(self, salt1: int, salt2: int, end_offset: int, gen: int) -> None:
        """Note how far a WAL is captured [capture]; ``end_offset`` 0 means no WAL."""
        words = self._words
        if words[StateWord.CLEAN]:
            self.state.touch()
        seq = words[StateWord.WAL_SEQ] | 1
        words[StateWord.WAL_SEQ] = seq
        words[StateWord.WAL_SALT1], words[StateWord.WAL_SALT2] = salt1, salt2
        words[StateWord.WAL_END], words[StateWord.WAL_GEN] = end_offset, gen
        words[StateWord.OWNER] = OWNER_PROGRAMS
        words[StateWord.WAL_OWNER] = 0
        words[StateWord.WAL_SEQ] = seq + 1

    @property
    def wal_owner(self) -> int:
        """1: the WAL was written by the sidecar of a replica."""
        return int(self._words[StateWord.WAL_OWNER])

    def set_wal_owner(self, owner: int) -> None:
        """Say who writes the WAL; a replica sets 1 before its first frame."""
        self.state.touch()
        self._words[StateWord.WAL_OWNER] = owner
        self._words[StateWord.OWNER] = OWNER_SIDECAR if owner else OWNER_PROGRAMS

    @property
    def owner(self) -> int:
        """OWNER_*: who changed the image last."""
        return int(self._words[StateWord.OWNER])

    @property
    def applied(self) -> int:
        """Replica: the transaction that readers see."""
        return int(self._words[StateWord.APPLIED])

    def set_applied(self, txid: int, checksum: int | None = None) -> None:
        """Replica: note that the image shows ``txid`` (default checksum: of the position, if it is that)."""
        words = self._words
        if words[StateWord.CLEAN]:
            self.state.touch()
        if checksum is None:
            checksum = self.position.checksum if txid == self.position.txid else 0
        words[StateWord.APPLIED_CHECKSUM] = checksum
        words[StateWord.APPLIED] = txid
        words[StateWord.OWNER] = OWNER_SIDECAR

    @property
    def durable(self) -> int:
        """Replica: the transaction up to which the database file was fsynced."""
        return int(self._words[StateWord.DURABLE])

    def set_durable(self, txid: int) -> None:
        """Replica: note a checkpoint that was fsynced."""
        self.state.touch()
        self._words[StateWord.DURABLE] = txid

    @property
    def image_log(self) -> ImageLog | None:
        """Replica: what of a received image only the log has; None: nothing, or so much was written back since."""
        words = self._words
        if not words[StateWord.IMAGE_END] or words[StateWord.IMAGE_TXID] != words[StateWord.DURABLE]:
            return None
        return ImageLog(
            int(words[StateWord.IMAGE_TXID]),
            int(words[StateWord.IMAGE_SALT1]),
            int(words[StateWord.IMAGE_SALT2]),
            int(words[StateWord.IMAGE_END]),
        )

    def set_image_log(self, log: ImageLog | None) -> None:
        """Replica: note what only the log has, before ``set_durable`` of its transaction."""
        self.state.touch()
        words = self._words
        words[StateWord.IMAGE_END] = 0
        if log is not None:
            words[StateWord.IMAGE_TXID] = log.txid
            words[StateWord.IMAGE_SALT1], words[StateWord.IMAGE_SALT2] = log.salt1, log.salt2
            words[StateWord.IMAGE_END] = log.end

    @property
    def needs_compare(self) -> bool:
        """Whether the image must be compared with the page checksums before it is trusted."""
        return bool(self._words[StateWord.NEEDS_COMPARE])

    def set_needs_compare(self, wanted: bool) -> None:
        """Ask for the comparison, or say that it was done."""
        self.state.touch()
        self._words[StateWord.NEEDS_COMPARE] = int(wanted)
