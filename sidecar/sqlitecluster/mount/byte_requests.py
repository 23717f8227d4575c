"""READ, WRITE and FSYNC on open handles: the hot half of the edge, called by ``channel``.

Rules: no lookup by name, no decorator, no coroutine unless something must be waited for.
"""

from __future__ import annotations

import errno

from sqlitecluster.mount import handles, virtual
from sqlitecluster.mount.answers import errno_of
from sqlitecluster.mount.handles import Handle
from sqlitecluster.mount.operations import Operations
from sqlitecluster.shared import State


class ByteRequests:
    """Answers from the handles that ``Operations`` gave out."""

    def __init__(self, operations: Operations, state: State) -> None:
        self._operations = operations
        self._handles = operations.handles
        self._state = state
        self._syncing = operations.syncing

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """READ."""
        if fh & virtual.INODE_BIT:
            content = virtual.content(self._state, handles.ino_of(fh))
            return (content or b"")[offset : offset + size]
        handle = self._handles.get(fh) or self._operations.handle(fh)
        if handle.poisoned:
            _refuse(handle)
        return handle.file.read(offset, size)

    def write(self, fh: int, offset: int, data: memoryview) -> int | None:
        """WRITE."""
        handle = self._handles.get(fh) or self._operations.handle(fh)
        if handle.poisoned:
            _refuse(handle)
        return handle.file.write(offset, data, privileged=handle.privileged)

    async def write_later(self, fh: int, offset: int, data: bytes) -> int:
        """WRITE that must wait for capture."""
        handle = self._operations.handle(fh)
        while True:
            await handle.file.settled()
            if handle.poisoned:
                _refuse(handle)
            done = handle.file.write(offset, memoryview(data), privileged=handle.privileged)
            if done is not None:
                return done

    async def fsync(self, fh: int, *, data_only: bool) -> None:
        """FSYNC; with ``synchronous=FULL`` its answer is what a program takes for the end of its commit."""
        handle = self._operations.handle(fh)
        await self._syncing.sync(handle.file, data_only=data_only)
        if handle.writing and not handle.privileged and handle.file.database is not None:
            await handle.file.acknowledged()
            handle.file.context.check_fence()

    def failed(self, error: Exception, name: str) -> int:
        """The errno for an error."""
        return errno_of(error, name)


def _refuse(_handle: Handle) -> None:
    raise OSError(errno.EIO, "the database was replaced")
