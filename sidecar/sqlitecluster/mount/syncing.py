"""Where an fsync runs: here and now, or in a thread while its request waits.

A thread costs two switches, as much as a fast disk's fsync itself; a slow fsync here
stops every database. So: here only when the last one of this file was fast and no
other database is syncing too.
"""

from __future__ import annotations

import functools
import time
from typing import Final

from sqlitecluster.mount.files import File
from sqlitecluster.mount.parking import Job

_FAST_NS: Final = 2_000_000
_ALONE_NS: Final = 10_000_000  # others that synced within this time would like to do it at once


class Syncing:
    """Decides by what was measured."""

    __slots__ = ("_last", "_last_ns")

    def __init__(self) -> None:
        self._last = ""
        self._last_ns = 0

    async def sync(self, file: File, *, data_only: bool) -> None:
        """Make a file durable."""
        file.descriptor()
        owner = file.database.name if file.database is not None else file.name
        started = time.monotonic_ns()
        alone = owner == self._last or started - self._last_ns > _ALONE_NS
        self._last, self._last_ns = owner, started
        if alone and 0 < file.sync_ns < _FAST_NS:
            file.sync(data_only=data_only)
        else:
            file.pins += 1
            try:
                await Job(functools.partial(file.sync, data_only=data_only))
            finally:
                file.pins -= 1
        file.sync_ns = max(1, time.monotonic_ns() - started)
