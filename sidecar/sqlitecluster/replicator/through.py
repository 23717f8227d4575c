"""Files of the mount by path, for a replicator whose user owns none of them.

Every look-up, open, unlink below the mount point goes through here. First the ordinary
call is made; when the kernel says "permission denied" the supervisor's opener is asked
(``runAs``), which may. Without an opener the error stays.

Rules:
    1. Descriptors are as from ``os.open``: what is done with them needs no further right.
    2. One request at a time, under a lock, with a deadline: any thread may call.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from sqlitecluster.errors import LockTimeout
from sqlitecluster.replicator import import_child

_ANSWER_BYTES: Final = 60_000
_ANSWER_S: Final = 60.0  # a hot journal may be large; the mount itself answers in milliseconds


class Opener:
    """Our end of the opener's socket."""

    def __init__(self, fd: int, mount_dir: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd)
        self._sock.settimeout(_ANSWER_S)
        self._mount_dir = mount_dir
        self._lock = threading.Lock()
        self._number = os.getpid() << 32  # a dead predecessor's answers may still arrive

    def covers(self, path: Path) -> bool:
        """Whether a path is below the mount point."""
        return path.is_relative_to(self._mount_dir)

    def token(self, path: Path) -> int:
        """A descriptor of a token in one of the folders of the configuration."""
        answer, fd = self._request({"op": "token", "path": str(path)})
        return self._checked(answer, fd, path)[1]

    def ask(self, op: str, path: Path, **more: Any) -> tuple[dict[str, Any], int]:
        """One request; returns the answer and its descriptor, or -1.

        Raises:
            OSError: what the kernel told the opener, or ETIMEDOUT.
        """
        answer, fd = self._request({"op": op, "path": str(path.relative_to(self._mount_dir)), **more})
        return self._checked(answer, fd, path)

    @staticmethod
    def _checked(answer: dict[str, Any], fd: int, path: Path) -> tuple[dict[str, Any], int]:
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), str(path))
        return answer, fd

    def _request(self, request: dict[str, Any]) -> tuple[dict[str, Any], int]:
        with self._lock:
            self._number += 1
            self._sock.send(json.dumps({**request, "id": self._number}).encode())
            return self._receive()

    def _receive(self) -> tuple[dict[str, Any], int]:
        while True:
            raw, fds, _flags, _address = socket.recv_fds(self._sock, _ANSWER_BYTES, 4)
            if not raw:
                raise ConnectionError("the opener is gone")
            answer: dict[str, Any] = json.loads(raw)
            for fd in fds:
                os.set_inheritable(fd, False)
            if answer["id"] == self._number:
                return answer, fds[0] if fds else -1
            for fd in fds:
                os.close(fd)


_opener: Opener | None = None


def use(opener: Opener | None) -> None:
    """Set at start, once per process."""
    global _opener
    _opener = opener


def _instead(path: Path) -> Opener:
    """Whom to ask in an ``except PermissionError``; raises it again when there is nobody."""
    if _opener is None or not _opener.covers(path):
        raise  # noqa: PLE0704 – only called while an error is handled
    return _opener


def open_fd(path: Path, flags: int, mode: int = 0o644) -> int:
    """``os.open``, closed on exec."""
    try:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    except PermissionError:
        return _instead(path).ask("open", path, flags=flags, mode=mode)[1]


def stat(path: Path) -> os.stat_result:
    """``os.stat``."""
    try:
        return os.stat(path)
    except PermissionError:
        return os.stat_result(_instead(path).ask("stat", path)[0]["stat"])


def unlink(path: Path) -> None:
    """``os.unlink``."""
    try:
        os.unlink(path)
    except PermissionError:
        _instead(path).ask("unlink", path)


def truncate(path: Path, size: int) -> None:
    """``os.truncate``."""
    fd = open_fd(path, os.O_WRONLY)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a file."""
    fd = open_fd(path, os.O_RDONLY)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def make_folders(folder: Path) -> None:
    """Make a folder of the mount and those above it, unless they are there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        opener = _instead(folder)
        above = [path for path in folder.parents if opener.covers(path)][:-1]
        for path in [*reversed(above), folder]:
            with contextlib.suppress(FileExistsError):
                opener.ask("mkdir", path, mode=0o777)


def run_import(source: Path, target: Path, work: Path, busy_s: float, limit_s: float) -> tuple[int, str]:
    """Run ``import_child`` in a process of its own; its status and words.

    Raises:
        TimeoutError: it did not end in time, and was ended.
    """
    if _opener is not None and _opener.covers(target):
        more = {"source": str(source), "work": str(work), "busyS": busy_s, "limitS": limit_s}
        _, fd = _opener.ask("import", target, **more)
        return _import_result(fd, limit_s)
    command = [sys.executable, "-I", import_child.__file__, str(source), str(target), str(work), str(busy_s)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as late:
        raise TimeoutError("the import took too long") from late
    return done.returncode, done.stderr.strip()


def _import_result(fd: int, limit_s: float) -> tuple[int, str]:
    """What the opener's child writes before it ends; nothing when it was ended."""
    deadline, data = time.monotonic() + limit_s + _ANSWER_S, b""
    poller = select.poll()  # not select(): a node with many databases has more than 1024 descriptors
    poller.register(fd, select.POLLIN)
    with os.fdopen(fd, "rb", buffering=0) as file:
        while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            part = file.read(_ANSWER_BYTES)
            if not part:
                break
            data += part
    if not data:
        raise TimeoutError("the import took too long")
    status, text = json.loads(data)
    return int(status), str(text)


def roll_back(database: Path, wait_s: float) -> None:
    """Let SQLite play a hot journal back, as any reader would; wait for locks so long.

    Raises:
        LockTimeout: it could not.
    """
    if _opener is not None and _opener.covers(database):
        answer, _ = _opener.ask("roll-back", database, waitS=wait_s)
        if "failed" in answer:
            raise LockTimeout(f"a rollback journal could not be played back: {answer['failed']}")
        return
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=wait_s)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        raise LockTimeout(f"a rollback journal could not be played back: {error}") from error
    finally:
        connection.close()
