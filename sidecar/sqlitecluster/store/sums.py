"""Making the page checksums of a database agree with its position after a kill or a power cut.

Called once per process and database, when the checksums are first asked for.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sqlitecluster.errors import FormatError, LimitError
from sqlitecluster.ltx import Decoder, Header, page_checksum
from sqlitecluster.store.checksums import ChecksumArray

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore, StoredLTX

log = logging.getLogger(__name__)

_BATCH: Final = 256  # pages whose checksums are stored together


def complete(database: DatabaseStore, checksums: ChecksumArray) -> None:
    """Store the sums of transactions that the array does not have yet, and prove the total.

    If that cannot be done, the array is emptied and the database marked as to be
    compared: capture then takes the whole image, a replica asks for it.
    """
    position = database.position
    if position.is_zero or (checksums.clean and checksums.txid == position.txid and _fits(database, checksums)):
        return
    reached = checksums.txid if checksums.trusted else checksums.flushed_txid
    while reached < position.txid and (piece := database.next_after(reached)) is not None:
        try:
            with contextlib.ExitStack() as stack:
                decoder = open_piece(piece, stack)
                store(checksums, decoder.header, decoder.pages())
        except (FormatError, LimitError, FileNotFoundError) as error:
            log.error("%s: reading stored transactions again failed: %s", database.name, error)
            break
        reached = piece.max_txid
    if reached == position.txid and checksums.recount() == position.checksum:
        checksums.mark(position.txid)
        checksums.adopt()
        return
    log.warning("%s: the page checksums do not add up to %s; the image will be compared", database.name, position)
    checksums.reset(database.page_size)
    checksums.mark(0)
    checksums.adopt()
    database.set_needs_compare(True)


def _fits(database: DatabaseStore, checksums: ChecksumArray) -> bool:
    """Whether the array is of this database at its position, and nothing in it changed at rest."""
    return (
        checksums.page_size == database.page_size
        and checksums.count == database.commit
        and checksums.rolling == database.position.checksum
        and checksums.adds_up
    )


def store(checksums: ChecksumArray, header: Header, pages: Iterator[tuple[int, bytes]]) -> None:
    """Store the checksums of one piece's pages."""
    if checksums.page_size != header.page_size:
        checksums.reset(header.page_size)
    checksums.truncate(header.commit)
    pgnos: list[int] = []
    sums: list[int] = []
    for pgno, page in pages:
        pgnos.append(pgno)
        sums.append(page_checksum(pgno, page))
        if len(pgnos) == _BATCH:
            checksums.set_many(pgnos, sums)
            pgnos, sums = [], []
    checksums.set_many(pgnos, sums)
    checksums.mark(header.max_txid)


def open_piece(piece: StoredLTX, stack: contextlib.ExitStack) -> Decoder:
    """A streaming reader of a piece of the chain."""
    if piece.path is None:
        return Decoder.of(piece.blob or b"")
    return Decoder(stack.enter_context(open(piece.path, "rb")).read)
