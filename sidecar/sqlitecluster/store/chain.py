"""Finding a database's position again: LTX files, the log's leftovers, and the state words.

Rules:
    1. The chain is what counts; the state words add only a base without files, and may
       keep a position whose newest file turned out damaged (it is known, just not in files).
    2. A blob of the log that does not continue the chain goes to lost+found.
    3. The newest file is verified; the others are when they are read.
    4. Words that are new beside transactions that are not were lost in a power cut. Whose image it is, if they
       do not say that, is told by who captured the newest transaction.

Called by ``database.DatabaseStore`` when it is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlitecluster.errors import CorruptLTX, FormatError, LimitError
from sqlitecluster.ltx import HEADER_SIZE, TRAILER_SIZE, Decoder, Header, Trailer, decode
from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.store import boot
from sqlitecluster.store.log import Logged
from sqlitecluster.store.state import OWNER_NONE, OWNER_PROGRAMS, OWNER_SIDECAR, StateWord
from sqlitecluster.store.tail import Entry

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore
    from sqlitecluster.store.node import NodeStore

log = logging.getLogger(__name__)


def load(database: DatabaseStore, node: NodeStore) -> None:
    """Set the position and the tail of a database that is being opened."""
    words = database.state.words
    if not words[StateWord.CLEAN]:
        database.files.sync_names()
    leftovers = _take_leftovers(database, node)
    lost = database.state.is_new and bool(leftovers or database.files.files)
    trusted = database.state.trusted and not lost
    if lost:
        database.state.touch()
    if not trusted:
        words[StateWord.POWER_CUT] = 1  # before the boot id: a kill in between must not hide it
        words[StateWord.IN_FLIGHT] = 0  # it may have been answered and be lost from the WAL: what the log has counts
        words[StateWord.BOOT] = boot.boot_id()
    known = Position(int(words[StateWord.TXID]), int(words[StateWord.CHECKSUM]))
    if trusted and not leftovers and _clean(database, known):
        database.position = known
        return
    newest = _newest_file(database)
    base = Position(int(words[StateWord.BASE_TXID]), int(words[StateWord.BASE_CHECKSUM]))
    reached, header = (newest[1], newest[0]) if newest is not None else (ZERO, None)
    if base.txid > reached.txid and base.checksum:
        reached, header = base, None
    if trusted and known.checksum and known.txid > reached.txid and not _continues(leftovers, reached):
        reached, header = known, None
    reached, last = _join(database, node, leftovers, reached)
    written_by = last or header
    unknown = not trusted and words[StateWord.OWNER] == OWNER_NONE and (database.dir / "database").exists()
    if (lost or unknown) and written_by is not None:
        words[StateWord.OWNER] = OWNER_PROGRAMS if written_by.node_id == node.node_id else OWNER_SIDECAR
    newer = (
        last is not None and not trusted and last.max_txid > known.txid
    )  # than the words: they may be of another role
    if last is not None and _is_own(last, node, database) and (newer or database.owner != OWNER_SIDECAR):
        _set_wal_mark(database, last)  # a replica may get back what it captured itself, in an earlier role
    _set(database, reached, last or header, trusted and reached == known)


def _is_own(last: Header, node: NodeStore, database: DatabaseStore) -> bool:
    """Whether this node captured it from a log that has it: a commit in flight may be missing there."""
    return bool(last.wal_size) and last.node_id == node.node_id and last.max_txid != database.in_flight


def _set_wal_mark(database: DatabaseStore, header: Header) -> None:
    """The log knows better than the words how far our own capture was."""
    mark, end = database.wal_mark, header.wal_offset + header.wal_size
    salts = (header.wal_salt1, header.wal_salt2)
    same = mark is not None and (mark.salt1, mark.salt2) == salts
    restarted = mark is not None and header.wal_salt1 == (mark.salt1 + 1) & 0xFFFF_FFFF
    if mark is None or restarted or (same and mark.end < end):
        database.set_wal_mark(*salts, end, mark.generation if mark is not None else 0)


def verify(data: bytes, min_txid: int, max_txid: int) -> Header:
    """Check the bytes of a stored file, whole, and that it is what its name says."""
    header = decode(data).header
    if (header.min_txid, header.max_txid) != (min_txid, max_txid):
        raise CorruptLTX(f"holds transactions {header.min_txid} to {header.max_txid} instead of the named ones")
    return header


def verify_piece(data: bytes, txid: int) -> tuple[Header, int]:
    """Check the bytes of a file that somebody sent; (header, checksum after it).

    Raises:
        CorruptLTX: it does not hold that transaction.
        FormatError, LimitError: it is damaged.
    """
    file = decode(data)
    if not file.header.min_txid <= txid <= file.header.max_txid:
        raise CorruptLTX(f"holds {file.header.min_txid:016x} to {file.header.max_txid:016x}, not {txid:016x}")
    return file.header, file.trailer.post_apply


def check_neighbours(database: DatabaseStore, header: Header, post: int) -> None:
    """Check that a fetched file belongs to this history, as far as what is stored here can tell.

    Raises:
        CorruptLTX: it is of another one.
    """
    known = {database.position.txid: database.position.checksum}
    for info in database.files.files:
        if info.max_txid in (header.min_txid - 1, header.max_txid) or info.min_txid == header.max_txid + 1:
            with contextlib.suppress(OSError, FormatError, LimitError):
                before, after = _ends(database.files.file_path(info))
                known[info.max_txid] = after
                if not info.is_snapshot:
                    known[info.min_txid - 1] = before
    for txid, checksum in ((header.min_txid - 1, header.pre_apply), (header.max_txid, post)):
        if checksum and known.get(txid, checksum) != checksum:
            raise CorruptLTX(f"transaction {txid:016x} ends with {checksum:016x} there, with {known[txid]:016x} here")


def _ends(path: Path) -> tuple[int, int]:
    """The checksums before and after an LTX file."""
    with open(path, "rb") as file:
        before = Header.parse(file.read(HEADER_SIZE)).pre_apply
        file.seek(-TRAILER_SIZE, os.SEEK_END)
        return before, Trailer.parse(file.read(TRAILER_SIZE)).post_apply


def _clean(database: DatabaseStore, known: Position) -> bool:
    """Whether nothing contradicts the words: they may have been cut off between number and checksum."""
    if known.txid and not known.checksum:
        return False
    newest = database.files.newest()
    return newest.max_txid <= known.txid if newest is not None else True


def _take_leftovers(database: DatabaseStore, node: NodeStore) -> list[Logged]:
    void = int(database.state.words[StateWord.BASE_LOG_SEQ])
    if void > node.log.sequence:
        void = 0  # another log than the one that was reset against: its records are all newer
    taken = []
    for place in node.take_recovered(database.name):
        if place.sequence <= void:
            node.log.release(place.segment)
        else:
            taken.append(place)
    return taken


def _newest_file(database: DatabaseStore) -> tuple[Header, Position] | None:
    """Header and end of the newest LTX file that is not damaged."""
    while (info := database.files.newest()) is not None:
        path = database.files.file_path(info)
        try:
            with open(path, "rb") as file:
                decoder = Decoder(file.read)
                for _page in decoder.pages():
                    pass
            header = decoder.header
            if (header.min_txid, header.max_txid) != (info.min_txid, info.max_txid):
                raise CorruptLTX(f"holds transactions {header.min_txid} to {header.max_txid}")
        except (FormatError, LimitError, CorruptLTX) as error:
            database.quarantine(path, error.message)
            continue
        return header, Position(header.max_txid, decoder.trailer.post_apply)
    return None


def _continues(leftovers: list[Logged], reached: Position) -> bool:
    for place in leftovers:
        head = place.segment.read(place.offset, HEADER_SIZE)
        if head is not None:
            header = Header.parse(head)
            return header.min_txid <= reached.txid + 1
    return False


def _join(
    database: DatabaseStore, node: NodeStore, leftovers: list[Logged], reached: Position
) -> tuple[Position, Header | None]:
    last: Header | None = None
    start = reached.txid
    old: list[Entry] = []
    new: list[Entry] = []
    aside: list[Logged] = []
    for place in leftovers:
        header, post = _logged(place)
        if header is not None and header.max_txid <= start:
            old.append(Entry(header.min_txid, header.max_txid, post, place, None))
        elif header is None or not _follows(header, reached):
            aside.append(place)  # what comes later may follow: an earlier start may have gone on without this
        else:
            new.append(Entry(header.min_txid, header.max_txid, post, place, None))
            reached, last = Position(header.max_txid, post), header
    for entry in [*_still_needed(database, node, old), *new]:
        database.tail.add(entry)
    if aside:
        _set_aside(database, node, aside, reached)
    return reached, last


def _logged(place: Logged) -> tuple[Header | None, int]:
    """Header of a blob in the log, and the checksum after it; None when it is none."""
    blob = place.segment.read(place.offset, place.size) or b""
    try:
        return Header.parse(blob[:HEADER_SIZE]), Trailer.parse(blob[-TRAILER_SIZE:]).post_apply
    except (FormatError, LimitError):
        return None, 0


def _still_needed(database: DatabaseStore, node: NodeStore, old: list[Entry]) -> list[Entry]:
    """Blobs that are in no file yet, because a large transaction after them went straight to one."""
    kept: list[Entry] = []
    for entry in reversed(old):
        after = entry.max_txid + 1
        leads_on = (kept and kept[-1].min_txid == after) or database.files.find(after) is not None
        if leads_on and not database.files.covers(entry.min_txid, entry.max_txid):
            kept.append(entry)
        else:
            node.log.release(entry.place.segment)
    return kept[::-1]


def _follows(header: Header, reached: Position) -> bool:
    if header.min_txid != reached.txid + 1:
        return header.min_txid <= reached.txid
    return reached.txid == 0 or header.pre_apply == reached.checksum


def _set_aside(database: DatabaseStore, node: NodeStore, places: list[Logged], reached: Position) -> None:
    blobs = []
    for place in places:
        blob = place.segment.read(place.offset, place.size)
        if blob is not None:
            blobs.append((f"log-{place.sequence:016x}.ltx", blob))
    kept = node.keep(database.name, "log does not continue", [], blobs)
    for place in places:
        node.log.release(place.segment)
    log.error("%s: %d logged transactions do not continue %s: moved to %s", database.name, len(places), reached, kept)


def _set(database: DatabaseStore, reached: Position, header: Header | None, unchanged: bool) -> None:
    database.position = reached
    if unchanged:
        return
    words = database.state.words
    database.state.touch()
    words[StateWord.CHECKSUM] = 0  # until all of them are there
    if header is not None:
        words[StateWord.PAGE_SIZE], words[StateWord.COMMIT] = header.page_size, header.commit
        words[StateWord.TIMESTAMP_MS] = header.timestamp_ms
    database.state.set_position(StateWord.TXID, StateWord.CHECKSUM, reached)
