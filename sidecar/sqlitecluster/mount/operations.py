"""The FUSE edge: one method per request, and nothing but translation in it.

Rules:
    1. Only FUSEError leaves a method. OSError becomes its errno; anything else is a bug,
       is logged with its traceback and answered EIO. Otherwise one bug would end the mount.
    2. Roles are asked here, once per request, from ``roles``; the replicator's threads pass.
    3. Creating, removing and renaming never wait.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3

from sqlitecluster.mount import handles, roles, virtual
from sqlitecluster.mount.attributes import LONG_S, Attributes, missing
from sqlitecluster.mount.database import Database
from sqlitecluster.mount.files import File
from sqlitecluster.mount.handles import Handle
from sqlitecluster.mount.layout import NODE_FILES, POSITION_SUFFIX, Kind, join
from sqlitecluster.mount.names import Names, Owner
from sqlitecluster.mount.naming import Naming
from sqlitecluster.mount.parking import Park
from sqlitecluster.mount.syncing import Syncing
from sqlitecluster.mount.tree import Directory, Node, Tree, Virtual
from sqlitecluster.shared import NodeWord, Word

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_MODE_BITS: Final = 0o7777
_REPEAT_S: Final = 1.0  # how long after a take-over a request may be one that was executed already


def _failed(error: Exception, name: str) -> pyfuse3.FUSEError:
    if isinstance(error, OSError) and error.errno:
        return pyfuse3.FUSEError(error.errno)
    log.error("%s failed unexpectedly", name, exc_info=error)
    return pyfuse3.FUSEError(errno.EIO)


def _answered(
    method: Callable[Concatenate[Any, P], Awaitable[R]],
) -> Callable[Concatenate[Any, P], Awaitable[R]]:
    """Let only FUSEError out of a request's method."""

    @functools.wraps(method)
    async def guarded(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:  # a request's top: everything becomes an errno
            raise _failed(error, method.__name__) from None

    return guarded


class Operations(pyfuse3.Operations):  # type: ignore[misc]
    """What pyfuse3 calls."""

    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, tree: Tree, names: Names, *, successor: bool) -> None:
        super().__init__()
        self._tree = tree
        self._names = names
        self._naming = Naming(tree, names)
        self._attributes = Attributes(tree, names)
        self._context = tree.context
        self._node = tree.context.state.node
        self._handles: dict[int, Handle] = {}
        self._listings: dict[int, list[str]] = {}
        self._serial = 0
        self._syncing = Syncing()
        self._repeats_until = time.monotonic() + _REPEAT_S if successor else 0.0

    # -- bytes -------------------------------------------------------------------------------------

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """READ."""
        try:
            handle = self._handles.get(fh)
            if handle is None:
                if fh & virtual.INODE_BIT:
                    content = virtual.content(self._context.state, handles.ino_of(fh))
                    return (content or b"")[off : off + size]
                handle = self._adopt(fh)
            return handle.file.read(off, size)
        except Exception as error:  # a request's top
            raise _failed(error, "read") from None

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """WRITE."""
        try:
            handle = self._handles.get(fh)
            if handle is None:
                handle = self._adopt(fh)
            file = handle.file
            done = file.write(off, buf, privileged=handle.privileged)
            while done is None:
                await file.settled()
                done = file.write(off, buf, privileged=handle.privileged)
            return done
        except Exception as error:  # a request's top
            raise _failed(error, "write") from None

    @_answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        """FSYNC."""
        await self._syncing.sync(self._handle(fh).file, data_only=datasync)

    @_answered
    async def flush(self, fh: int) -> None:
        """FLUSH: nothing is held back here; the kernel stops asking."""
        raise OSError(errno.ENOSYS, "no flush")

    # -- handles -----------------------------------------------------------------------------------

    @_answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """OPEN; waits while this node may not yet show the database."""
        node = self._tree.node(inode)
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, "a directory")
        privileged = self._context.is_replicator(ctx.pid)
        writing = roles.is_writing(flags)
        if not privileged:
            read_only = self._context.config.replica_writes == "ReadOnly"
            if error := roles.opening(self._role(), node.kind, flags, read_only=read_only):
                raise OSError(error, "not on this node")
        if isinstance(node, Virtual):
            return pyfuse3.FileInfo(fh=handles.pack(node.ino), direct_io=True, keep_cache=False)
        if node.database is not None and not privileged:
            await self._admitted(node.database)
        return self._open(node, writing=writing, privileged=privileged)

    @_answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """CREATE."""
        file = self._create(parent_inode, name, mode, flags, ctx)
        info = self._open(file, writing=roles.is_writing(flags), privileged=self._context.is_replicator(ctx.pid))
        return info, self._attributes.of(file)

    @_answered
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKNOD: ordinary files only."""
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "only ordinary files and directories")
        return self._attributes.of(self._create(parent_inode, name, mode, os.O_EXCL, ctx))

    @_answered
    async def release(self, fh: int) -> None:
        """RELEASE: equal handles share a number, so the file counts."""
        if fh & virtual.INODE_BIT:
            return
        handle = self._handle(fh)
        file = handle.file
        file.released(writing=handle.writing, privileged=handle.privileged)
        if not file.handles:
            for number in [number for number, known in self._handles.items() if known.file is file]:
                del self._handles[number]
            if file.unlinked and not file.inherited:
                self._tree.release_orphan(file)

    async def forget(self, inode_list: list[tuple[int, int]]) -> None:
        """FORGET: the kernel dropped inodes; unlinked ones are removed now at the latest."""
        for ino, _lookups in inode_list:
            try:
                node = self._tree.known(ino)
                if isinstance(node, File) and not node.handles:
                    node.inherited = False  # no handle of a predecessor is left
                    if node.unlinked:
                        self._tree.release_orphan(node)
                    elif node.kind is Kind.FILE:
                        self._tree.forget(node)
            except OSError as error:
                log.warning("inode %d could not be forgotten: %s", ino, error)

    # -- names -------------------------------------------------------------------------------------

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """LOOKUP."""
        path = self._path(parent_inode, name)
        node = self._tree.lookup(path)
        if node is None:
            changes_unseen = path in NODE_FILES or path.endswith(POSITION_SUFFIX)
            return missing(0.0 if changes_unseen else LONG_S)
        return self._attributes.of(node)

    @_answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """GETATTR."""
        return self._attributes.of(self._tree.node(inode))

    @_answered
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
        privileged = self._context.is_replicator(ctx.pid) if fh is None else handles.is_privileged(fh)
        if fields.update_size:
            if isinstance(node, Directory):
                raise OSError(errno.EISDIR, "a directory")
            while node.truncate(attr.st_size, privileged=privileged) is None:
                await node.settled()
        if fields.update_mode or fields.update_uid or fields.update_gid:
            self._set_owner(node, attr, fields)
        if fields.update_atime or fields.update_mtime:
            self._set_times(node, attr, fields)
        return self._attributes.of(node)

    @_answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """UNLINK."""
        path = self._path(parent_inode, name)
        privileged = self._may_change(path, ctx)
        try:
            self._naming.unlink(path, privileged=privileged)
        except FileNotFoundError:
            # Perhaps done just before the previous process died; a -shm goes with its database.
            if not self._may_be_repeated() and not path.endswith("-shm"):
                raise

    @_answered
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
        if isinstance(self._tree.lookup(old), Directory) and not self._tree.has_databases(old):
            privileged = False  # only local files in it
        else:
            privileged = self._may_change(old, ctx) and self._may_change(new, ctx)
        if self._may_be_repeated() and self._tree.lookup(old) is None and self._tree.lookup(new) is not None:
            return
        self._naming.rename(old, new, replace=not flags, privileged=privileged)

    @_answered
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """MKDIR."""
        parent = self._tree.directory(parent_inode)
        path = self._path(parent_inode, name)
        known = self._tree.lookup(path)
        if known is not None:
            if not (self._may_be_repeated() and isinstance(known, Directory)):
                raise OSError(errno.EEXIST, "the name exists")
            return self._attributes.of(known)
        directory = self._tree.make_directory(path)
        self._names.set(path, self._new_owner(parent, mode, ctx, inherit=self._context.is_replicator(ctx.pid)))
        return self._attributes.of(directory)

    @_answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """RMDIR."""
        path = self._path(parent_inode, name)
        node = self._tree.lookup(path)
        if node is None and self._may_be_repeated():
            return
        if node is None:
            raise OSError(errno.ENOENT, "no such directory")
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        self._tree.remove_directory(path)
        self._names.remove(path)

    @_answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """SYMLINK: refused, a database behind two names would be two databases to SQLite's locks."""
        raise OSError(errno.EPERM, "no symbolic links here")

    @_answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """LINK: refused, as above."""
        raise OSError(errno.EPERM, "no hard links here")

    @_answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """OPENDIR."""
        self._tree.directory(inode)
        self._serial += 1
        return handles.pack(inode, generation=self._serial)

    @_answered
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
        self._listings.pop(fh, None)

    @_answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR: names are made durable with the files; the kernel stops asking."""
        raise OSError(errno.ENOSYS, "no fsyncdir")

    @_answered
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

    # -- steps -------------------------------------------------------------------------------------

    def _role(self) -> int:
        return int(self._node[NodeWord.ROLE])

    def _path(self, parent_inode: int, name: bytes) -> str:
        return join(self._tree.directory(parent_inode).path, os.fsdecode(name))

    def _entry(self, directory: Directory, name: str) -> Node | None:
        if name == ".":
            return directory
        if name == "..":
            return self._tree.lookup(directory.path.rpartition("/")[0]) if "/" in directory.path else self._tree.root
        return self._tree.lookup(join(directory.path, name))

    def _may_change(self, path: str, ctx: pyfuse3.RequestContext) -> bool:
        """Whether the caller is the replicator; EROFS when it may not change this name."""
        if self._context.is_replicator(ctx.pid):
            return True
        kind = self._tree.place(path).kind
        if error := roles.change(self._role(), kind):
            self._node[NodeWord.WRITES_REFUSED] += 1
            raise OSError(error, "this node may not write")
        return False

    def _may_be_repeated(self) -> bool:
        return time.monotonic() < self._repeats_until

    def _create(self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext) -> File:
        path = self._path(parent, name)
        privileged = self._may_change(path, ctx)
        known = self._tree.lookup(path)
        if isinstance(known, File):
            repeated = self._may_be_repeated() and known.stat().st_size == 0
            if flags & os.O_EXCL and not repeated:
                raise OSError(errno.EEXIST, "the name exists")
            return known
        where = self._tree.place(path)
        if known is not None or where.kind is Kind.VIRTUAL:
            raise OSError(errno.EEXIST if known is not None else errno.EACCES, "this name is taken")
        self._check_policy(path, where.kind)
        file = self._tree.create(path)
        if where.kind in (Kind.FILE, Kind.DATABASE):
            owner = self._new_owner(self._tree.directory(parent), mode, ctx, inherit=privileged)
            self._names.set(path, owner)
        return file

    def _check_policy(self, path: str, kind: Kind) -> None:
        if kind is not Kind.FILE or self._context.config.other_files != "Refuse":
            return
        # SQLite's own side files come before their database when one is restored by hand.
        if not path.endswith(("-journal", "-wal", "-shm")) and "-mj" not in path:
            log.warning("%s: only databases may be kept here (otherFiles: Refuse)", path)
            raise OSError(errno.EPERM, "only databases may be kept here")

    def _new_owner(self, parent: Directory, mode: int, ctx: pyfuse3.RequestContext, *, inherit: bool) -> Owner:
        above = self._attributes.owner(parent)
        if inherit:
            return Owner(mode & _MODE_BITS | 0o666 & above.mode, above.uid, above.gid)
        gid = above.gid if above.mode & stat.S_ISGID else ctx.gid
        bits = mode & _MODE_BITS | (above.mode & stat.S_ISGID if stat.S_ISDIR(mode) else 0)
        return Owner(bits, ctx.uid, gid)

    def _open(self, file: File, *, writing: bool, privileged: bool) -> pyfuse3.FileInfo:
        generation = 0
        if file.database is not None:
            generation = int(file.database.words[Word.OPEN_GEN])
        number = handles.pack(file.ino, writing=writing, privileged=privileged, generation=generation)
        known = self._handles.get(number)
        if known is None or known.file is not file:
            self._handles[number] = Handle(file, writing, privileged, generation)
        file.opened(writing=writing, privileged=privileged)
        return pyfuse3.FileInfo(fh=number, direct_io=file.direct_io, keep_cache=True)

    def _handle(self, fh: int) -> Handle:
        return self._handles.get(fh) or self._adopt(fh)

    def _adopt(self, fh: int) -> Handle:
        """A handle that a predecessor gave out."""
        node = self._tree.node(handles.ino_of(fh))
        if not isinstance(node, File):
            raise OSError(errno.EBADF, "not a file")
        handle = Handle(node, handles.is_writing(fh), handles.is_privileged(fh), handles.generation_of(fh))
        self._handles[fh] = handle
        return handle

    async def _admitted(self, database: Database) -> None:
        """Wait until a program may see this database here.

        Raises:
            OSError: EIO, the role locks were not taken in time.
        """
        words, node = database.words, self._node

        def ready() -> bool:
            return roles.may_open_now(
                int(node[NodeWord.ROLE]), locked=words[Word.LOCKED] == 1, frozen=words[Word.FROZEN] == 1
            )

        if ready():
            return
        words[Word.LOCK_WANTED] = 1
        database.touch()
        if not await Park(ready, time.monotonic() + self._context.config.park_s):
            raise OSError(errno.EIO, "the role locks were not taken in time")

    def _set_owner(self, node: File | Directory, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> None:
        if isinstance(node, File) and node.kind in (Kind.JOURNAL, Kind.WAL, Kind.SHM):
            return  # they show the database's; SQLite sets them after each create
        old = self._attributes.owner(node)
        new = Owner(
            attr.st_mode & _MODE_BITS if fields.update_mode else old.mode,
            attr.st_uid if fields.update_uid else old.uid,
            attr.st_gid if fields.update_gid else old.gid,
        )
        self._names.set(node.path if isinstance(node, Directory) else node.name, new)

    def _set_times(self, node: File | Directory, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> None:
        path = node.path if isinstance(node, File) else self._context.layout.other(node.path)
        seen = os.stat(path)
        os.utime(
            path,
            ns=(
                attr.st_atime_ns if fields.update_atime else seen.st_atime_ns,
                attr.st_mtime_ns if fields.update_mtime else seen.st_mtime_ns,
            ),
        )
