"""What every part of the mount process works with."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.mount.descriptors import Descriptors
from sqlitecluster.mount.layout import Layout
from sqlitecluster.mount.settling import Settling
from sqlitecluster.mount.space import Space
from sqlitecluster.mount.syncing import Syncing
from sqlitecluster.shared import ROLE_FENCED, ROLE_PRIMARY, Bell, NodeWord, State

if TYPE_CHECKING:
    from sqlitecluster.mount.files import File

_STRANGER_S: Final = 0.1  # no number is given to another thread so soon
_MOST_STRANGERS: Final = 1024


def _nobody(_file: File) -> File:
    raise OSError(errno.EROFS, "nothing serves names yet")


@dataclass(slots=True)
class Context:
    """Made once by ``process``."""

    config: NodeConfig
    state: State
    replicator: Bell
    layout: Layout
    space: Space
    descriptors: Descriptors
    syncing: Syncing = field(default_factory=Syncing)
    strangers: dict[tuple[int, int], float] = field(default_factory=dict)
    """(replicator, pid) of threads that were seen not to be the replicator's, and until when that is taken as known."""
    journals_removed: set[str] = field(default_factory=set)
    """Folders of databases whose journal was removed since their last sync: not durable yet."""
    settling: Settling = field(default_factory=Settling)
    """Kept files of removed journals, whose removal is not durable yet."""
    become_database: Callable[[File], File] = _nobody
    """A plain file holds a database from now on; what it is then. Set by ``naming``."""

    def require_primary(self) -> None:
        """Before a program's bytes reach a replicated file.

        Raises:
            OSError: EROFS on a node that may not write, EIO once the fence has passed.
        """
        node = self.state.node
        if node[NodeWord.ROLE] != ROLE_PRIMARY:
            node[NodeWord.WRITES_REFUSED] += 1
            if node[NodeWord.ROLE] == ROLE_FENCED:
                raise OSError(errno.EIO, "the right to write has expired")
            raise OSError(errno.EROFS, "this node may not write")
        if node[NodeWord.FENCE_BOOT_NS] or node[NodeWord.FENCE_REAL_NS]:
            self.check_fence()

    @property
    def is_fenced(self) -> bool:
        """Whether the fence has passed; a node without a fence (0) never is."""
        node = self.state.node
        boot, real = node[NodeWord.FENCE_BOOT_NS], node[NodeWord.FENCE_REAL_NS]
        # Both clocks: the first stands still while a virtual machine is paused (hazard 20).
        return bool((boot and time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= boot) or (real and time.time_ns() >= real))

    def check_fence(self) -> None:
        """Before a commit is completed.

        Raises:
            OSError: EIO once the fence has passed.
        """
        if self.is_fenced:
            self.state.node[NodeWord.WRITES_REFUSED] += 1
            raise OSError(errno.EIO, "the right to write has expired")

    def is_replicator(self, pid: int) -> bool:
        """Whether a request's pid is a thread of the replicator."""
        replicator = self.state.node[NodeWord.REPLICATOR_PID]
        if not replicator or not pid:
            return False
        if pid in (replicator, self.state.node[NodeWord.OPENER_PID]):
            return True
        now = time.monotonic()
        if now < self.strangers.get((replicator, pid), 0.0):
            return False
        if os.path.exists(f"/proc/{replicator}/task/{pid}"):
            return True
        if len(self.strangers) >= _MOST_STRANGERS:
            self.strangers.clear()
        self.strangers[replicator, pid] = now + _STRANGER_S
        return False
