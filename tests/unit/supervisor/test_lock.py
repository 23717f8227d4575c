"""The lock of the data directory: one node, and the next only when the last process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sqlitecluster.supervisor import lock


def test_a_second_node_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    held = lock.acquire(str(tmp_path))

    with pytest.raises(lock.DataLockedError, match=rf"process {os.getpid()}"):
        lock.acquire(str(tmp_path))
    os.close(held)


def test_the_lock_is_free_after_its_holder(tmp_path: Path) -> None:
    os.close(lock.acquire(str(tmp_path)))

    os.close(lock.acquire(str(tmp_path)))


def test_a_dead_supervisors_children_are_waited_for(tmp_path: Path) -> None:
    """The holder noted in the file is gone, a child of it still has the lock: it is let go a little later."""
    held = lock.acquire(str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[held]
    )
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    os.ftruncate(held, 0)
    os.pwrite(held, f"{gone.pid}\n".encode(), 0)
    os.close(held)
    assert child.stdin is not None
    child.stdin.close()  # it ends soon, and the lock with it

    os.close(lock.acquire(str(tmp_path)))
    child.wait()
