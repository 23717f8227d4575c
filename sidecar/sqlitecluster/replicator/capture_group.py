"""Which commits of a write-ahead log become one LTX file. Pure; called by ``capture_wal``.

Input is a run of frames that SQLite has published, or whose publication is proved some
other way. Output is a ``Group``: the newest version of each page, and where to go on.

Rules:
    1. A transaction (TXID) is one commit frame. Padding frames repeat the commit frame
       before them, byte for byte, and are no transaction of their own.
    2. A group ends with a commit frame, at ``MAX_COMMITS`` commits, at ``MAX_PAGES_BYTES``
       of distinct pages, and at a commit that shrinks the database: page checksums
       beyond the new end are dropped there and nowhere else.
    3. Within a group the last frame of a page wins; pages beyond the final size and the
       lock page are left out.
    4. Salts and the checksum chain were verified by ``wal.scan``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sqlitecluster.sqlitefmt import wal

Pages = list[tuple[int, memoryview]]

MAX_COMMITS: Final = 512
MAX_PAGES_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one content of a WAL is captured, and what continues it."""

    header: wal.WALHeader
    end: int
    """Byte offset behind the last captured frame."""
    seed: tuple[int, int]
    """The running checksum there."""

    @classmethod
    def start(cls, header: wal.WALHeader) -> Cursor:
        """Before the first frame."""
        return cls(header, wal.HEADER_SIZE, header.seed)

    @property
    def page_size(self) -> int:
        return self.header.page_size

    @property
    def frame_size(self) -> int:
        return self.header.page_size + wal.FRAME_HEADER_SIZE

    @property
    def salts(self) -> tuple[int, int]:
        return self.header.salt1, self.header.salt2

    def end_of(self, frames: int) -> int:
        """Byte offset behind frame number ``frames`` of the file (wal-index ``mxFrame``)."""
        return wal.HEADER_SIZE + frames * self.frame_size

    def after(self, found: wal.Scan, frames: int) -> Cursor:
        """The cursor behind the first ``frames`` frames that were found here."""
        return replace(self, end=self.end + frames * self.frame_size, seed=found.seed_after(frames))


@dataclass(frozen=True, slots=True)
class Group:
    """The content of one LTX file."""

    pages: Pages
    """Ascending page numbers."""
    commit: int
    """Pages of the database afterwards."""
    commits: int
    """Transactions in it, at least 1."""
    after: Cursor


def take_group(cursor: Cursor, found: wal.Scan, data: bytes, commit_before: int) -> Group | None:
    """The first group of the frames found at ``cursor``, or None when no commit frame is among them."""
    frames, commits = _cut(cursor, found, data, commit_before)
    if not frames:
        return None
    return Group(found.pages(frames), found.db_size(frames), commits, cursor.after(found, frames))


def _cut(cursor: Cursor, found: wal.Scan, data: bytes, commit_before: int) -> tuple[int, int]:
    """(frames, commits) of the first group."""
    room = max(1, MAX_PAGES_BYTES // cursor.page_size)
    seen: set[int] = set()
    taken, commits, before = 0, 0, commit_before
    for end in found.commit_ends:
        if taken and end > room:  # fewer frames cannot hold more pages than there is room for
            seen.update(found.pgnos[(taken if seen else 0) : end])
            if len(seen) > room:
                break
        size = found.sizes[end - 1]
        commits += not (taken and end == taken + 1 and _is_padding(cursor, found, data, end))
        taken = end
        if commits >= MAX_COMMITS or size < before:
            break
        before = size
    return taken, commits


def _is_padding(cursor: Cursor, found: wal.Scan, data: bytes, end: int) -> bool:
    """Whether the commit frame that ends at frame ``end`` repeats the commit frame before it."""
    last = end - 1
    if found.pgnos[last] != found.pgnos[last - 1] or found.sizes[last] != found.sizes[last - 1]:
        return False
    size = cursor.frame_size
    page = slice(last * size + wal.FRAME_HEADER_SIZE, end * size)
    return data[page] == data[page.start - size : page.stop - size]


def commit_offsets(cursor: Cursor, found: wal.Scan, data: bytes) -> list[int]:
    """Byte offsets behind each transaction that was found at ``cursor``, its padding included, ascending."""
    ends: list[int] = []
    for frames in found.commit_ends:
        if ends and frames == ends[-1] + 1 and _is_padding(cursor, found, data, frames):
            ends[-1] = frames
        else:
            ends.append(frames)
    return [cursor.end + frames * cursor.frame_size for frames in ends]
