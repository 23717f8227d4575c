"""What the parts of the supervisor share: one node's settings, log, loop, memory and template."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlitecluster.supervisor.children import Template
from sqlitecluster.supervisor.lines import Log
from sqlitecluster.supervisor.loop import Loop
from sqlitecluster.supervisor.settings import Settings
from sqlitecluster.supervisor.words import SharedWords


@dataclass(slots=True, kw_only=True)
class Node:
    """Passed to each part; ``changed`` is called after every start and end of a process."""

    settings: Settings
    log: Log
    loop: Loop
    shared: SharedWords
    template: Template
    lock_fd: int
    notify_fd: int
    changed: Callable[[], None]
    _told: set[str] = field(default_factory=set)

    def child_fds(self) -> dict[str, int]:
        """The descriptors that every worker gets."""
        return {"state": self.shared.state_fd, **self.shared.bells, "lock": self.lock_fd}

    def notify(self, word: str) -> None:
        """Tell whoever started us (``sqlitecluster local``) about a milestone, once each."""
        if word in self._told:
            return
        self._told.add(word)
        if self.notify_fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self.notify_fd, word.encode() + b"\n")
