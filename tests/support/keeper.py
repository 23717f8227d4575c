"""A stand-in for the supervisor: keeps lock descriptors while one replicator follows another.

``Keeper.run(folder)`` starts ``python -m support.apply_child``, which applies every file
of ``folder/ltx`` and ends, or dies at an armed failpoint.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

_LIMIT_S = 120


class Keeper:
    """Runs replicator processes one after the other."""

    def __init__(self, folder: Path, state_fd: int) -> None:
        self.folder = folder
        self.kept: dict[str, int] = {}
        self._state_fd = state_fd
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir(parents=True, exist_ok=True)

    def arm(self, name: str) -> None:
        (self.failpoints / name).touch()

    def run(self) -> int:
        """The exit code of one replicator process; negative when a signal ended it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for key, fd in self.kept.items():
            socket.send_fds(ours, [json.dumps({"op": "kept", "key": key}).encode()], [fd])
        ours.send(json.dumps({"op": "kept-end"}).encode())
        child = subprocess.Popen(
            [sys.executable, "-m", "support.apply_child", str(self.folder), str(self._state_fd), str(theirs.fileno())],
            pass_fds=(self._state_fd, theirs.fileno()),
            env={
                **os.environ,
                "SQLITECLUSTER_FAILPOINTS": str(self.failpoints),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
        )
        theirs.close()
        while self._take(ours):
            pass
        ours.close()
        return child.wait(_LIMIT_S)

    def _take(self, ours: socket.socket) -> bool:
        data, fds, _flags, _address = socket.recv_fds(ours, 60_000, 4)
        if not data:
            return False
        message = json.loads(data)
        if message["op"] in ("keep", "drop"):
            old = self.kept.pop(message["key"], None)
            if old is not None:
                os.close(old)
        if message["op"] == "keep":
            self.kept[message["key"]] = fds[0]
        return True

    def close(self) -> None:
        """Let every kept lock go."""
        for fd in self.kept.values():
            os.close(fd)
        self.kept.clear()
