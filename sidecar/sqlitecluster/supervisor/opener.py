"""The opener: does by path, below the mount point, what the replicator's user may not.

The kernel checks permissions of the mount as on any file system, and programs' databases
are theirs: with ``runAs`` the replicator is nobody special. It asks here, only when it was
refused, for a descriptor (or a stat, an unlink, a folder). The opener is the replicator's
user with one capability, CAP_DAC_OVERRIDE, and nothing else. Tokens of the pod are handed out in
the same way: ``fsGroup`` closes them.

Rules:
    1. Paths are relative to the mount point, walked folder by folder; a link or ``..`` is refused.
       Tokens are files of the configured folders, nothing else.
    2. One request at a time: SQLite runs here when it plays a journal back, and closing any
       other descriptor of that file would release its locks.
    3. Imports are done by a fork, which is a program like any other to the mount.
    4. Its pid is a replicator's to the mount (word OPENER_PID). It holds no ``/dev/fuse``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket

from sqlitecluster.supervisor import datagrams, linux, privileges
from sqlitecluster.supervisor.datagrams import Message

STAT_FIELDS = 10  # what os.stat_result needs
_BUSY_S = 10.0


class Limits:
    """What an opener may touch: files below ``mount_dir``, tokens, and imports' sources below ``data_dir``."""

    __slots__ = ("data_dir", "mount_dir", "token_dirs")

    def __init__(self, mount_dir: str, data_dir: str = "", token_dirs: tuple[str, ...] = ()) -> None:
        self.mount_dir, self.data_dir, self.token_dirs = mount_dir, data_dir, token_dirs


def start(sock: socket.socket, limits: Limits, uid: int, gid: int) -> int:
    """Fork an opener that serves ``sock``; returns its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become_child(parent, sock.fileno(), uid, gid)
            serve(sock, limits)
        finally:
            os._exit(0)
    return pid


def serve(sock: socket.socket, limits: Limits) -> None:
    """Answer until the other end is closed by everybody."""
    while (received := datagrams.receive(sock)) is not None:
        message, _ = received
        answer: Message = {"id": message["id"]}
        fds: list[int] = []
        try:
            if message["op"] == "token":
                fds.append(_token(str(message["path"]), limits.token_dirs))
            else:
                with contextlib.closing(_Place(limits, str(message["path"]))) as place:
                    _WORK[message["op"]](place, message, answer, fds)
        except OSError as error:
            answer["errno"] = error.errno
        datagrams.send(sock, answer, fds)
        for fd in fds:
            os.close(fd)


def _token(path: str, token_dirs: tuple[str, ...]) -> int:
    """A token, for reading. The kubelet's links are followed: nobody else writes there."""
    if os.path.dirname(path) not in token_dirs:
        raise PermissionError(errno.EPERM, "no folder of tokens")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class _Place:
    """The folder that a name stands in, open, and the name."""

    def __init__(self, limits: Limits, path: str) -> None:
        mount_dir, self.data_dir = limits.mount_dir, limits.data_dir
        *folders, self.name = path.split("/")
        if not self.name or any(part in ("", ".", "..") for part in (*folders, self.name)):
            raise PermissionError(errno.EPERM, "no path below the mount point")
        self.path = f"{mount_dir}/{path}"
        self.fd = os.open(mount_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(folder, flags, dir_fd=self.fd)
                os.close(self.fd)
                self.fd = below
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)


def _open(place: _Place, message: Message, answer: Message, fds: list[int]) -> None:
    flags = int(message["flags"]) | os.O_NOFOLLOW | os.O_CLOEXEC
    fds.append(os.open(place.name, flags, int(message["mode"]), dir_fd=place.fd))


def _stat(place: _Place, message: Message, answer: Message, fds: list[int]) -> None:
    answer["stat"] = list(os.stat(place.name, dir_fd=place.fd, follow_symlinks=False))[:STAT_FIELDS]


def _unlink(place: _Place, message: Message, answer: Message, fds: list[int]) -> None:
    os.unlink(place.name, dir_fd=place.fd)


def _mkdir(place: _Place, message: Message, answer: Message, fds: list[int]) -> None:
    os.mkdir(place.name, int(message["mode"]), dir_fd=place.fd)


def _roll_back(place: _Place, message: Message, answer: Message, fds: list[int]) -> None:
    """Let SQLite play a hot journal back."""
    import sqlite3  # not earlier: hardly any opener ever needs it

    url = f"file:{_quoted(place.path)}?mode=rw"
    with contextlib.closing(
        sqlite3.connect(url, uri=True, timeout=min(float(message["waitS"]), _BUSY_S))
    ) as connection:
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.DatabaseError as error:
            answer["failed"] = str(error)


def _import(place: _Place, message: Message, answer: Message, fds: list[int]) -> None:
    """Have a fork copy a database, which takes as long as programs let it; its result comes through a pipe."""
    source, work = str(message["source"]), str(message["work"])
    inside = os.path.realpath(place.data_dir) + "/"
    for path in (source, work):
        if not f"{os.path.realpath(os.path.dirname(path))}/".startswith(inside):
            raise PermissionError(errno.EPERM, "no path below the data directory")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    if os.fork() == 0:
        try:
            linux.die_with_parent(signal.SIGKILL)
            os.closerange(3, writer)
            os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
            signal.alarm(int(message["limitS"]) + 1)
            if os.getppid() == parent:
                from sqlitecluster.replicator import import_child

                result = import_child.run(source, place.path, work, float(message["busyS"]))
                os.write(writer, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(writer)
    fds.append(reader)


_WORK = {"import": _import, "open": _open, "stat": _stat, "unlink": _unlink, "mkdir": _mkdir, "roll-back": _roll_back}


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _become_child(parent: int, keep_fd: int, uid: int, gid: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # ends by end of file, after the replicator
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # imports are not waited for
    linux.name_process("sqlc-opener")
    os.closerange(3, keep_fd)  # above all /dev/fuse and the life-line
    os.closerange(keep_fd + 1, os.sysconf("SC_OPEN_MAX"))
    privileges.drop(uid, gid, keep=privileges.CAP_DAC_OVERRIDE)
    linux.die_with_parent(signal.SIGKILL)  # not earlier: becoming somebody else forgets it
    if os.getppid() != parent:
        os._exit(0)
