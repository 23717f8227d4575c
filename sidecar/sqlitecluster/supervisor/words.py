"""The few words of the shared memory that the supervisor writes.

``sqlitecluster.shared`` owns the layout but needs numpy, which the supervisor does
without; a test compares these constants with it.
"""

from __future__ import annotations

import mmap
import os

SIZE = 12_587_008  # bytes of the shared memory

MOUNT_SLEEPING = 5
REPLICATOR_SLEEPING = 6
REPLICATOR_PID = 3
MOUNT_PID = 4
MOUNT_GENERATION = 10
REMOUNTS = 11
RESENDING = 12
STOPPING = 13
OPENER_PID = 24


class SharedWords:
    """The shared memory and the two bells, as the supervisor sees them."""

    def __init__(self) -> None:
        self.state_fd = os.memfd_create("sqlitecluster-state", os.MFD_CLOEXEC)
        os.ftruncate(self.state_fd, SIZE)
        self.bells = {
            "bell_mount": os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            "bell_replicator": os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
        }
        self._map = mmap.mmap(self.state_fd, SIZE)
        self._words = memoryview(self._map).cast("Q")

    def __getitem__(self, word: int) -> int:
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._words[word] = value

    def ring(self) -> None:
        """Wake both children, so that they look at the words now."""
        for fd in self.bells.values():
            os.eventfd_write(fd, 1)
