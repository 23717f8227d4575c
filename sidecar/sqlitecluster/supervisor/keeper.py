"""The keeper: a process that only holds descriptors of files of the mount.

Role locks belong to open file descriptions. The replicator sends a duplicate of each
lock descriptor here, so that the locks live on when it dies and its successor adopts
them. The keeper owns the supervisor's end of the replicator's socket: it serves
``keep`` and ``drop`` itself and passes everything else on. It is a fork of the
supervisor, a process of its own because of rule 2 in the package's docstring.

Messages from the supervisor: ``serve`` (with a replicator's socket; what is kept is
sent there first, if ``offer``), ``clear`` (the connection is gone) and end of file
(stop). Messages to it carry the ``serving`` number of the replicator they come from.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

from sqlitecluster.supervisor import datagrams, linux
from sqlitecluster.supervisor.datagrams import Message

KEPT_MAX = 65_536  # descriptors; three for each of 8,192 databases fit well


def start() -> tuple[int, socket.socket]:
    """Fork the keeper; returns its pid and our end of its socket."""
    ours, theirs = datagrams.pair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become_child(parent, keep_fd=theirs.fileno())
            Keeper(theirs).run()
        finally:
            os._exit(0)
    theirs.close()
    return pid, ours


class Keeper:
    """The kept descriptors and the two sockets they concern."""

    def __init__(self, supervisor: socket.socket) -> None:
        self.kept: dict[str, int] = {}
        self._supervisor = supervisor
        self._replicator: socket.socket | None = None
        self._serving = 0

    def run(self) -> None:
        """Serve until the supervisor closes its end."""
        while True:
            sockets = [self._supervisor] if self._replicator is None else [self._supervisor, self._replicator]
            ready, _, _ = select.select(sockets, [], [])
            if self._replicator in ready:
                self._on_replicator(self._replicator)
            if self._supervisor in ready and not self._on_supervisor():
                return

    def _on_supervisor(self) -> bool:
        received = datagrams.receive(self._supervisor)
        if received is None:
            return False
        message, fds = received
        if message["op"] == "clear":
            self._forget_replicator()
            for key in list(self.kept):
                _close(self.kept.pop(key))
        elif message["op"] == "serve":
            self._take_last_words()
            self._replicator, self._serving = socket.socket(fileno=fds[0]), message["serving"]
            if message["offer"]:
                self._offer(self._replicator)
        return True

    def _take_last_words(self) -> None:
        """Read what a dead replicator sent and nobody has read yet: it may be a lock to keep."""
        if self._replicator is not None:
            self._replicator.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._replicator is not None:
                self._on_replicator(self._replicator)
        self._forget_replicator()

    def _offer(self, replicator: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it died meanwhile; the next one is offered the same
            for key, fd in self.kept.items():
                datagrams.send(replicator, {"op": "kept", "key": key}, [fd])
            datagrams.send(replicator, {"op": "kept-end"})

    def _on_replicator(self, replicator: socket.socket) -> None:
        received = datagrams.receive(replicator)
        if received is None:
            self._forget_replicator()
            return
        message, fds = received
        if message["op"] in ("keep", "drop"):
            self._change(message, fds)
        else:
            datagrams.send(self._supervisor, {**message, "serving": self._serving})

    def _change(self, message: Message, fds: list[int]) -> None:
        key = str(message["key"])
        old = self.kept.pop(key, None)
        if old is not None:
            _close(old)
        if message["op"] == "keep" and fds:
            if len(self.kept) >= KEPT_MAX:
                raise OverflowError(f"more than {KEPT_MAX} kept descriptors")
            self.kept[key] = fds[0]

    def _forget_replicator(self) -> None:
        if self._replicator is not None:
            self._replicator.close()
            self._replicator = None


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # of a mount that is gone: it is closed all the same
        os.close(fd)


def _become_child(parent: int, *, keep_fd: int) -> None:
    linux.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # ends by end of file, after everybody else
    linux.name_process("sqlc-keeper")
    os.closerange(3, keep_fd)  # above all /dev/fuse and the life-line
    os.closerange(keep_fd + 1, os.sysconf("SC_OPEN_MAX"))
