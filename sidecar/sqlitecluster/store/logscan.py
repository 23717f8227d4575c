"""Reading the log's segments at a start: what is there, and where each ends.

Rules:
    1. Reading stops at the first record of a segment that is not whole; nothing behind
       it counts, even if it looks valid (a later page may reach the disk before an
       earlier one).
    2. Only the last segment may end without END; elsewhere it is damage and reported.

Used by ``log.NodeLog`` only.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from sqlitecluster.store.record import KIND_END, KIND_LTX, MAGIC, Record, looks_torn, parse


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """The valid records of one segment file."""

    number: int
    path: Path
    records: list[Record]
    end: int
    """Offset behind the last valid record."""
    closed: bool
    """Ended in order: END record or end of file."""
    torn: bool
    """A record starts at ``end`` but is not whole."""
    rotten: bool
    """… and whole ones follow: it was not being written, something changed it."""
    last_sequence: int


def segment_number(path: Path) -> int | None:
    """The number in a segment's file name; None for other files."""
    stem, _, suffix = path.name.partition(".")
    return int(stem) if suffix == "log" and stem.isdigit() else None


def find_segments(folder: Path) -> list[tuple[int, Path]]:
    """All segment files, oldest first."""
    found = [(segment_number(path), path) for path in folder.iterdir()]
    return sorted((number, path) for number, path in found if number is not None)


def read_segment(number: int, path: Path) -> SegmentContent:
    """Read one segment up to its last whole record."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return SegmentContent(number, path, [], 0, True, False, False, 0)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            return _read(number, path, data)


def _read(number: int, path: Path, data: memoryview) -> SegmentContent:
    records: list[Record] = []
    at, last = 0, 0
    while True:
        record = parse(data, at, number)
        if record is None or (last and record.sequence != last + 1):
            closed = at == len(data)
            rotten = not closed and _follows(data, at, number, last)
            return SegmentContent(number, path, records, at, closed, looks_torn(data, at, number), rotten, last)
        if record.kind == KIND_END:
            return SegmentContent(number, path, records, at, True, False, False, last)
        if record.kind == KIND_LTX:
            records.append(record)
        last, at = record.sequence, record.end


def _follows(data: memoryview, at: int, number: int, last: int) -> bool:
    """Whether a whole record that was written later stands behind a damaged one."""
    rest = bytes(data[at + 1 :])
    found = rest.find(MAGIC)
    while found >= 0:
        record = parse(data, at + 1 + found, number)
        if record is not None and record.sequence > last:
            return True
        found = rest.find(MAGIC, found + 1)
    return False
