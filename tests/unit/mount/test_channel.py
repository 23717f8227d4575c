"""The channel between kernel, our own answers and libfuse; the device is a socket here."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from sqlitecluster.mount.channel import Channel, Ended, Slow

READ, WRITE, GETATTR, READDIRPLUS, INTERRUPT, UNLINK = 15, 16, 3, 44, 36, 10


class Files:
    """Bytes of one file."""

    def __init__(self) -> None:
        self.content = bytearray(b"0123456789")
        self.busy = False

    def read(self, fh: int, offset: int, size: int) -> bytes:
        if fh == 404:
            raise OSError(errno.EBADF, "no such handle")
        return bytes(self.content[offset : offset + size])

    def write(self, fh: int, offset: int, data: memoryview) -> int | None:
        if self.busy:
            return None
        self.content[offset : offset + len(data)] = data
        return len(data)

    async def write_later(self, fh: int, offset: int, data: bytes) -> int:
        self.busy = False
        return self.write(fh, offset, memoryview(data)) or 0

    async def fsync(self, fh: int, *, data_only: bool) -> None:
        raise OSError(errno.ENOSPC, "full")

    def failed(self, error: Exception, name: str) -> int:
        return error.errno or 0 if isinstance(error, OSError) else errno.EIO


class Names:
    """Knows UNLINK only: at once, as an error, later, with no answer owed."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, bytes, list[int]]] = []

    def answer(self, opcode: int, request: memoryview, nodeid: int, caller: Any) -> Any:
        if opcode != UNLINK:
            return None
        self.seen.append((opcode, nodeid, bytes(request[40:]), list(caller)))
        if len(self.seen) == 2:
            raise OSError(errno.ENOENT, "no such name")
        if len(self.seen) in (3, 4):
            return self._later(b"later" if len(self.seen) == 3 else None)
        return b"" if len(self.seen) == 1 else object()

    async def _later(self, body: bytes | None) -> bytes:
        if body is None:
            raise OSError(errno.EIO, "not in time")
        return body


class Rig:
    """A channel whose kernel and library ends the test holds."""

    def __init__(self) -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        device.setblocking(False)
        ours, self.library = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.files, self.names = Files(), Names()
        self.channel = Channel(device.detach(), ours, self.files, self.names)
        self.channel.spawn = run_slow
        self.steps = 0
        self.channel.step = self._step

    def _step(self) -> None:
        self.steps += 1

    def ask(self, opcode: int, body: bytes, unique: int = 7) -> None:
        length = 40 + len(body)
        self.kernel.send(struct.pack("<IIQQIIII", length, opcode, unique, 1, 0, 0, 0, 0) + body)
        assert self.channel.turn()

    def answer(self) -> tuple[int, int, bytes]:
        raw = self.kernel.recv(1 << 16, socket.MSG_DONTWAIT)
        length, error, unique = struct.unpack_from("<IiQ", raw)
        assert length == len(raw)
        return error, unique, raw[16:]

    def close(self) -> None:
        os.close(self.channel.fd)
        self.kernel.close()
        self.library.close()


def run_slow(answer: Slow) -> None:
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration):
        answer.send(None)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def io(fh: int, offset: int, size: int, data: bytes = b"") -> bytes:
    return struct.pack("<QQI", fh, offset, size).ljust(40, b"\0") + data


def test_a_read_is_answered_here(rig: Rig) -> None:
    rig.ask(READ, io(1, 2, 3))
    assert rig.answer() == (0, 7, b"234")
    assert rig.steps == 0


def test_a_write_is_answered_with_its_size(rig: Rig) -> None:
    rig.ask(WRITE, io(1, 4, 2, b"xy"))
    assert rig.answer() == (0, 7, struct.pack("<II", 2, 0))
    assert rig.files.content == b"0123xy6789"


def test_a_write_that_must_wait_keeps_its_own_bytes(rig: Rig) -> None:
    rig.files.busy = True
    kept: list[Any] = []
    rig.channel.spawn = kept.append
    rig.ask(WRITE, io(1, 0, 2, b"ab"), unique=1)
    rig.files.busy = False
    rig.ask(WRITE, io(1, 8, 2, b"zz"), unique=2)  # reuses the buffer
    run_slow(kept[0])
    assert [rig.answer()[1], rig.answer()[1]] == [2, 1]
    assert rig.files.content == b"ab234567zz"


def test_an_error_is_answered_as_its_errno(rig: Rig) -> None:
    rig.ask(READ, io(404, 0, 1))
    assert rig.answer() == (-errno.EBADF, 7, b"")
    rig.ask(20, struct.pack("<QII", 1, 1, 0))
    assert rig.answer() == (-errno.ENOSPC, 7, b"")


def test_everything_else_goes_to_the_library_and_every_answer_comes_back(rig: Rig) -> None:
    rig.ask(GETATTR, b"\0" * 16)
    assert rig.steps == 1
    assert struct.unpack_from("<II", rig.library.recv(1000))[1] == GETATTR
    for unique in (7, 8):
        rig.library.send(struct.pack("<IiQ", 16, 0, unique))
    rig.channel.relay()
    assert [rig.answer()[1], rig.answer()[1]] == [7, 8]
    rig.channel.relay()


def test_interrupts_are_left_out(rig: Rig) -> None:
    rig.ask(INTERRUPT, struct.pack("<Q", 7))
    assert rig.steps == 0


def test_a_listing_is_asked_for_in_pieces_that_the_pair_can_carry(rig: Rig) -> None:
    rig.ask(READDIRPLUS, struct.pack("<QQI", 1, 0, 1 << 20).ljust(40, b"\0"))
    assert struct.unpack_from("<I", rig.library.recv(1000), 56)[0] == 64 << 10


def test_without_a_request_nothing_happens(rig: Rig) -> None:
    assert not rig.channel.turn()


def test_the_end_of_the_connection_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_fd: int, _buffers: object) -> int:
        raise OSError(errno.ENODEV, "unmounted")

    monkeypatch.setattr(os, "readv", gone)
    with pytest.raises(Ended):
        rig.channel.turn()


def test_a_request_about_names_is_answered_here_when_it_is_understood(rig: Rig) -> None:
    rig.ask(UNLINK, b"a-journal\0")
    assert rig.answer() == (0, 7, b"")
    assert rig.names.seen == [(UNLINK, 1, b"a-journal\0", [0, 0, 0])]
    rig.ask(UNLINK, b"a-journal\0")
    assert rig.answer() == (-errno.ENOENT, 7, b"")
    for expected in ((0, 7, b"later"), (-errno.EIO, 7, b"")):
        rig.ask(UNLINK, b"a-journal\0")
        assert rig.answer() == expected
    rig.ask(UNLINK, b"a-journal\0")
    with pytest.raises(BlockingIOError):
        rig.answer()
    assert rig.steps == 0
