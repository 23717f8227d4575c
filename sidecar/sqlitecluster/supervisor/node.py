"""What the parts of the supervisor share: one node's settings, log, loop, memory and template."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from sqlitecluster.supervisor.children import Template
from sqlitecluster.supervisor.lines import Log
from sqlitecluster.supervisor.loop import Loop
from sqlitecluster.supervisor.settings import Settings
from sqlitecluster.supervisor.words import SharedWords


class Inherited:
    """Descriptors that the supervisor is born with."""

    __slots__ = ("lock", "notify")

    def __init__(self, lock: int, notify: int) -> None:
        self.lock = lock  # of the data directory, held
        self.notify = notify  # a pipe for milestones, or -1


class Node:
    """Passed to each part; ``changed`` is called after every start and end of a process."""

    def __init__(self, settings: Settings, log: Log, loop: Loop, fds: Inherited) -> None:
        self.settings, self.log, self.loop = settings, log, loop
        self.shared = SharedWords()
        self.template: Template
        self.changed: Callable[[], None] = lambda: None
        self.cpu_fd = -1  # /dev/cpu_dma_latency, for a mount process whose user may not open it
        self.opener_fd = -1  # where the replicator asks for files that its user may not open
        self._fds = fds
        self._told: set[str] = set()

    def child_fds(self) -> dict[str, int]:
        """The descriptors that every worker gets."""
        return {"state": self.shared.state_fd, **self.shared.bells, "lock": self._fds.lock}

    def mount_fds(self) -> dict[str, int]:
        """The descriptors of a mount process, except ``/dev/fuse``."""
        return {**self.child_fds(), **({"cpu_latency": self.cpu_fd} if self.cpu_fd >= 0 else {})}

    def replicator_fds(self) -> dict[str, int]:
        """The descriptors of a replicator."""
        return {**self.child_fds(), **({"opener": self.opener_fd} if self.opener_fd >= 0 else {})}

    def notify(self, word: str) -> None:
        """Tell whoever started us (``sqlitecluster local``) about a milestone, once each."""
        if word in self._told:
            return
        self._told.add(word)
        if self._fds.notify >= 0:
            with contextlib.suppress(OSError):
                os.write(self._fds.notify, word.encode() + b"\n")
