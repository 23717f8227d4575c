"""Workers for tests of the supervisor alone: a mount of one file, and a replicator that keeps a lock.

``main`` is what the supervisor starts instead of ``sqlitecluster.template``. The fake
mount speaks the kernel's protocol by hand, so that nothing of the real one is needed.
``FAKE_MOUNT=crash`` makes it end at once; ``FAKE_MODULES`` names what to import first.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys

from sqlitecluster import template
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.supervisor import datagrams
from sqlitecluster.supervisor.datagrams import Message

CONTENT = b"served\n"
_LONG_S = 3600
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_OPENDIR, _READDIR, _RELEASEDIR, _BATCH_FORGET = 27, 28, 29, 42
_NOTIFY_RESEND = 7
_ROOT, _FILE = 1, 2


def _attributes(ino: int) -> bytes:
    mode, size = (0o40755, 0) if ino == _ROOT else (0o100644, len(CONTENT))
    return struct.pack("<QQQQQQ10I", ino, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class FakeMount:
    """One file ``f`` with a fixed content."""

    def __init__(self, fuse: int) -> None:
        self.fuse = fuse

    def begin(self, init: bytes, *, successor: bool) -> None:
        """Answer INIT, or ask the kernel for what the predecessor left unanswered."""
        if successor:
            os.write(self.fuse, struct.pack("<IiQ", 16, _NOTIFY_RESEND, 0))
        else:
            (unique,) = struct.unpack_from("<Q", init, 8)
            self.answer(unique, struct.pack("<IIIIHHIIHH32x", 7, 31, 1 << 17, 0, 12, 10, 1 << 17, 1, 32, 0))

    def serve(self, lifeline: int) -> None:
        """Answer until the connection or the supervisor ends."""
        poll = select.poll()
        poll.register(self.fuse, select.POLLIN)
        poll.register(lifeline, select.POLLIN)
        while lifeline not in [fd for fd, _ in poll.poll()]:
            try:
                request = os.read(self.fuse, 1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                return
            self.handle(request)

    def handle(self, request: bytes) -> None:
        """One request."""
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        body = request[40:]
        if opcode == _LOOKUP and body == b"f\0":
            self.answer(unique, struct.pack("<QQQQII", _FILE, 0, _LONG_S, _LONG_S, 0, 0) + _attributes(_FILE))
        elif opcode == _LOOKUP:
            self.fail(unique, errno.ENOENT)
        elif opcode == _GETATTR:
            self.answer(unique, struct.pack("<QII", _LONG_S, 0, 0) + _attributes(node))
        elif opcode in (_OPEN, _OPENDIR):
            self.answer(unique, struct.pack("<QII", node, int(opcode == _OPEN), 0))  # 1: direct I/O
        elif opcode == _READ:
            self.answer(unique, CONTENT[struct.unpack_from("<Q", body, 8)[0] :])
        elif opcode == _STATFS:
            self.answer(unique, bytes(80))
        elif opcode in (_RELEASE, _RELEASEDIR, _READDIR):
            self.answer(unique)
        elif opcode not in (_FORGET, _BATCH_FORGET):
            self.fail(unique, errno.ENOSYS)

    def answer(self, unique: int, data: bytes = b"") -> None:
        """Success."""
        self._write(struct.pack("<IiQ", 16 + len(data), 0, unique) + data)

    def fail(self, unique: int, code: int) -> None:
        """An error."""
        self._write(struct.pack("<IiQ", 16, -code, unique))

    def _write(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the asker has gone
            os.write(self.fuse, message)


def run_mount(config: NodeConfig, fds: dict[str, int], message: Message) -> None:
    """The fake mount process."""
    if os.environ.get("FAKE_MOUNT") == "crash":
        sys.exit(3)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    mount = FakeMount(fds["fuse"])
    mount.begin(base64.b64decode(message["init"]), successor=message["successor"])
    datagrams.send(socket.socket(fileno=fds["sup"]), {"op": "ready"})
    mount.serve(fds["lifeline"])


def run_replicator(config: NodeConfig, fds: dict[str, int], message: Message) -> None:
    """The fake replicator: keeps one more descriptor at each start and tells how many there were."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    supervisor = socket.socket(fileno=fds["sup"])
    kept = []
    while (received := datagrams.receive(supervisor)) is not None and received[0]["op"] == "kept":
        kept.append(received[0]["key"])
    fd = os.open(config.mount_dir / "f", os.O_RDONLY)
    datagrams.send(supervisor, {"op": "keep", "key": str(len(kept))}, [fd])
    (config.data_dir / "kept").write_text(" ".join(kept))
    datagrams.send(supervisor, {"op": "ready"})
    datagrams.send(supervisor, {"op": "state", "text": "in-sync"})
    while datagrams.receive(supervisor) is not None:
        pass


def run_prepare(config: NodeConfig, fds: dict[str, int], message: Message) -> None:
    """The fake recovery of the store: fails when told so."""
    if (config.data_dir / "broken").exists():
        sys.exit(9)


def main() -> int:
    """Instead of ``sqlitecluster.template.main``."""
    workers: dict[str, template.Work] = {"mount": run_mount, "replicator": run_replicator, "prepare": run_prepare}
    return template.main(workers, os.environ.get("FAKE_MODULES", "").split())
