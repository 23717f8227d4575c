"""``<data>/lock``: one node per data directory.

The lock belongs to an open file description that every process which writes the store
inherits. So the next node starts only when the last of them is gone, also after a
SIGKILL of the supervisor.
"""

from __future__ import annotations

import fcntl
import os
import time

DYING_S = 10.0  # how long the processes of a killed supervisor may take to end


class DataLockedError(Exception):
    """Another node uses the data directory; the text is for the user."""


def acquire(data_dir: str) -> int:
    """Lock the data directory for as long as the returned descriptor (or a copy) is open.

    Waits a little only when the supervisor that held it is dead.

    Raises:
        DataLockedError: a node is running there.
    """
    fd = os.open(os.path.join(data_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + DYING_S
    while not _try_lock(fd):
        holder = _holder(fd)
        if _is_running(holder) or time.monotonic() > deadline:
            os.close(fd)
            who = f"process {holder}" if holder else "a starting node"
            raise DataLockedError(f"data directory {data_dir} is in use by another node ({who})")
        time.sleep(0.01)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _is_running(pid: int) -> bool:
    """Whether a process exists and has not ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
