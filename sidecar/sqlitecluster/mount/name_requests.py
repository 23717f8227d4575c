"""Requests about names and handles that SQLite makes for each transaction, answered without libfuse.

Called by ``channel`` with the bytes of a request. In a rollback mode a commit looks its
journal up, makes, stats and removes it: ten requests, each of which costs three times
as much through pyfuse3's session (docs/decisions). Only bytes are translated here: the
methods of ``operations`` answer, as they do for pyfuse3.

Rules:
    1. A request that is not understood to its last flag is left to pyfuse3.
    2. The buffer is read before the first wait.

Source: linux/fuse.h, protocol 7.38.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import pyfuse3

from sqlitecluster.mount.attributes import Shown
from sqlitecluster.mount.operations import Operations

_LOOKUP, _FORGET, _GETATTR, _SETATTR, _UNLINK, _OPEN, _RELEASE = 1, 2, 3, 4, 10, 14, 18
_OPENDIR, _RELEASEDIR, _FSYNCDIR, _CREATE, _BATCH_FORGET = 27, 29, 30, 35, 42

_BODY: Final = 40  # where a request's own part begins
_WORD: Final = struct.Struct("<Q")
_FLAGS: Final = struct.Struct("<II")
_FORGET_ONE: Final = struct.Struct("<QQ")  # inode, lookups
_SETATTR_IN: Final = struct.Struct("<I84x")  # which fields
_CREATE_IN: Final = struct.Struct("<IIII")  # flags mode umask open flags
_ATTRIBUTES: Final = struct.Struct("<6Q10I")
_GETATTR_OUT: Final = struct.Struct("<QII")  # seconds and nanoseconds of validity
_ENTRY_OUT: Final = struct.Struct("<QQQQII")  # inode generation, validity of entry and attributes
_OPEN_OUT: Final = struct.Struct("<QII")  # handle, flags

_OWNER_FIELDS: Final = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 6 | 1 << 10 | 1 << 11  # mode uid gid handle ctime kill-suid
_DIRECT_IO: Final = 1
_KEEP_CACHE: Final = 2
_SECOND: Final = 1_000_000_000
_BLOCK: Final = 4096


class Silent(Enum):
    """What FORGET is answered."""

    NOTHING = 0


Answer = bytes | Silent | Coroutine[Any, Any, bytes] | None
"""None: pyfuse3 shall answer; a coroutine: it may have to wait."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; has what the methods use of pyfuse3's ``RequestContext``."""

    uid: int
    gid: int
    pid: int


