"""Who may do what now, and who must wait.

Asked by the operations, once per request. Decisions are in ``roles``; here are the
node's words, the caller's pid, the policies, and the wait for role locks.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import Final

import pyfuse3

from sqlitecluster.mount import roles
from sqlitecluster.mount.database import Database
from sqlitecluster.mount.files import SQLITE_MAGIC, File
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.parking import Park
from sqlitecluster.mount.tree import Tree
from sqlitecluster.shared import ROLE_PRIMARY, NodeWord, Word
from sqlitecluster.units import valid_database_name

log = logging.getLogger(__name__)

_REPEAT_S: Final = 1.0  # how long after a take-over a request may be one that was executed already


class Gate:
    """The checks of one mount process."""

    def __init__(self, tree: Tree, *, successor: bool) -> None:
        self._tree = tree
        self._context = tree.context
        self._node = tree.context.state.node
        self._repeats_until = time.monotonic() + _REPEAT_S if successor else 0.0

    def is_replicator(self, ctx: pyfuse3.RequestContext) -> bool:
        """Whether the caller is the replicator, for which no rule holds."""
        return self._context.is_replicator(ctx.pid)

    def may_be_repeated(self) -> bool:
        """Whether a request may have been executed by the previous process, which died before it answered."""
        return time.monotonic() < self._repeats_until

    def opens_database(self, flags: int) -> bool:
        """Whether an open may be SQLite's: to read and write, and neither to append nor to begin anew."""
        if self._context.config.other_files == "Refuse":
            return True
        return flags & os.O_ACCMODE == os.O_RDWR and not flags & (os.O_TRUNC | os.O_APPEND | os.O_EXCL)

    def makes_database(self, file: File, flags: int, *, privileged: bool) -> bool:
        """Whether an open makes a database of a plain file: SQLite opens an empty one that something else has made.

        Or one that holds a database: a power cut has undone that it became one.
        """
        if file.kind is not Kind.FILE or file.unlinked or not roles.is_writing(flags) or not self.opens_database(flags):
            return False
        if not privileged and (self._node[NodeWord.ROLE] != ROLE_PRIMARY or self._node[NodeWord.DRAINING]):
            return False
        return valid_database_name(file.name) and file.read(0, len(SQLITE_MAGIC)) in (b"", SQLITE_MAGIC)

    def kind(self, path: str, flags: int | None = None) -> Kind:
        """What a change of a name is about; ``flags``: of the open that makes it.

        A file that never held a database is plain, whatever its name.
        """
        kind = self._tree.place(path).kind
        if kind is Kind.DATABASE and not self._tree.exists(path) and (flags is None or not self.opens_database(flags)):
            return Kind.FILE
        return kind

    def change(
        self, path: str, ctx: pyfuse3.RequestContext, *, creating: bool = False, flags: int | None = None
    ) -> bool:
        """Before a name is made, removed or moved; whether the caller is the replicator.

        Raises:
            OSError: EROFS, not on this node; EBUSY, not now; EIO, the fence has passed.
        """
        if self.is_replicator(ctx):
            return True
        kind = self.kind(path, flags)
        if error := roles.change(int(self._node[NodeWord.ROLE]), kind, creating=creating):
            self._node[NodeWord.WRITES_REFUSED] += 1
            raise OSError(error, "this node may not write")
        if kind not in roles.LOCAL:
            if kind is Kind.DATABASE and self._node[NodeWord.DRAINING]:
                raise OSError(errno.EBUSY, "a hand-off is being prepared")
            if not (creating and kind is Kind.WAL):
                self._context.check_fence()
        return False

    def removal(self, path: str, ctx: pyfuse3.RequestContext) -> None:
        """Before a name is removed or moved: not while the node stops and nobody uses it.

        Raises:
            OSError: EBUSY.
        """
        if not self._node[NodeWord.STOPPING] or self.is_replicator(ctx):
            return
        in_use = bool(self._context.state.column(Word.WRITERS).any())
        if error := roles.removal(self.kind(path), stopping=True, in_use=in_use):
            raise OSError(error, "this node is being stopped; nothing is deleted now")

    def opening(self, kind: Kind, flags: int) -> None:
        """Before a program's open.

        Raises:
            OSError: EACCES.
        """
        read_only = self._context.config.replica_writes == "ReadOnly"
        if error := roles.opening(int(self._node[NodeWord.ROLE]), kind, flags, read_only=read_only):
            raise OSError(error, "not on this node")

    def new_file(self, path: str, kind: Kind) -> None:
        """Policy ``otherFiles``.

        Raises:
            OSError: EPERM.
        """
        if kind is not Kind.FILE or self._context.config.other_files != "Refuse":
            return
        # SQLite's own side files come before their database when one is restored by hand.
        if not path.endswith(("-journal", "-wal", "-shm")) and "-mj" not in path:
            log.warning("%s: only databases may be kept here (otherFiles: Refuse)", path)
            raise OSError(errno.EPERM, "only databases may be kept here")

    async def admitted(self, database: Database, kind: Kind) -> None:
        """Wait until a program may see this file of a database here.

        Raises:
            OSError: EIO, the role locks were not taken in time.
        """
        words, node = database.words, self._node

        def ready() -> bool:
            return roles.may_open_now(
                int(node[NodeWord.ROLE]),
                kind,
                locked=words[Word.LOCKED] == 1,
                frozen=words[Word.FROZEN] == 1,
                draining=node[NodeWord.DRAINING] == 1,
            )

        if ready():
            return
        words[Word.LOCK_WANTED] = 1
        database.touch()
        if not await Park(ready, time.monotonic() + self._context.config.park_s):
            raise OSError(errno.EIO, "the role locks were not taken in time")
