"""Requests about names and attributes. The other half of the FUSE edge is ``operations``.

Rules: creating, removing and renaming never wait, the kernel holds the directory meanwhile.
"""

from __future__ import annotations

import errno
import functools
import os
import stat

import pyfuse3

from sqlitecluster.mount import handles
from sqlitecluster.mount.answers import answered
from sqlitecluster.mount.attributes import LONG_S, Attributes, Shown, for_library, missing
from sqlitecluster.mount.files import File
from sqlitecluster.mount.gate import Gate
from sqlitecluster.mount.layout import NODE_FILES, POSITION_SUFFIX, Kind, Place, join
from sqlitecluster.mount.names import Names
from sqlitecluster.mount.naming import Naming
from sqlitecluster.mount.parking import Job
from sqlitecluster.mount.syncing import sync_folder
from sqlitecluster.mount.tree import Directory, Node, Tree, Virtual


class NameOperations(pyfuse3.Operations):
    """Directories, names, attributes."""

    def __init__(self, tree: Tree, names: Names, gate: Gate) -> None:
        super().__init__()
        self._tree = tree
        self._gate = gate
        self._context = tree.context
        self._attributes = Attributes(tree, names)
        self._names = names
        self._naming = Naming(tree, names)
        self._context.become_database = self._naming.become_database
        self._listings: dict[int, list[str]] = {}
        self._serial = 0

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """LOOKUP."""
        return for_library(self.find(parent_inode, name))

    def find(self, parent_inode: int, name: bytes) -> Shown:
        """LOOKUP."""
        path = self._path(parent_inode, name)
        node = self._tree.lookup(path)
        if node is None:
            changes_unseen = path in NODE_FILES or path.endswith(POSITION_SUFFIX)
            return missing(0.0 if changes_unseen else LONG_S)
        return self._attributes.shown(node)

    def show(self, inode: int) -> Shown:
        """GETATTR."""
        return self._attributes.shown(self._tree.node(inode))

    @answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """GETATTR."""
        return self._attributes.of(self._tree.node(inode))

    @answered
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """SETATTR: truncate, chmod, chown, utimens."""
        node = self._tree.node(inode)
        if isinstance(node, Virtual):
            return self._attributes.of(node)
        privileged = self._gate.is_replicator(ctx) if fh is None else handles.is_privileged(fh)
        if fields.update_size:
            if isinstance(node, Directory):
                raise OSError(errno.EISDIR, "a directory")
            while node.truncate(attr.st_size, privileged=privileged) is None:
                await node.settled()
            node = self._tree.known(inode) or node  # it may have become a database
        if fields.update_mode or fields.update_uid or fields.update_gid:
            self._attributes.set_owner(node, attr, fields)
        if fields.update_atime or fields.update_mtime:
            self._attributes.set_times(node, attr, fields)
        return self._attributes.of(node)

    def shows_its_database(self, inode: int) -> bool:
        """Whether owner and mode of a file are those of a database, and setting them changes nothing."""
        node = self._tree.known(inode)
        return isinstance(node, File) and node.kind in (Kind.JOURNAL, Kind.WAL, Kind.SHM)

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """UNLINK."""
        self.remove(parent_inode, name, ctx)

    def remove(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """UNLINK."""
        path = self._path(parent_inode, name)
        self._gate.removal(path, ctx)
        privileged = self._gate.change(path, ctx)
        try:
            self._naming.unlink(path, privileged=privileged)
            self._context.settling.removed_by(ctx.pid)
        except FileNotFoundError:
            # Perhaps done just before the previous process died; a -shm goes with its database.
            if not self._gate.may_be_repeated() and not path.endswith("-shm"):
                raise

    @answered
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """RENAME."""
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, "names cannot be exchanged")
        old, new = self._path(parent_inode_old, name_old), self._path(parent_inode_new, name_new)
        self._gate.removal(old, ctx)
        if self._tree.lookup(new) is not None:
            self._gate.removal(new, ctx)
        if isinstance(self._tree.lookup(old), Directory) and not self._tree.has_databases(old):
            privileged = False  # only local files in it
        else:
            privileged = all([self._gate.change(old, ctx), self._gate.change(new, ctx)])
        if self._gate.may_be_repeated() and self._tree.lookup(old) is None and self._tree.lookup(new) is not None:
            return
        self._naming.rename(old, new, replace=not flags, privileged=privileged)

    @answered
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKDIR."""
        parent = self._tree.directory(parent_inode)
        path = self._path(parent_inode, name)
        known = self._tree.lookup(path)
        if known is not None:
            if not (self._gate.may_be_repeated() and isinstance(known, Directory)):
                raise OSError(errno.EEXIST, "the name exists")
            return self._attributes.of(known)
        directory = self._tree.make_directory(path)
        self._names.set(path, self._attributes.new_owner(parent, mode, ctx, inherit=self._gate.is_replicator(ctx)))
        return self._attributes.of(directory)

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """RMDIR."""
        path = self._path(parent_inode, name)
        self._gate.removal(path, ctx)
        node = self._tree.lookup(path)
        if node is None and self._gate.may_be_repeated():
            return
        if node is None:
            raise OSError(errno.ENOENT, "no such directory")
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        self._tree.remove_directory(path)
        self._names.remove(path)

    @answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """SYMLINK: refused, a database behind two names would be two databases to SQLite's locks."""
        raise OSError(errno.EPERM, "no symbolic links here")

    @answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """LINK: refused, as above."""
        raise OSError(errno.EPERM, "no hard links here")

    @answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """OPENDIR."""
        return self.open_directory(inode)

    def open_directory(self, inode: int) -> int:
        """OPENDIR."""
        self._tree.directory(inode)
        self._serial += 1
        return handles.pack(inode, generation=self._serial)

    @answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """READDIRPLUS: the listing is taken at the first call, so that nothing is skipped or repeated."""
        directory = self._tree.directory(handles.ino_of(fh))
        if start_id == 0 or fh not in self._listings:
            self._listings[fh] = [".", "..", *self._tree.listing(directory)]
        names = self._listings[fh]
        for at in range(start_id, len(names)):
            node = self._entry(directory, names[at])
            if node is None:
                continue
            if not pyfuse3.readdir_reply(token, os.fsencode(names[at]), self._attributes.of(node), at + 1):
                return

    async def releasedir(self, fh: int) -> None:
        """RELEASEDIR."""
        self.close_directory(fh)

    def close_directory(self, fh: int) -> None:
        """RELEASEDIR."""
        self._listings.pop(fh, None)

    def to_settle(self, pid: int) -> list[str]:
        """Kept files that FSYNCDIR of this thread has to make durable."""
        return self._context.settling.of(pid)

    def names_are_durable(self) -> bool:
        """Whether FSYNCDIR has nothing else to do."""
        return not self._context.journals_removed

    async def settle_names(self, kept: list[str], fh: int) -> None:
        """FSYNCDIR, with what ``to_settle`` gave."""
        for path in kept:
            await Job(functools.partial(self._context.settling.settle, path))
        await self.fsyncdir(fh, False)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR: removed journals; new names are made durable with their files."""
        removed = self._context.journals_removed
        while removed:  # with synchronous=EXTRA a program asks for it before it is told of its commit
            folder = removed.pop()
            try:
                await Job(functools.partial(sync_folder, folder))
            except OSError:
                removed.add(folder)
                raise

    @answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """STATFS: the data directory's disk, less the reserve."""
        seen = os.statvfs(self._context.layout.data)
        kept = self._context.space.reserve // seen.f_frsize
        answer = pyfuse3.StatvfsData()
        answer.f_bsize, answer.f_frsize = seen.f_bsize, seen.f_frsize
        answer.f_blocks = seen.f_blocks
        answer.f_bfree, answer.f_bavail = max(0, seen.f_bfree - kept), max(0, seen.f_bavail - kept)
        answer.f_files, answer.f_ffree, answer.f_favail = seen.f_files, seen.f_ffree, seen.f_favail
        answer.f_namemax = 255
        return answer

    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """ACCESS: not asked, the kernel checks file modes (default_permissions)."""
        return True

    @answered
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKNOD: ordinary files only."""
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "only ordinary files and directories")
        return self._attributes.of(self._create(parent_inode, name, mode, os.O_EXCL, ctx))

    def _path(self, parent_inode: int, name: bytes) -> str:
        return join(self._tree.directory(parent_inode).path, os.fsdecode(name))

    def _entry(self, directory: Directory, name: str) -> Node | None:
        if name == ".":
            return directory
        if name == "..":
            return self._tree.lookup(directory.path.rpartition("/")[0]) if "/" in directory.path else self._tree.root
        return self._tree.lookup(join(directory.path, name))

    def _create(self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext) -> File:
        path = self._path(parent, name)
        privileged = self._gate.change(path, ctx, creating=True, flags=flags)
        known = self._tree.lookup(path)
        if isinstance(known, File):
            repeated = self._gate.may_be_repeated() and known.size_of(known.stat()) == 0
            if flags & os.O_EXCL and not repeated:
                raise OSError(errno.EEXIST, "the name exists")
            return known
        where = self._tree.place(path)
        if where.kind is Kind.DATABASE and not privileged and self._gate.kind(path, flags) is Kind.FILE:
            where = Place(Kind.FILE, path)
        if known is not None or where.kind is Kind.VIRTUAL:
            raise OSError(errno.EEXIST if known is not None else errno.EACCES, "this name is taken")
        self._gate.new_file(path, where.kind)
        file = self._tree.create(path, where)
        if where.kind in (Kind.FILE, Kind.DATABASE):
            owner = self._attributes.new_owner(self._tree.directory(parent), mode, ctx, inherit=privileged)
            self._names.set(path, owner)
        return file
