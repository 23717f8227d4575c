"""A WAL transaction that does not fit one window: found by a scan, then streamed.

Called by ``capture_wal`` when a window of published frames holds no commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlitecluster.replicator.capture_content import WalContent
from sqlitecluster.replicator.capture_group import Cursor, Pages
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan
from sqlitecluster.replicator.capture_stream import publish_stream
from sqlitecluster.sqlitefmt.wal import FRAME_HEADER_SIZE
from sqlitecluster.units import lock_page

BATCH_BYTES: Final = 1 << 20


def publish_large(database: CapturedDatabase, content: WalContent, end: int) -> Cursor | None:
    """Publish the first transaction from the cursor on; None when no valid commit lies before ``end``."""
    found = find_transaction(content, end)
    if found is None:
        return None
    latest, commit, after = found
    span = WalSpan(after, content.cursor.end, content.generation)
    skip, before = lock_page(after.page_size), database.store.commit
    wanted = [(pgno, at) for pgno, at in latest.items() if pgno <= commit and pgno != skip]
    wanted += [(pgno, -1) for pgno in range(before + 1, commit + 1) if pgno not in latest and pgno != skip]
    wanted.sort()
    batches = page_batches(content, database, wanted, after.page_size)
    publish_stream(database, batches, after.page_size, commit, 1, span)
    return after


def find_transaction(content: WalContent, end: int) -> tuple[dict[int, int], int, Cursor] | None:
    """(page -> byte offset of its newest version, commit size, cursor behind it) of the next transaction."""
    latest: dict[int, int] = {}
    for window in content.windows(end, content.cursor):
        found, cursor = window.found, window.cursor
        frames = found.commit_ends[0] if found.commit_ends else found.valid
        first = cursor.end + FRAME_HEADER_SIZE
        last = first + frames * cursor.frame_size
        latest.update(zip(found.pgnos[:frames], range(first, last, cursor.frame_size), strict=True))
        if found.commit_ends:
            return latest, found.db_size(frames), cursor.after(found, frames)
    return None


def is_followed(content: WalContent, end: int, after: Cursor) -> bool:
    """Whether a valid frame that does not pad the transaction before ``after`` lies between that and ``end``."""
    size = after.frame_size
    last = content.bytes_at(after.end - size, size)
    window = content.read(end, after)
    for at in range(0, window.found.valid * size, size):
        frame = window.data[at : at + size]
        if frame[:8] != last[:8] or frame[FRAME_HEADER_SIZE:] != last[FRAME_HEADER_SIZE:]:
            return True
    return False


def page_batches(
    content: WalContent, database: CapturedDatabase, wanted: list[tuple[int, int]], page_size: int
) -> Iterator[Pages]:
    """Pages in batches; an offset of -1 means that the page was never written: it comes from the database file."""
    step = max(1, BATCH_BYTES // page_size)
    for first in range(0, len(wanted), step):
        yield [
            (pgno, memoryview(content.bytes_at(at, page_size) if at >= 0 else database.page_on_disk(pgno, page_size)))
            for pgno, at in wanted[first : first + step]
        ]
