"""Where an fsync runs: here and now, or in a thread while its request waits.

A thread costs two switches, as much as a fast disk's fsync itself; a slow fsync here
stops every database. So: here only when the last one of this file was fast and no
other database is syncing too.
"""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING, Final

from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.parking import Job

if TYPE_CHECKING:
    from sqlitecluster.mount.files import File

_FAST_NS: Final = 2_000_000
_ALONE_NS: Final = 10_000_000  # others that synced within this time would like to do it at once


class Syncing:
    """Decides by what was measured."""

    __slots__ = ("_last", "_last_ns", "_took_ns")

    def __init__(self) -> None:
        self._last = ""
        self._last_ns = 0
        # By database and kind, not by file: a journal is a new file in each transaction. All other files share one.
        self._took_ns: dict[tuple[str, Kind], int] = {}

    async def sync(self, file: File, *, data_only: bool, always: bool = False) -> None:
        """Make a file durable; if it says that this has nothing to do, only when ``always``."""
        if not always and not file.needs_sync():
            return
        file.descriptor()
        owner = file.database.name if file.database is not None else ""
        call = functools.partial(self._timed, (owner, file.kind), file, data_only=data_only)
        started = time.monotonic_ns()
        alone = owner == self._last or started - self._last_ns > _ALONE_NS
        self._last, self._last_ns = owner, started
        if alone and self._took_ns.get((owner, file.kind), _FAST_NS) < _FAST_NS:
            call()
        else:
            file.pins += 1
            try:
                await Job(call)
            finally:
                file.pins -= 1
        file.synced()
        if file.kind is Kind.JOURNAL:  # file systems keep the order of names: what was removed before is durable now
            file.context.journals_removed.discard(os.path.dirname(file.path))

    def _timed(self, key: tuple[str, Kind], file: File, *, data_only: bool) -> None:
        # Only the disk's part: what a thread's start took says nothing about the next sync.
        started = time.monotonic_ns()
        file.sync(data_only=data_only)
        self._took_ns[key] = time.monotonic_ns() - started


def sync_folder(path: str) -> None:
    """Make the names in a folder durable; one that is gone needs nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
