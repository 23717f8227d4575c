"""The connection to the kernel: requests about bytes are answered here, all others by libfuse.

A commit in WAL mode is nothing but writes, and each costs a round trip of a waiting
program. Answered straight from the device's bytes a write costs half of what it costs
through pyfuse3 (docs/decisions). So this module reads ``/dev/fuse`` itself, answers
READ, WRITE and FSYNC, and hands everything else to pyfuse3's session over a socket
pair, whose answers it copies back.

Rules:
    1. The session never sees the device. One message in the pair is one request or
       one answer, and every request that is handed over is followed by a step of a worker.
    2. The buffer belongs to one request at a time: what outlives its turn is copied.
    3. Interrupts are left out: no handler could end early, and libfuse would answer them between other answers.
    4. A failing answer means that the request is gone (ENOENT): nothing is owed any more.

Source: linux/fuse.h, protocol 7.38.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

_HEADER: Final = struct.Struct("<IIQQIII4x")  # len opcode unique nodeid uid gid pid
_BYTES_IN: Final = struct.Struct("<QQI")  # fh offset size, of READ and WRITE
_SYNC_IN: Final = struct.Struct("<QI")  # fh flags
_SIZE: Final = struct.Struct("<I")
_ANSWER: Final = struct.Struct("<IiQ")  # len error unique
_WRITE_ANSWER: Final = struct.Struct("<IiQII")  # the same, size, padding
_INVALIDATE: Final = struct.Struct("<IiQQqq")  # the same, ino, offset, length
_READ, _WRITE, _FSYNC, _READDIR, _INTERRUPT, _READDIRPLUS = 15, 16, 20, 28, 36, 44
_SIZE_AT: Final = 56  # of a READDIR's answer, within the request
_LISTING_BYTES: Final = 64 << 10  # what the pair carries whatever the limits of its buffers are
_FSYNC_DATA_ONLY: Final = 1
_NOTIFY_INVAL_INODE: Final = 2
_WRITE_AT: Final = 80  # bytes before the data of a WRITE
_BUFFER_BYTES: Final = (1 << 20) + 4096  # max_write and the headers

Slow = Coroutine[Any, Any, None]


class Bytes(Protocol):
    """What answers requests about bytes; errors are OSErrors."""

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """Bytes of an open file."""

    def write(self, fh: int, offset: int, data: memoryview) -> int | None:
        """Write; None: ask ``write_later`` with a copy."""

    async def write_later(self, fh: int, offset: int, data: bytes) -> int:
        """Write once what it waits for has happened."""

    async def fsync(self, fh: int, *, data_only: bool) -> None:
        """Make a file durable."""

    def failed(self, error: Exception, name: str) -> int:
        """The errno for an error; logs what is a bug."""


class Names(Protocol):
    """What answers requests about names and handles."""

    def answer(self, opcode: int, request: memoryview, nodeid: int, caller: Sequence[int]) -> object:
        """The answer's bytes, a coroutine that gives them, None: ask the session; anything else: no answer is owed.

        Raises:
            OSError: that is the answer.
        """


class Ended(Exception):
    """The kernel closed the connection."""


class Channel:
    """Requests in, answers out."""

    def __init__(self, fd: int, library: socket.socket, files: Bytes, names: Names) -> None:
        """``fd``: ``/dev/fuse``, non-blocking. ``library``: our end of the pair."""
        self.fd = fd
        self._library = library
        self._files = files
        self._names = names
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._into = [self._buffer]
        self._back = memoryview(bytearray(_BUFFER_BYTES))
        self._write_answer = bytearray(_WRITE_ANSWER.size)
        self.step: Callable[[], None] = lambda: None
        self.spawn: Callable[[Slow], None] = lambda _slow: None

    def turn(self) -> bool:
        """Handle one request; False when there is none.

        Raises:
            Ended: the connection is gone.
        """
        try:
            length = os.readv(self.fd, self._into)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise Ended from None
            return error.errno == errno.ENOENT  # a request that was given up while it was being read
        _, opcode, unique, nodeid, *caller = _HEADER.unpack_from(self._buffer)
        if opcode == _WRITE:
            self._write(unique)
        elif opcode == _READ:
            self._read(unique)
        elif opcode == _FSYNC:
            fh, flags = _SYNC_IN.unpack_from(self._buffer, _HEADER.size)
            self.spawn(self._fsync(unique, fh, data_only=bool(flags & _FSYNC_DATA_ONLY)))
        elif self._answered(unique, opcode, self._view[:length], nodeid, caller):
            pass
        elif opcode != _INTERRUPT:
            if opcode in (_READDIR, _READDIRPLUS):
                self._limit_listing()
            self._library.send(self._view[:length])
            self.step()
        return True

    def _answered(self, unique: int, opcode: int, request: memoryview, nodeid: int, caller: Sequence[int]) -> bool:
        """Answer a request about names; False leaves it to the session."""
        try:
            answer = self._names.answer(opcode, request, nodeid, caller)
        except Exception as error:  # a request's top
            self._fail(unique, error, f"request {opcode}")
            return True
        if answer is None:
            return False
        if isinstance(answer, bytes):
            self._send(_ANSWER.pack(_ANSWER.size + len(answer), 0, unique) + answer)
        elif isinstance(answer, Coroutine):
            self.spawn(self._answer(unique, answer, opcode))
        return True

    def relay(self) -> None:
        """Copy the session's answers to the kernel, if it gave any (FORGET has none)."""
        while True:
            try:
                length = self._library.recv_into(self._back, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._send(self._back[:length])

    def invalidate(self, ino: int) -> None:
        """[any thread but the driver's] Let the kernel drop the cached pages of an inode."""
        self._send(_INVALIDATE.pack(_INVALIDATE.size, _NOTIFY_INVAL_INODE, 0, ino, 0, 0))

    def _limit_listing(self) -> None:
        (size,) = _SIZE.unpack_from(self._buffer, _SIZE_AT)
        _SIZE.pack_into(self._buffer, _SIZE_AT, min(size, _LISTING_BYTES))

    def _write(self, unique: int) -> None:
        fh, offset, size = _BYTES_IN.unpack_from(self._buffer, _HEADER.size)
        try:
            done = self._files.write(fh, offset, self._view[_WRITE_AT : _WRITE_AT + size])
        except Exception as error:  # a request's top
            self._fail(unique, error, "write")
            return
        if done is None:
            data = bytes(self._view[_WRITE_AT : _WRITE_AT + size])
            self.spawn(self._write_later(unique, fh, offset, data))
            return
        answer = self._write_answer
        _WRITE_ANSWER.pack_into(answer, 0, 24, 0, unique, done, 0)
        self._send(answer)

    async def _write_later(self, unique: int, fh: int, offset: int, data: bytes) -> None:
        try:
            done = await self._files.write_later(fh, offset, data)
        except Exception as error:  # a request's top
            self._fail(unique, error, "write")
            return
        self._send(_WRITE_ANSWER.pack(_WRITE_ANSWER.size, 0, unique, done, 0))

    def _read(self, unique: int) -> None:
        fh, offset, size = _BYTES_IN.unpack_from(self._buffer, _HEADER.size)
        try:
            data = self._files.read(fh, offset, size)
        except Exception as error:  # a request's top
            self._fail(unique, error, "read")
            return
        self._send(_ANSWER.pack(_ANSWER.size + len(data), 0, unique) + data)

    async def _fsync(self, unique: int, fh: int, *, data_only: bool) -> None:
        try:
            await self._files.fsync(fh, data_only=data_only)
        except Exception as error:  # a request's top
            self._fail(unique, error, "fsync")
            return
        self._send(_ANSWER.pack(_ANSWER.size, 0, unique))

    async def _answer(self, unique: int, answer: Coroutine[Any, Any, bytes], opcode: int) -> None:
        try:
            body = await answer
        except Exception as error:  # a request's top
            self._fail(unique, error, f"request {opcode}")
            return
        self._send(_ANSWER.pack(_ANSWER.size + len(body), 0, unique) + body)

    def _fail(self, unique: int, error: Exception, name: str) -> None:
        self._send(_ANSWER.pack(_ANSWER.size, -self._files.failed(error, name), unique))

    def _send(self, message: bytes | bytearray | memoryview) -> None:
        with contextlib.suppress(OSError):
            os.write(self.fd, message)
