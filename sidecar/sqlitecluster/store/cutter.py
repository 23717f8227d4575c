"""Cutting LTX files from the log: all blobs of a database since the last cut become one file.

Rules:
    1. A segment's blobs are released only after their LTX file is whole and durable.
    2. Blobs of different page sizes, and too many bytes for one file, make several files.
    3. A reset of the chain waits for a running cut (``upkeep``): no blob is released twice.
    4. Blobs of a segment whose sync failed are verified before they are stored anew.
    5. One blob becomes a file as it is, with its WAL fields; joined ones lose them.
    6. A transaction in doubt is a file of its own (``Marks.certain``).

Called by the housekeeper, and by ``NodeStore.close`` for a clean stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from sqlitecluster import failpoints
from sqlitecluster.errors import FormatError, LimitError
from sqlitecluster.ltx import merge
from sqlitecluster.store.chain import verify as check
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.log import NodeLog
from sqlitecluster.store.tail import Entry

MAX_BLOBS: Final = 2048
MAX_BYTES: Final = 16 << 20
_PAGE_SIZE_AT: Final = slice(8, 12)  # in an LTX header


def cut(database: DatabaseStore, log: NodeLog) -> int:
    """Write everything uncut of a database into LTX files; returns the number of files.

    Raises:
        NoSpace: the disk is full; what was not cut stays in the log.
    """
    with database.upkeep:
        return _cut(database, log)


def _cut(database: DatabaseStore, log: NodeLog) -> int:
    files = 0
    for entries, blobs in _groups(database.tail.uncut(), database.certain):
        _write(database, entries, blobs)
        failpoints.hit("cutter.before-release")
        database.tail.mark_cut(entries)
        for segment, blobs_in_it in Counter(entry.place.segment for entry in entries).items():
            log.release(segment, blobs_in_it)
        files += 1
    if files:
        database.state.sync()
    return files


def _write(database: DatabaseStore, entries: list[Entry], blobs: list[bytes]) -> None:
    if len(blobs) == 1:
        database.files.install(0, entries[0].min_txid, entries[0].max_txid, blobs)
        return
    try:
        joined = merge(blobs)
    except (FormatError, LimitError):  # a foreign generation among them: keep each as it came
        for entry, blob in zip(entries, blobs, strict=True):
            database.files.install(0, entry.min_txid, entry.max_txid, (blob,))
        return
    database.files.install(0, entries[0].min_txid, entries[-1].max_txid, (joined,))


def _groups(entries: list[Entry], certain: int) -> Iterator[tuple[list[Entry], list[bytes]]]:
    group: list[Entry] = []
    blobs: list[bytes] = []
    size = 0
    for entry in entries:
        blob = entry.read()
        if blob is None:
            break  # reset meanwhile
        if entry.place.segment.in_doubt:
            check(blob, entry.min_txid, entry.max_txid)  # what could not be synced may not be what was written
        full = len(group) >= MAX_BLOBS or size + len(blob) > MAX_BYTES
        if group and (full or blob[_PAGE_SIZE_AT] != blobs[-1][_PAGE_SIZE_AT] or not _joins(group[-1], entry, certain)):
            yield group, blobs
            group, blobs, size = [], [], 0
        group.append(entry)
        blobs.append(blob)
        size += len(blob)
    if group:
        yield group, blobs


def _joins(before: Entry, after: Entry, certain: int) -> bool:
    """A gap (a large transaction went straight to a file) starts a new file. Snapshots and what is in doubt stay alone.

    Joined with a snapshot, increments would be a snapshot too: whoever needs only them
    would have to take in the whole database.
    """
    return after.min_txid == before.max_txid + 1 and before.min_txid != 1 and after.max_txid <= certain
