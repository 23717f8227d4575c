"""What stat(2) shows: sizes and times of the backing file, mode and owner from the rows."""

from __future__ import annotations

import dataclasses
import os
import stat
from dataclasses import dataclass
from typing import Final

import pyfuse3

from sqlitecluster.mount.files import File
from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.names import Names, Owner
from sqlitecluster.mount.tree import Directory, Node, Tree, Virtual
from sqlitecluster.mount.virtual import content
from sqlitecluster.shared import ROLE_PRIMARY, NodeWord

LONG_S: Final = 3600.0  # every change goes through this mount, so the kernel may keep what it knows
_MODE_BITS: Final = 0o7777
_DEFAULT_FILE: Final = 0o666
_DEFAULT_DIRECTORY: Final = 0o777


@dataclass(slots=True)
class Shown:
    """The same fields as pyfuse3's ``EntryAttributes``, which costs several times as much to make and to read."""

    st_ino: int = 0
    st_mode: int = 0
    st_nlink: int = 1
    st_uid: int = 0
    st_gid: int = 0
    st_size: int = 0
    st_blocks: int = 0
    st_atime_ns: int = 0
    st_mtime_ns: int = 0
    st_ctime_ns: int = 0
    entry_timeout: float = LONG_S
    attr_timeout: float = LONG_S


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Shown))


class Attributes:
    """Makes the attributes of nodes."""

    def __init__(self, tree: Tree, names: Names) -> None:
        self._tree = tree
        self._names = names
        self._node_words = tree.context.state.node

    def of(self, node: Node) -> pyfuse3.EntryAttributes:
        """Everything stat shows of a node, for pyfuse3."""
        return for_library(self.shown(node))

    def shown(self, node: Node) -> Shown:
        """Everything stat shows of a node."""
        if isinstance(node, Virtual):
            return self._virtual(node)
        if isinstance(node, Directory):
            seen = os.stat(self._tree.backing(node))
            kind, size, links = stat.S_IFDIR, seen.st_size, 0 if node.orphan else 2
        else:
            seen = node.stat()
            kind, size, links = stat.S_IFREG, node.size_of(seen), 0 if node.unlinked else 1
        owner = self.owner(node)
        entry = Shown(
            node.ino, kind | owner.mode, links, owner.uid, owner.gid, size, seen.st_blocks,
            seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns,
        )  # fmt: skip
        if isinstance(node, File) and node.kind is Kind.WAL and self._node_words[NodeWord.ROLE] != ROLE_PRIMARY:
            entry.attr_timeout = 0.0  # the replicator appends to it directly
        return entry

    def owner(self, node: File | Directory) -> Owner:
        """Mode, owner and group of a node."""
        if isinstance(node, Directory):
            return self._names.get(node.path) or self._default_directory(node.path)
        name = node.database.name if node.database is not None else node.name
        return self._names.get(name) or self.inherited(name)

    def inherited(self, path: str) -> Owner:
        """What a file without a row has: its directory's owner and no more than its access."""
        parent = self.owner_of_directory(path.rpartition("/")[0])
        return Owner(_DEFAULT_FILE & parent.mode, parent.uid, parent.gid)

    def owner_of_directory(self, path: str) -> Owner:
        """The owner of a directory by path."""
        return self._names.get(path) or self._default_directory(path)

    def new_owner(self, parent: Directory, mode: int, ctx: pyfuse3.RequestContext, *, inherit: bool) -> Owner:
        """The owner of a new file or directory; ``inherit``: the replicator makes it for programs."""
        above = self.owner(parent)
        if inherit:
            return Owner(mode & _MODE_BITS | 0o666 & above.mode, above.uid, above.gid)
        gid = above.gid if above.mode & stat.S_ISGID else ctx.gid
        bits = mode & _MODE_BITS | (above.mode & stat.S_ISGID if stat.S_ISDIR(mode) else 0)
        return Owner(bits, ctx.uid, gid)

    def set_owner(self, node: File | Directory, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> None:
        """chmod and chown."""
        if isinstance(node, File) and node.kind in (Kind.JOURNAL, Kind.WAL, Kind.SHM):
            return  # they show the database's; SQLite sets them after each create
        old = self.owner(node)
        new = Owner(
            attr.st_mode & _MODE_BITS if fields.update_mode else old.mode,
            attr.st_uid if fields.update_uid else old.uid,
            attr.st_gid if fields.update_gid else old.gid,
        )
        self._names.set(node.path if isinstance(node, Directory) else node.name, new)

    def set_times(self, node: File | Directory, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> None:
        """utimens, on the backing file."""
        path = node.path if isinstance(node, File) else self._tree.backing(node)
        seen = os.stat(path)
        os.utime(
            path,
            ns=(
                attr.st_atime_ns if fields.update_atime else seen.st_atime_ns,
                attr.st_mtime_ns if fields.update_mtime else seen.st_mtime_ns,
            ),
        )

    def _virtual(self, node: Virtual) -> Shown:
        size = len(content(self._tree.context.state, node.ino) or b"")
        return Shown(node.ino, stat.S_IFREG | 0o444, st_size=size, entry_timeout=0.0, attr_timeout=0.0)

    def _default_directory(self, path: str) -> Owner:
        if path:
            return self.owner_of_directory(path.rpartition("/")[0])
        return Owner(_DEFAULT_DIRECTORY, 0, 0)


def missing(timeout_s: float) -> Shown:
    """The answer "no such file", which the kernel may keep (hot-journal checks are frequent)."""
    return Shown(entry_timeout=timeout_s, attr_timeout=0.0)


def for_library(shown: Shown) -> pyfuse3.EntryAttributes:
    """The same for pyfuse3."""
    entry = pyfuse3.EntryAttributes()
    for name in _FIELDS:
        setattr(entry, name, getattr(shown, name))
    return entry
