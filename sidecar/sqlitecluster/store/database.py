"""The store of one database: where it stands and which transactions it can give.

Capture (on a primary) or apply (on a replica) is the only thread that changes a
database; streams read from other threads at the same time.

Rules:
    1. ``append`` writes the log, then the position, then the page checksums; a kill
       between any two is repaired at the next open from the log.
    2. ``position`` is one immutable value, replaced whole.
    3. What leaves the chain (a diverged tail, a damaged file) goes to lost+found.

Called by capture, apply, streams; opened through ``node.NodeStore``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlitecluster import failpoints
from sqlitecluster.errors import CorruptLTX, CorruptStore, FormatError, LimitError, PositionMismatch
from sqlitecluster.ltx import HEADER_SIZE, TRAILER_SIZE, Header, Trailer
from sqlitecluster.ltx.growth import missing_growth
from sqlitecluster.replication.position import Position
from sqlitecluster.store import behind, chain, damage, sums
from sqlitecluster.store.checksums import ChecksumArray, PageNumbers, Sums
from sqlitecluster.store.ltxdir import LTXDirectory, LTXFileInfo
from sqlitecluster.store.marks import Marks, WalMark
from sqlitecluster.store.state import OWNER_PROGRAMS, StateFile, StateWord
from sqlitecluster.store.tail import Entry, Tail
from sqlitecluster.units import encode_name

if TYPE_CHECKING:
    from sqlitecluster.store.node import NodeStore

log = logging.getLogger(__name__)

__all__ = ["DatabaseStore", "StoredLTX", "WalMark"]

LARGE_BLOB: Final = 4 << 20  # bytes; larger ones become an LTX file at once instead of passing through the log


@dataclass(frozen=True, slots=True)
class StoredLTX:
    """One piece of the chain: an LTX file or blob that holds transactions min … max."""

    min_txid: int
    max_txid: int
    size: int
    """Bytes."""
    blob: bytes | None
    path: Path | None
    """Set when it is a file; large ones are better read in parts."""


class DatabaseStore(Marks):
    """Positions, transactions and page checksums of one database."""

    def __init__(self, node: NodeStore, name: str) -> None:
        self.name = name
        self.dir = node.data_dir / "dbs" / encode_name(name)
        self._node = node
        self._name = name.encode()
        if not self.dir.is_dir():
            node.disk.make_folder(self.dir)
            node.disk.fsync_dir(self.dir.parent)
        super().__init__(self._open_state())
        self.files = LTXDirectory(self.dir / "ltx", node.disk)
        self.tail = Tail(node.ring)
        self._checksums: ChecksumArray | None = None
        self._open_lock = threading.Lock()
        self.upkeep = threading.RLock()
        """Held while files of the chain are made or voided: cuts, joins and resets exclude one another."""
        self._pins: dict[str, int] = {}
        chain.load(self, node)
        if 0 < self.in_flight <= self.position.txid:
            self._settled = Position(self.in_flight - 1, self.checksum_before(self.in_flight))

    @property
    def checksums(self) -> ChecksumArray:
        """The page checksums; mapped when first asked for."""
        if self._checksums is None:
            with self._open_lock:
                if self._checksums is None:
                    array = self._open_checksums()
                    sums.complete(self, array)
                    self._checksums = array
        return self._checksums

    def _open_state(self) -> StateFile:
        """The state words; damaged ones are put aside, and what they said is found again from the chain."""
        path, disk = self.dir / "state", self._node.disk
        try:
            return StateFile(path, disk)
        except CorruptStore as error:
            self._put_aside(damage.STATE, path, error)
            fresh = StateFile(path, disk)
            fresh.touch()
            fresh.words[StateWord.NEEDS_COMPARE] = 1
            return fresh

    def _open_checksums(self) -> ChecksumArray:
        path, disk = self.dir / "checksums", self._node.disk
        try:
            return ChecksumArray(path, disk)
        except CorruptStore as error:
            self._put_aside(damage.CHECKSUMS, path, error)
            return ChecksumArray(path, disk)

    def _put_aside(self, kind: str, path: Path, error: CorruptStore) -> None:
        kept = self._node.keep(self.name, f"damaged {kind}", [path], [])
        log.error("%s: %s; kept in %s", self.name, error.message, kept, extra={"code": error.code})
        self._node.damage.note_found(kind, self.name)
        self._node.damage.note_repaired(kind, self.name)

    # -- going on ---------------------------------------------------------------------

    def append(
        self,
        ltx_bytes: bytes,
        header: Header,
        trailer_post: int,
        pgnos: PageNumbers | None = None,
        page_sums: Sums | None = None,
    ) -> None:
        """Take the next transactions in; not durable until the log is synced (at most 50 ms later).

        With ``pgnos`` and ``page_sums`` (all pages of the blob and their checksums) the page
        checksums follow in the right order. Without, the caller stores them after this
        call and ends with ``checksums.mark(txid)``.

        Raises:
            PositionMismatch: the blob does not continue from ``position``.
            CorruptLTX: it makes the database longer and lacks a page of the new part; nothing was changed.
            NoSpace: the disk is full; nothing was changed.
        """
        self.check_continues(header)
        self.files.drop_unwanted()
        if pgnos is not None:
            self._check_growth(header, pgnos)
            self.checksums.reserve(header.commit)
        self.state.touch()  # before anything is stored: it can fail
        size = len(ltx_bytes)
        if size > LARGE_BLOB:
            self._node.log.sync()
            self.files.install(0, header.min_txid, header.max_txid, (ltx_bytes,))
        else:
            place = self._node.log.append(self._name, ltx_bytes)
            self.tail.add(Entry(header.min_txid, header.max_txid, trailer_post, place, ltx_bytes))
            self._node.appended()
        self._advance(header, trailer_post)
        failpoints.hit("store.before-sums")
        if pgnos is not None and page_sums is not None:
            self._store_sums(header, pgnos, page_sums)

    def append_file(self, path: Path, header: Header, trailer_post: int) -> None:
        """Take in a finished, verified LTX file of this file system; it is moved. Durable at return.

        For transactions too large for memory. Page checksums are the caller's, as with ``append``.

        Raises:
            PositionMismatch: the file does not continue from ``position``.
        """
        self.check_continues(header)
        self.state.touch()  # before anything is stored: it can fail
        self._node.log.sync()
        self.files.adopt(0, header.min_txid, header.max_txid, path)
        self._advance(header, trailer_post)

    def check_continues(self, header: Header) -> None:
        """Raise PositionMismatch unless a file with this header may follow ``position``."""
        at = self.position
        following = at.txid + 1
        if not header.min_txid <= following <= header.max_txid:
            raise PositionMismatch(at, f"{header.min_txid - 1:016x}")
        if header.min_txid == following and following != 1 and header.pre_apply != at.checksum:
            raise PositionMismatch(at, Position(header.min_txid - 1, header.pre_apply))

    def _check_growth(self, header: Header, pgnos: PageNumbers) -> None:
        """Refuse a transaction that makes the database longer without all new pages."""
        if header.is_snapshot or header.page_size != self.page_size:
            return
        missing = missing_growth(self.commit, header.commit, pgnos, header.page_size)
        if missing:
            text = f"the database grows from {self.commit} to {header.commit} pages, but page {missing} is not there"
            raise CorruptLTX(f"{self.name}: transaction {header.max_txid:016x}: {text}")

    def sync(self) -> None:
        """Make every appended transaction durable now."""
        self._node.log.sync()

    def _advance(self, header: Header, post: int) -> None:
        words = self._words
        if words[StateWord.CLEAN]:
            self.state.touch()
        words[StateWord.CHECKSUM] = 0  # until all of them are there
        words[StateWord.TXID] = header.max_txid
        words[StateWord.PAGE_SIZE] = header.page_size
        words[StateWord.COMMIT] = header.commit
        words[StateWord.TIMESTAMP_MS] = header.timestamp_ms
        words[StateWord.CHECKSUM] = post
        if header.node_id == self._node.node_id and not words[StateWord.WAL_OWNER]:
            words[StateWord.OWNER] = OWNER_PROGRAMS
            words[StateWord.EPOCH] = self._node.epoch or words[StateWord.EPOCH]
        self.position = Position(header.max_txid, post)

    def _store_sums(self, header: Header, pgnos: PageNumbers, page_sums: Sums) -> None:
        checksums = self.checksums
        if checksums.page_size != header.page_size:
            checksums.reset(header.page_size)
        checksums.truncate(header.commit)
        checksums.set_many(pgnos, page_sums)
        checksums.mark(header.max_txid)

    def reset(
        self, position: Position, *, page_size: int, commit: int, timestamp_ms: int, epoch: int | None = None
    ) -> None:
        """Start the chain anew at a position, after a snapshot was installed. Durable at return.

        LTX files stay for the retention to remove; ``keep_tail`` first moves those of a
        diverged history away. Page checksums are the caller's.
        """
        with self.upkeep:
            uncut = self.tail.clear()
            gone = self.files.forget(self._not_before(position))
            if gone:
                self._node.keep(self.name, "reset", [self.files.file_path(info) for info in gone], [])
            failpoints.hit("store.before-reset")
            self._set_base(position, page_size, commit)
            self._words[StateWord.TIMESTAMP_MS] = timestamp_ms
            if epoch is not None:
                self._words[StateWord.EPOCH] = epoch
            self.state.sync()
            self.position = position
            for entry in uncut:  # not earlier: until the new base is durable, they are what there is
                self._node.log.release(entry.place.segment)

    def _not_before(self, position: Position) -> list[LTXFileInfo]:
        """Files that are not of the history that leads to a position."""
        files = self.files.files
        if any(info.max_txid == position.txid and self._end(info) != position.checksum for info in files):
            return list(files)
        return [info for info in files if info.max_txid > position.txid]

    def _end(self, info: LTXFileInfo) -> int:
        """The checksum after a file's last transaction; 0 when it cannot be read."""
        try:
            data = self.files.file_path(info).read_bytes()[-TRAILER_SIZE:]
            return Trailer.parse(data).post_apply
        except (OSError, FormatError, LimitError):
            return 0

    def _set_base(self, position: Position, page_size: int, commit: int) -> None:
        words = self._words
        self.state.touch()
        self.state.set_position(StateWord.BASE_TXID, StateWord.BASE_CHECKSUM, position)
        words[StateWord.CHECKSUM] = 0  # until all of them are there
        words[StateWord.PAGE_SIZE], words[StateWord.COMMIT] = page_size, commit
        self.state.set_position(StateWord.TXID, StateWord.CHECKSUM, position)
        words[StateWord.BASE_LOG_SEQ] = self._node.log.sequence

    def keep_tail(self, from_txid: int, reason: str) -> Path | None:
        """Move transactions above ``from_txid`` into lost+found, as LTX files; returns the folder.

        The position does not change: a re-sync with ``reset`` follows. A file that holds
        ``from_txid`` and later ones is moved whole.
        """
        with self.upkeep:
            self._node.cut(self)
            infos = self.files.forget([info for info in self.files.files if info.max_txid > from_txid])
            if not infos:
                return None
            return self._node.keep(self.name, reason, [self.files.file_path(info) for info in infos], [])

    # -- giving it out ------------------------------------------------------------------

    def since(self, txid: int) -> Iterator[bytes] | None:
        """LTX blobs that lead from ``txid`` to the present; None when a snapshot is needed.

        Blobs may begin before ``txid + 1``. The iterator ends at the newest transaction,
        or early when a file was removed meanwhile: ask again from there.
        """
        if txid == self.position.txid:
            return iter(())
        first = self.next_after(txid)
        return self._walk(first) if first is not None and self.reaches(txid) else None

    def reaches(self, txid: int) -> bool:
        """Whether stored transactions lead from ``txid`` to the position without a gap."""
        while txid < self.position.txid:
            piece = self.next_after(txid)
            if piece is None:
                return False
            if piece.path is None and self.tail.leads_to(self.position.txid):
                return True
            txid = piece.max_txid
        return txid == self.position.txid

    def earliest(self) -> int:
        """The lowest TXID from which stored transactions lead to the position without a gap."""
        oldest = self.tail.oldest()
        starts = {info.min_txid - 1 for info in self.files.files}
        if oldest is not None:
            starts.add(oldest.min_txid - 1)
        return next((txid for txid in sorted(starts) if self.reaches(txid)), self.position.txid)

    def next_after(self, txid: int) -> StoredLTX | None:
        """The piece of the chain that holds ``txid + 1``; None when there is none (any more)."""
        wanted = txid + 1
        entry = self.tail.find(wanted)
        if entry is not None:
            blob = entry.read()
            if blob is not None:
                return StoredLTX(entry.min_txid, entry.max_txid, len(blob), blob, None)
        info = self.files.find(wanted)
        return None if info is None else self.piece(info)

    def piece(self, info: LTXFileInfo) -> StoredLTX:
        """A stored file as a piece of the chain."""
        return StoredLTX(info.min_txid, info.max_txid, info.size, None, self.files.file_path(info))

    def checksum_before(self, txid: int) -> int:
        """Of the database before a stored transaction; 0 when that is not known."""
        piece = self.next_after(txid - 1)
        data = self.read(piece) if piece is not None else None
        return Header.parse(data[:HEADER_SIZE]).pre_apply if data is not None else 0

    def read(self, piece: StoredLTX) -> bytes | None:
        """The bytes of a piece, verified when they come from a file.

        None when the file is gone; a damaged file is moved to lost+found and gives None too.
        """
        if piece.blob is not None:
            return piece.blob
        if piece.path is None:
            return None
        try:
            data = piece.path.read_bytes()
            chain.verify(data, piece.min_txid, piece.max_txid)
        except FileNotFoundError:
            return None
        except (FormatError, LimitError, CorruptLTX) as error:
            self.quarantine(piece.path, error.message)
            return None
        return data

    def quarantine(self, path: Path, why: str) -> None:
        """Move a damaged LTX file to lost+found."""
        for info in self.files.forget([info for info in self.files.files if self.files.file_path(info) == path]):
            kept = self._node.keep(self.name, "corrupt", [path], [])
            text = "%s: damaged LTX file %s moved to %s: %s"
            log.error(text, self.name, path.name, kept, why, extra={"code": CorruptLTX.code})
            self._node.corrupt_files += 1
            self._node.damage.note_found(damage.LTX, self.name)
            self._node.damage.gaps.append(damage.Gap(self.name, info.min_txid, info.max_txid))

    def _walk(self, piece: StoredLTX | None) -> Iterator[bytes]:
        while piece is not None:
            data = self.read(piece)
            if data is None:
                return
            yield data
            if piece.max_txid >= self.position.txid:
                return
            piece = self.next_after(piece.max_txid)

    def pin(self, key: str, txid: int) -> None:
        """Keep LTX above ``txid`` for somebody (a replica, a backup) beyond the age limit."""
        self._pins = {**self._pins, key: txid}

    def unpin(self, key: str) -> None:
        """End a pin."""
        self._pins = {k: v for k, v in self._pins.items() if k != key}

    @property
    def pinned(self) -> int | None:
        """The lowest pinned TXID."""
        return min(self._pins.values(), default=None)

    def flush(self) -> None:
        """Make state words and page checksums durable as they are [housekeeper]."""
        if self._checksums is not None and self._checksums.flushed_txid != self._checksums.txid:
            self._checksums.flush()
        if not self._words[StateWord.CLEAN]:
            self.state.sync()

    def close(self) -> None:
        """Leave it in order; everything was cut before."""
        if self._checksums is not None:
            behind.note(self)
            self._checksums.close()
            self._checksums = None
        self.state.close()
