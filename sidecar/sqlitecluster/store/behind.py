"""Writes behind the node's back: did SQLite change a database file while the node was stopped?

An orderly stop notes the change counter of the file's header. Another one at the next start means
that somebody opened the file directly; the same one on a page that differs is damage.

Called by ``database`` (stop) and ``replicator.capture_recovery`` (start). Reads one page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlitecluster.ltx import page_checksum
from sqlitecluster.store.state import StateWord

if TYPE_CHECKING:
    from sqlitecluster.store.database import DatabaseStore

_KNOWN: Final = 1 << 32


def note(database: DatabaseStore) -> None:
    """At an orderly stop: remember the change counter, if the first page is what was captured."""
    page = _first_page(database)
    words = database.state.words
    is_right = page is not None and page_checksum(1, page) == database.checksums.get(1)
    words[StateWord.COUNTER] = _KNOWN | _counter(page) if page is not None and is_right else 0


def was_written(database: DatabaseStore) -> bool:
    """Whether SQLite wrote the file since the stop that noted its counter."""
    noted, page = int(database.state.words[StateWord.COUNTER]), _first_page(database)
    if not noted or page is None or page_checksum(1, page) == database.checksums.get(1):
        return False
    return page[24:28] == page[92:96] and _KNOWN | _counter(page) != noted


def _first_page(database: DatabaseStore) -> bytes | None:
    """Page 1 of the file; None where a WAL may have a newer one."""
    wal = database.dir / "wal"
    try:
        if not database.page_size or (wal.exists() and wal.stat().st_size):
            return None
        with open(database.dir / "database", "rb") as file:
            page = file.read(database.page_size)
    except OSError:
        return None
    return page if len(page) == database.page_size else None


def _counter(page: bytes) -> int:
    return int.from_bytes(page[24:28], "big")
