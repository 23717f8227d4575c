"""Requests about handles. The rest of the FUSE edge: ``name_operations``, ``byte_requests``.

Rules:
    1. Nothing but translation here: every method asks the gate and calls a file.
    2. Equal handles share a number; the file counts them.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

import pyfuse3

from sqlitecluster.mount import handles, roles, virtual
from sqlitecluster.mount.answers import answered
from sqlitecluster.mount.attributes import Shown, for_library
from sqlitecluster.mount.database import Database
from sqlitecluster.mount.files import File
from sqlitecluster.mount.gate import Gate
from sqlitecluster.mount.handles import Handle
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.name_operations import NameOperations
from sqlitecluster.mount.names import Names
from sqlitecluster.mount.tree import Directory, Tree, Virtual
from sqlitecluster.shared import Word

log = logging.getLogger(__name__)


class Operations(NameOperations):
    """What pyfuse3 calls."""

    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, tree: Tree, names: Names, *, successor: bool) -> None:
        super().__init__(tree, names, Gate(tree, successor=successor))
        self.handles: dict[int, Handle] = {}
        self.syncing = tree.context.syncing
        tree.rebound = self._rebound

    @answered
    async def flush(self, fh: int) -> None:
        """FLUSH: nothing is held back here; the kernel stops asking."""
        raise OSError(errno.ENOSYS, "no flush")

    @answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """OPEN; waits while this node may not yet show the database."""
        node = self._tree.node(inode)
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, "a directory")
        privileged = self._gate.is_replicator(ctx)
        writing = roles.is_writing(flags)
        if not privileged:
            self._gate.opening(node.kind, flags)
        if isinstance(node, Virtual):
            return pyfuse3.FileInfo(fh=handles.pack(node.ino), direct_io=True, keep_cache=False)
        if self._gate.makes_database(node, flags, privileged=privileged):
            node = self._naming.become_database(node)
        if node.database is not None and not privileged:
            await self._gate.admitted(node.database, node.kind)
        return self._open(node, writing=writing, privileged=privileged)

    @answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """CREATE."""
        info, shown = self.make(parent_inode, name, mode, flags, ctx)
        return info, for_library(shown)

    def make(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, Shown]:
        """CREATE."""
        file, privileged = self._create(parent_inode, name, mode, flags, ctx), self._gate.is_replicator(ctx)
        if self._gate.makes_database(file, flags, privileged=privileged):
            file = self._naming.become_database(file)
        info = self._open(file, writing=roles.is_writing(flags), privileged=privileged)
        return info, self._attributes.shown(file)

    @answered
    async def release(self, fh: int) -> None:
        """RELEASE: equal handles share a number, so the file counts."""
        self.close(fh)

    def close(self, fh: int) -> None:
        """RELEASE."""
        if fh & virtual.INODE_BIT:
            return
        handle = self.handle(fh)
        file = handle.file
        file.released(writing=handle.writing, privileged=handle.privileged)
        if not file.handles:
            for number in [number for number, known in self.handles.items() if known.file is file]:
                del self.handles[number]
            if file.unlinked and not file.inherited:
                self._tree.release_orphan(file)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """FORGET: the kernel dropped inodes; unlinked ones are removed now at the latest."""
        self.forgotten(inode_list)

    def forgotten(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """FORGET."""
        for ino, _lookups in inode_list:
            try:
                node = self._tree.known(ino)
                if isinstance(node, File) and not node.handles:
                    node.inherited = False  # no handle of a predecessor is left
                    if node.unlinked:
                        self._tree.release_orphan(node)
                    elif node.kind is Kind.FILE:
                        self._tree.forget(node)
                elif isinstance(node, Directory):
                    self._tree.forget_directory(node)
            except OSError as error:
                log.warning("inode %d could not be forgotten: %s", ino, error)

    def poison(self, database: Database) -> list[int]:
        """Let handles up to the poisoned generation answer EIO; returns inodes whose cached pages must go.

        Not those of ``-shm``: programs have it mapped, and a page that cannot be read kills them (SIGBUS).
        """
        limit = database.words[Word.POISONED]
        found = set()
        for handle in self.handles.values():
            if handle.file.database is not database or handle.file.kind is Kind.SHM:
                continue
            if not handle.privileged and handle.generation <= limit:
                handle.poisoned = True
                found.add(handle.file.ino)
        return sorted(found)

    def _open(self, file: File, *, writing: bool, privileged: bool) -> pyfuse3.FileInfo:
        generation = file.database.open_generation() if file.database is not None else 0
        number = handles.pack(file.ino, writing=writing, privileged=privileged, generation=generation)
        known = self.handles.get(number)
        if known is None or known.file is not file:
            self.handles[number] = Handle(file, writing, privileged, generation)
        file.opened(writing=writing, privileged=privileged)
        return pyfuse3.FileInfo(fh=number, direct_io=file.direct_io, keep_cache=True)

    def _rebound(self, old: File, new: File) -> None:
        """Handles stay with their inode; ``old`` knows a name that another file may have now."""
        for handle in self.handles.values():
            if handle.file is old:
                handle.file = new

    def handle(self, fh: int) -> Handle:
        """The open handle of a number; one of a predecessor is adopted."""
        return self.handles.get(fh) or self._adopt(fh)

    def _adopt(self, fh: int) -> Handle:
        """A handle that a predecessor gave out."""
        node = self._tree.node(handles.ino_of(fh))
        if not isinstance(node, File):
            raise OSError(errno.EBADF, "not a file")
        handle = Handle(node, handles.is_writing(fh), handles.is_privileged(fh), handles.generation_of(fh))
        if node.database is not None and not handle.privileged and node.kind is not Kind.SHM:
            handle.poisoned = handle.generation <= node.database.words[Word.POISONED] > 0
        self.handles[fh] = handle
        return handle