class NameRequests:
    """Answers from the node's ``Operations``; none of them waits unless it says so by a coroutine."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._known: dict[int, Callable[[memoryview, int, Sequence[int]], Answer]] = {
            _LOOKUP: self._lookup,
            _FORGET: self._forget,
            _BATCH_FORGET: self._batch_forget,
            _GETATTR: self._getattr,
            _SETATTR: self._setattr,
            _UNLINK: self._unlink,
            _OPEN: self._open,
            _RELEASE: self._release,
            _OPENDIR: self._opendir,
            _RELEASEDIR: self._releasedir,
            _FSYNCDIR: self._fsyncdir,
            _CREATE: self._create,
        }

    def answer(self, opcode: int, request: memoryview, nodeid: int, caller: Sequence[int]) -> Answer:
        """The answer's bytes, or what gives them.

        Raises:
            OSError: that is the answer.
        """
        method = self._known.get(opcode)
        return None if method is None else method(request, nodeid, caller)

    def _lookup(self, request: memoryview, nodeid: int, _caller: Sequence[int]) -> Answer:
        return pack_entry(self._operations.find(nodeid, _name(request, _BODY)))

    def _forget(self, request: memoryview, nodeid: int, _caller: Sequence[int]) -> Answer:
        (lookups,) = _WORD.unpack_from(request, _BODY)
        self._operations.forgotten([(nodeid, lookups)])
        return Silent.NOTHING

    def _batch_forget(self, request: memoryview, _nodeid: int, _caller: Sequence[int]) -> Answer:
        (count, _unused) = _FLAGS.unpack_from(request, _BODY)
        pairs = request[_BODY + 8 : _BODY + 8 + count * _FORGET_ONE.size]
        self._operations.forgotten(list(_FORGET_ONE.iter_unpack(pairs)))
        return Silent.NOTHING

    def _getattr(self, _request: memoryview, nodeid: int, _caller: Sequence[int]) -> Answer:
        return _attributes(self._operations.show(nodeid))

    def _setattr(self, request: memoryview, nodeid: int, _caller: Sequence[int]) -> Answer:
        """Owner and mode of a database's side file, which show the database's: SQLite sets them after each create."""
        (fields,) = _SETATTR_IN.unpack_from(request, _BODY)
        if fields & ~_OWNER_FIELDS or not self._operations.shows_its_database(nodeid):
            return None
        return _attributes(self._operations.show(nodeid))

    def _unlink(self, request: memoryview, nodeid: int, caller: Sequence[int]) -> Answer:
        self._operations.remove(nodeid, _name(request, _BODY), _context(caller))
        return b""

    def _open(self, request: memoryview, nodeid: int, caller: Sequence[int]) -> Answer:
        (flags, _open_flags) = _FLAGS.unpack_from(request, _BODY)
        return _opened(self._operations.open(nodeid, flags, _context(caller)))

    def _release(self, request: memoryview, _nodeid: int, _caller: Sequence[int]) -> Answer:
        (fh,) = _WORD.unpack_from(request, _BODY)
        self._operations.close(fh)
        return b""

    def _opendir(self, _request: memoryview, nodeid: int, _caller: Sequence[int]) -> Answer:
        return _OPEN_OUT.pack(self._operations.open_directory(nodeid), 0, 0)

    def _releasedir(self, request: memoryview, _nodeid: int, _caller: Sequence[int]) -> Answer:
        (fh,) = _WORD.unpack_from(request, _BODY)
        self._operations.close_directory(fh)
        return b""

    def _fsyncdir(self, request: memoryview, _nodeid: int, caller: Sequence[int]) -> Answer:
        kept = self._operations.to_settle(_context(caller).pid)
        if not kept and self._operations.names_are_durable():
            return b""
        (fh,) = _WORD.unpack_from(request, _BODY)
        return _empty(self._operations.settle_names(kept, fh))

    def _create(self, request: memoryview, nodeid: int, caller: Sequence[int]) -> Answer:
        flags, mode, _umask, _open_flags = _CREATE_IN.unpack_from(request, _BODY)
        name = _name(request, _BODY + _CREATE_IN.size)
        info, shown = self._operations.make(nodeid, name, mode, flags, _context(caller))
        return pack_entry(shown) + pack_open(info)


def _context(caller: Sequence[int]) -> Any:
    return Caller(*caller)


def _name(request: memoryview, at: int) -> bytes:
    return bytes(request[at:]).partition(b"\0")[0]


async def _empty(done: Awaitable[None]) -> bytes:
    await done
    return b""


async def _opened(info: Awaitable[pyfuse3.FileInfo]) -> bytes:
    return pack_open(await info)


def _attributes(shown: Shown) -> bytes:
    seconds, rest = _timeout(shown.attr_timeout)
    return _GETATTR_OUT.pack(seconds, rest, 0) + pack_attributes(shown)


def pack_entry(entry: Shown) -> bytes:
    """``fuse_entry_out``; an entry without an inode says that there is no such name."""
    seconds, rest = _timeout(entry.entry_timeout)
    attr_seconds, attr_rest = _timeout(entry.attr_timeout)
    ino = entry.st_ino
    return _ENTRY_OUT.pack(ino, 0, seconds, attr_seconds, rest, attr_rest) + pack_attributes(entry)


def pack_attributes(entry: Shown) -> bytes:
    """``fuse_attr``."""
    accessed, accessed_ns = divmod(entry.st_atime_ns, _SECOND)
    modified, modified_ns = divmod(entry.st_mtime_ns, _SECOND)
    changed, changed_ns = divmod(entry.st_ctime_ns, _SECOND)
    return _ATTRIBUTES.pack(
        entry.st_ino, entry.st_size, entry.st_blocks, accessed, modified, changed,
        accessed_ns, modified_ns, changed_ns,
        entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, 0, _BLOCK, 0,
    )  # fmt: skip


def pack_open(info: pyfuse3.FileInfo) -> bytes:
    """``fuse_open_out``."""
    flags = (_DIRECT_IO if info.direct_io else 0) | (_KEEP_CACHE if info.keep_cache else 0)
    return _OPEN_OUT.pack(info.fh, flags, 0)


def _timeout(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * _SECOND)
