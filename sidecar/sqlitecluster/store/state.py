"""The words that the store keeps per database beside its log and LTX files.

One mapped page, ``dbs/<enc>/state``. Its 64 words are one 512-byte sector, so that a
power cut leaves an old or a new version, never a mixture.

Rules:
    1. Positions are found again from LTX files and the log; the words here only add
       what those cannot say (a base without files, how far an image was applied).
    2. After a reboot without an orderly stop they are older than the truth, never newer.
    3. Words of an orderly stop are sealed by a checksum: what changed at rest is not believed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from sqlitecluster.errors import CorruptStore
from sqlitecluster.ltx.checksum import crc64
from sqlitecluster.replication.position import Position
from sqlitecluster.store import boot
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.words import WordFile

_MAGIC: Final = int.from_bytes(b"SCSTATE1", "big")

OWNER_NONE, OWNER_PROGRAMS, OWNER_SIDECAR = range(3)


class StateWord:
    """Indices of the words."""

    MAGIC = 0
    BOOT = 1  # boot id of the last writer
    CLEAN = 2  # 1 after an orderly stop
    TXID = 3
    CHECKSUM = 4
    PAGE_SIZE = 5  # bytes
    COMMIT = 6  # pages
    TIMESTAMP_MS = 7
    EPOCH = 8
    BASE_TXID = 9  # position of the last reset: a chain may start here without files
    BASE_CHECKSUM = 10
    BASE_LOG_SEQ = 11  # records of the log up to this number are void for this database
    WAL_SEQ = 12  # odd while the four words below are being written
    WAL_SALT1 = 13
    WAL_SALT2 = 14
    WAL_END = 15  # bytes of the WAL that are captured
    WAL_GEN = 16
    WAL_OWNER = 17  # 1: the WAL was written by the sidecar of a replica
    APPLIED = 18  # replica: transaction that the image (database and WAL) shows
    APPLIED_CHECKSUM = 19
    DURABLE = 20  # replica: transaction up to which the database file was fsynced
    OWNER = 21  # OWNER_*: who changes the image
    NEEDS_COMPARE = 22  # 1: compare the image with the checksums when the replicator runs
    POWER_CUT = 23  # 1: found after a reboot without an orderly stop, and not recovered yet
    IN_FLIGHT = 24  # primary: transaction that is in the log while its commit waits; 0 = none
    COMMIT_LIMIT = 25  # replica: newest transaction that may be shown, plus 1; 0 = all of them
    SEAL = 26  # checksum of the words above, written by an orderly stop; 0 in files of older versions
    COUNTER = 27  # change counter of the database file at an orderly stop, see ``behind``; 0 = not known
    IMAGE_TXID = 28  # replica: the image of this transaction was received, and its log has a part of it (below)
    IMAGE_END = 29  # bytes of that log, which are durable; 0 = the database file has all of it
    IMAGE_SALT1 = 30
    IMAGE_SALT2 = 31
    WORDS = 64


class StateFile:
    """The mapped words of one database."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._file = WordFile(path, StateWord.WORDS, disk)
        self.words = self._file.cells
        self.is_new = self.words[StateWord.MAGIC] == 0
        """Whether there were no words: a new database, or one whose words a power cut took."""
        if self.words[StateWord.MAGIC] == 0:
            self.words[StateWord.BOOT] = boot.boot_id()
            self.words[StateWord.CLEAN] = 1
            self.words[StateWord.MAGIC] = _MAGIC
        elif self.words[StateWord.MAGIC] != _MAGIC:
            raise CorruptStore(f"{path}: not a file of state words")
        elif self.words[StateWord.CLEAN] and self.words[StateWord.SEAL] not in (0, self._seal()):
            raise CorruptStore(f"{path}: the state words changed since the stop")

    def _seal(self) -> int:
        """Of the words as they are when ``CLEAN`` is 1."""
        sealed = self.words[: StateWord.SEAL].tolist()
        sealed[StateWord.CLEAN] = 1
        return crc64(np.array(sealed, np.uint64).tobytes()) or 1

    @property
    def trusted(self) -> bool:
        """Whether the words come from this boot or from an orderly stop."""
        return bool(self.words[StateWord.CLEAN]) or self.words[StateWord.BOOT] == boot.boot_id()

    def touch(self) -> None:
        """Say that the words are about to change; durable, or a power cut after this would not be noticed."""
        if self.words[StateWord.CLEAN]:
            self.words[StateWord.BOOT] = boot.boot_id()
            self.words[StateWord.CLEAN] = 0
            try:
                self.sync()
            except OSError:
                self.words[StateWord.CLEAN] = 1  # the next change says it again
                raise

    def set_position(self, number: int, checksum: int, position: Position) -> None:
        """Store a position in two words; the checksum is 0 while they do not belong together."""
        self.words[checksum] = 0
        self.words[number] = position.txid
        self.words[checksum] = position.checksum

    def sync(self) -> None:
        """Make the words durable."""
        self._file.sync()

    def close(self) -> None:
        """Make them durable and say that the stop was orderly."""
        if not self.words[StateWord.CLEAN]:
            self.sync()
            self.words[StateWord.SEAL] = self._seal()
            self.words[StateWord.CLEAN] = 1
            self.sync()
