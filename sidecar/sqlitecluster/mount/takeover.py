"""Giving pyfuse3 a connection that was mounted, and perhaps served, by another process.

The supervisor mounts with mount(2), reads the kernel's INIT request and keeps its
bytes. libfuse insists on seeing INIT first, so it is given one end of a socket pair,
reads the kept INIT there and answers into the pair. It stays there: ``channel`` hands
it requests, and copies its answers.

Rules:
    1. The kernel gets our own answer, never libfuse's: only we know which features
       libfuse was shown.
    2. A message in the pair may be as long as the longest request.
    3. A successor answers nothing and asks for the unanswered requests again.
    4. Nothing here unmounts; the supervisor owns the mount.

Source: linux/fuse.h; libfuse 3.14 lib/fuse_lowlevel.c (do_init, fuse_session_receive_buf).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_IN_HEADER: Final = struct.Struct("<IIQQIIIHH")  # fuse_in_header: len opcode unique nodeid uid gid pid extlen pad
_INIT_IN: Final = struct.Struct("<IIII")  # major minor max_readahead flags; flags2 follows when INIT_EXT is set
_OUT_HEADER: Final = struct.Struct("<IiQ")
_INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI28x")

OPCODE_INIT: Final = 26
NOTIFY_RESEND: Final = 7

ASYNC_READ: Final = 1 << 0
BIG_WRITES: Final = 1 << 5
DO_READDIRPLUS: Final = 1 << 13
ASYNC_DIO: Final = 1 << 15
PARALLEL_DIROPS: Final = 1 << 18
MAX_PAGES: Final = 1 << 22
EXPLICIT_INVAL_DATA: Final = 1 << 25
INIT_EXT: Final = 1 << 30
HAS_RESEND: Final = 1 << 39

# Not wanted, with the reason: AUTO_INVAL_DATA drops cached pages when a time stamp moves; WRITEBACK_CACHE
# would hide writes from us; POSIX_LOCKS would bring every lock request here; SPLICE_* costs two more system
# calls a request; ATOMIC_O_TRUNC is not needed, a truncation then comes as a request of its own.
_WANTED: Final = (
    ASYNC_READ | BIG_WRITES | DO_READDIRPLUS | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES | EXPLICIT_INVAL_DATA | INIT_EXT
)
_LIBRARY_MINOR: Final = 13  # libfuse reads with splice from 14 on; every message it parses is the same in both
_ANSWER_MINOR: Final = 38
_MAX_BACKGROUND: Final = 64
_MAX_WRITE: Final = 1 << 20  # bytes
_PAGES: Final = 256  # of 4 KiB: the same 1 MiB
_ANSWER_BYTES: Final = 4096
_PAIR_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Init:
    """The kernel's INIT request."""

    raw: bytes
    unique: int
    max_readahead: int
    flags: int

    @classmethod
    def parse(cls, raw: bytes) -> Init:
        """Read the kept bytes.

        Raises:
            ValueError: they are no INIT request of FUSE 7.
        """
        if len(raw) < _IN_HEADER.size + _INIT_IN.size + 4:
            raise ValueError(f"an INIT request has more than {len(raw)} bytes")
        _length, opcode, unique, *_ = _IN_HEADER.unpack_from(raw)
        major, _minor, readahead, flags = _INIT_IN.unpack_from(raw, _IN_HEADER.size)
        if opcode != OPCODE_INIT or major != 7:
            raise ValueError(f"not an INIT request of FUSE 7 (opcode {opcode}, major {major})")
        if flags & INIT_EXT:
            flags |= struct.unpack_from("<I", raw, _IN_HEADER.size + _INIT_IN.size)[0] << 32
        return cls(raw, unique, readahead, flags)

    def for_library(self) -> bytes:
        """The request as libfuse is shown it: an older minor, only the features we want."""
        flags = self.flags & _WANTED
        body = struct.pack("<IIIII", 7, _LIBRARY_MINOR, self.max_readahead, flags & 0xFFFF_FFFF, flags >> 32)
        at = _IN_HEADER.size
        return self.raw[:at] + body + self.raw[at + len(body) :]

    def answer(self, *, resend: bool) -> bytes:
        """What the kernel is told about this file system."""
        flags = self.flags & (_WANTED | (HAS_RESEND if resend else 0))
        body = _INIT_OUT.pack(
            7,
            _ANSWER_MINOR,
            self.max_readahead,
            flags & 0xFFFF_FFFF,
            _MAX_BACKGROUND,
            _MAX_BACKGROUND * 3 // 4,
            _MAX_WRITE,
            1,  # time stamps in ns
            _PAGES,
            0,
            flags >> 32,
        )
        return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), 0, self.unique) + body


def resend_request() -> bytes:
    """The notification that asks the kernel for all unanswered requests again (kernel 6.9)."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, NOTIFY_RESEND, 0)


@dataclass(frozen=True, slots=True)
class Connection:
    """A session that is ready to be polled."""

    fd: int
    """``/dev/fuse``."""
    library: socket.socket
    """Our end of the pair with libfuse's session."""
    resent: bool
    """The kernel was asked for unanswered requests."""


def connect(
    start: Callable[[int], None], step: Callable[[], Any], *, fuse_fd: int, init: bytes, successor: bool, resend: bool
) -> Connection:
    """Bring a libfuse session onto ``fuse_fd``.

    Args:
        start: makes the session on the descriptor it is given (``pyfuse3.init``).
        step: lets the session read and answer one request.
        fuse_fd: the real ``/dev/fuse``; closed here once it is duplicated.
        init: the kernel's INIT as the supervisor kept it.
        successor: another process answered INIT already.
        resend: HAS_RESEND is wanted from the kernel.
    """
    request = Init.parse(init)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PAIR_BYTES)
    start(theirs.detach())
    ours.send(request.for_library())
    step()
    _check(ours.recv(_ANSWER_BYTES))
    resent = False
    if not successor:
        os.write(fuse_fd, request.answer(resend=resend))
    else:
        with contextlib.suppress(OSError):  # a kernel before 6.9 cannot; the supervisor knows
            os.write(fuse_fd, resend_request())
            resent = True
    return Connection(fuse_fd, ours, resent)


def _check(answer: bytes) -> None:
    _length, error, _unique = _OUT_HEADER.unpack_from(answer)
    if error:
        raise OSError(-error, "libfuse refused the kernel's INIT request")
