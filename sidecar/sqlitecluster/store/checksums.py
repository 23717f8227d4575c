"""The page checksums of one database: a mapped array, so that a start costs O(changed).

File: one 4,096-byte head of u64 words (``_Head``), then one u64 per page (page 1
first). 0 means "no checksum known"; the entry of the lock page stays 0. The database's
rolling checksum is the flag bit plus the XOR of all entries' lower 63 bits.

Rules:
    1. The log comes first: a transaction's sums are stored after it was appended.
       ``txid`` says up to which transaction the array is complete; recovery stores the
       sums of later ones again.
    2. After a kill the words of one boot can be trusted as far as ``txid``; after a
       reboot only if ``clean``, or if the XOR of all entries gives the known checksum.
    3. One writing thread; readers in other threads see each entry whole.

Used by capture and apply (writers), snapshots, the verifier and recovery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.errors import CorruptStore
from sqlitecluster.store import boot
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.words import WordFile, Words
from sqlitecluster.units import lock_page

PageNumbers = Sequence[int] | npt.NDArray[np.uint32] | npt.NDArray[np.int64]
Sums = Sequence[int] | Words

_FLAG: Final = 1 << 63
_LOW: Final = _FLAG - 1
_MAGIC: Final = int.from_bytes(b"SCCHKSM1", "big")
_SMALL: Final = 24  # pages up to which a plain loop beats numpy's start-up costs


class _Head:
    MAGIC, PAGE_SIZE, CLEAN, BOOT, COUNT, XOR, TXID, FLUSHED = range(8)
    WORDS = 512


class ChecksumArray:
    """Checksums of pages 1 … ``count``."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._file = WordFile(path, _Head.WORDS + 512, disk)
        cells = self._file.cells
        if cells[_Head.MAGIC] == 0:
            cells[_Head.XOR] = 0
            cells[_Head.BOOT] = boot.boot_id()
            cells[_Head.CLEAN] = 1
            cells[_Head.MAGIC] = _MAGIC
        elif cells[_Head.MAGIC] != _MAGIC:
            raise CorruptStore(f"{path}: not a file of page checksums")
        # Entries beyond ``count`` are 0. A power cut may have kept them and lost the head, also the word ``CLEAN``.
        if (self.clean or not self.trusted) and (beyond := self._file.array[_Head.WORDS + self.count :]).any():
            beyond[:] = 0
        self._lock_page = lock_page(self.page_size) if self.page_size else 0

    @property
    def page_size(self) -> int:
        """Bytes; 0 before the first transaction."""
        return int(self._file.cells[_Head.PAGE_SIZE])

    @property
    def count(self) -> int:
        """Pages of the database."""
        return int(self._file.cells[_Head.COUNT])

    @property
    def txid(self) -> int:
        """The transaction up to which the array is complete."""
        return int(self._file.cells[_Head.TXID])

    @property
    def flushed_txid(self) -> int:
        """The transaction up to which the array was made durable."""
        return int(self._file.cells[_Head.FLUSHED])

    @property
    def rolling(self) -> int:
        """The database's checksum, flag bit set."""
        return _FLAG | self._file.cells[_Head.XOR]

    @property
    def clean(self) -> bool:
        """Whether it was left in order and nothing changed since."""
        return bool(self._file.cells[_Head.CLEAN])

    @property
    def trusted(self) -> bool:
        """Whether the words come from this boot or from an orderly stop."""
        cells = self._file.cells
        return bool(cells[_Head.CLEAN]) or cells[_Head.BOOT] == boot.boot_id()

    def get(self, pgno: int) -> int:
        """The checksum of a page; 0 when there is none."""
        if 0 < pgno <= self.count:
            return int(self._file.cells[_Head.WORDS + pgno - 1])
        return 0

    def get_many(self, pgnos: PageNumbers) -> Words:
        """The checksums of several pages; 0 where there is none."""
        wanted = np.asarray(pgnos, dtype=np.int64)
        known = (wanted > 0) & (wanted <= self.count)
        found = np.zeros(len(wanted), dtype=np.uint64)
        found[known] = self._file.array[wanted[known] + (_Head.WORDS - 1)]
        return found

    def view(self, first: int, count: int) -> Words:
        """A copy of the entries of ``count`` pages from page ``first`` on."""
        last = min(first + count - 1, self.count)
        at = _Head.WORDS - 1
        return self._file.array[at + first : at + last + 1].copy()

    def reset(self, page_size: int) -> None:
        """Forget every entry and start with another page size."""
        self.truncate(0)
        self._dirty()
        self._file.cells[_Head.XOR] = 0
        self._file.cells[_Head.PAGE_SIZE] = page_size
        self._lock_page = lock_page(page_size) if page_size else 0

    def set_many(self, pgnos: PageNumbers, sums: Sums) -> None:
        """Store the checksums of pages; the array grows to the highest of them."""
        if len(pgnos) == 0:
            return
        self._dirty()
        highest = int(max(pgnos)) if len(pgnos) <= _SMALL else int(np.max(pgnos))
        self._reach(highest)
        if len(pgnos) <= _SMALL:
            self._set_few(pgnos, sums)
            return
        at = np.asarray(pgnos, dtype=np.int64) + (_Head.WORDS - 1)
        new = np.asarray(sums, dtype=np.uint64)
        if self._lock_page:
            new = np.where(at == self._lock_page + _Head.WORDS - 1, np.uint64(0), new)
        array = self._file.array
        change = int(np.bitwise_xor.reduce(array[at] ^ new))
        array[at] = new
        self._file.cells[_Head.XOR] = (self._file.cells[_Head.XOR] ^ change) & _LOW

    def _set_few(self, pgnos: PageNumbers, sums: Sums) -> None:
        cells = self._file.cells
        xor = cells[_Head.XOR]
        for pgno, new in zip(pgnos, sums, strict=True):
            if pgno == self._lock_page:
                continue
            at = _Head.WORDS - 1 + int(pgno)
            value = int(new)
            xor ^= cells[at] ^ value
            cells[at] = value
        cells[_Head.XOR] = xor & _LOW

    def truncate(self, commit: int) -> None:
        """Make the database ``commit`` pages long: entries beyond are dropped, new ones are 0."""
        count = self.count
        if commit == count:
            return
        self._dirty()
        if commit > count:
            self._reach(commit)
            return
        tail = self._file.array[_Head.WORDS + commit : _Head.WORDS + count]
        change = int(np.bitwise_xor.reduce(tail)) if len(tail) else 0
        tail[:] = 0
        cells = self._file.cells
        cells[_Head.XOR] = (cells[_Head.XOR] ^ change) & _LOW
        cells[_Head.COUNT] = commit

    def rolling_after(self, pgnos: PageNumbers, sums: Sums, commit: int) -> int:
        """The database's checksum once these pages are stored and it is ``commit`` pages long.

        Changes nothing. Each page appears once in ``pgnos``, none is the lock page.
        """
        xor = self._file.cells[_Head.XOR]
        count = self.count
        if len(pgnos) <= _SMALL:
            cells = self._file.cells
            for pgno, new in zip(pgnos, sums, strict=True):
                old = cells[_Head.WORDS - 1 + int(pgno)] if pgno <= count else 0
                xor ^= old ^ int(new)
        else:
            new_sums = np.asarray(sums, dtype=np.uint64)
            xor ^= int(np.bitwise_xor.reduce(self.get_many(pgnos) ^ new_sums))
        if commit < count:
            xor ^= int(np.bitwise_xor.reduce(self._file.array[_Head.WORDS + commit : _Head.WORDS + count]))
        return _FLAG | (xor & _LOW)

    def mark(self, txid: int) -> None:
        """Say that everything up to ``txid`` is stored."""
        self._dirty()
        self._file.cells[_Head.TXID] = txid

    def adopt(self) -> None:
        """Say that the words were proved, or emptied: this boot's from now on."""
        self._file.cells[_Head.BOOT] = boot.boot_id()

    @property
    def adds_up(self) -> bool:
        """Whether the entries are what the running total says: no word of them was changed from outside."""
        return self.entries_total() == self.rolling

    def entries_total(self) -> int:
        """The database's checksum computed from all entries; changes nothing."""
        entries = self._file.array[_Head.WORDS : _Head.WORDS + self.count]
        return _FLAG | (int(np.bitwise_xor.reduce(entries)) & _LOW if len(entries) else 0)

    def replace(self, sums: Mapping[int, int], wanted: int) -> bool:
        """Put entries right that were damaged: only if everything then adds up to ``wanted``."""
        cells = self._file.cells
        inside = {pgno: new for pgno, new in sums.items() if 0 < pgno <= self.count and pgno != self._lock_page}
        total = self.entries_total()
        for pgno, new in inside.items():
            total ^= (cells[_Head.WORDS - 1 + pgno] ^ new) & _LOW
        if total != wanted:
            return False
        self._dirty()
        for pgno, new in inside.items():
            cells[_Head.WORDS - 1 + pgno] = new
        cells[_Head.XOR] = total & _LOW
        return True

    def recount(self) -> int:
        """Compute the rolling checksum from all entries, store and return it."""
        entries = self._file.array[_Head.WORDS : _Head.WORDS + self.count]
        xor = int(np.bitwise_xor.reduce(entries)) & _LOW if len(entries) else 0
        self._file.cells[_Head.XOR] = xor
        return _FLAG | xor

    def flush(self) -> None:
        """Make the array durable up to its present ``txid``."""
        txid = self.txid
        self._file.sync()
        self._file.cells[_Head.FLUSHED] = txid

    def close(self) -> None:
        """Make it durable and say that it was left in order."""
        if not self.clean:
            self.flush()
            self._file.cells[_Head.CLEAN] = 1
            self._file.sync()

    def _dirty(self) -> None:
        cells = self._file.cells
        if cells[_Head.CLEAN]:
            cells[_Head.BOOT] = boot.boot_id()
            cells[_Head.CLEAN] = 0

    def reserve(self, count: int) -> None:
        """Take room on the disk for the entries of ``count`` pages, before something depends on it.

        Raises:
            NoSpace: the disk is full.
        """
        room = len(self._file.cells) - _Head.WORDS
        if count > room:
            self._file.grow(_Head.WORDS + max(count, room * 2 if room < 1 << 20 else room + (1 << 20)))

    def _reach(self, count: int) -> None:
        if count > self._file.cells[_Head.COUNT]:
            self.reserve(count)
            self._file.cells[_Head.COUNT] = count
