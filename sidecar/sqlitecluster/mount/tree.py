"""Names and inode numbers of the mount.

Called by ``operations``. A node is a directory or a file object; it is found by its
inode number or by its parent's and its name.

Rules:
    1. The number of a file is that of its backing file, so that a successor finds it
       again by looking at the folders. Directories are mirrored below ``files/``.
    2. Nothing is created or removed behind the mount, so names may be cached for long.
    3. An unlinked file that is open lives in ``orphans/`` until its last close. So does a removed
       directory until the kernel forgets it: a new one that got its number while a program is still
       in it would be taken for the dead one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster.errors import BadName
from sqlitecluster.mount import virtual
from sqlitecluster.mount.context import Context
from sqlitecluster.mount.database import SHM_INODE_BIT, Database
from sqlitecluster.mount.files import File
from sqlitecluster.mount.layout import Kind, Place, join, place
from sqlitecluster.shared import Word
from sqlitecluster.store.journals import drop_unfinished
from sqlitecluster.units import decode_name

log = logging.getLogger(__name__)

ROOT: Final = 1
_SIDES: Final = (Kind.JOURNAL, Kind.WAL, Kind.SHM)


@dataclass(slots=True)
class Directory:
    """A directory; ``path`` is empty for the top."""

    ino: int
    path: str
    orphan: str = ""
    """Where its backing directory is since it was removed."""


@dataclass(frozen=True, slots=True)
class Virtual:
    """A file without bytes."""

    ino: int
    kind: Kind = Kind.VIRTUAL


Node = File | Directory | Virtual


class Tree:
    """All nodes that are known, and the databases."""

    def __init__(self, context: Context, *, successor: bool) -> None:
        self.context = context
        self._successor = successor
        self.databases: dict[str, Database] = {}
        self.root = Directory(ROOT, "")
        self._nodes: dict[int, File | Directory] = {ROOT: self.root}
        self._walked = False
        self.rebound: Callable[[File, File], None] = lambda _old, _new: None
        """Told when a rename makes another object of an open file: handles of the one are handles of the other."""

    def load(self, *, fresh: bool) -> None:
        """Find all databases. ``fresh``: no mount process has served this shared memory before."""
        if fresh:  # nobody can have it mapped: the first to open a database builds its wal-index anew
            for entry in os.scandir(f"{self.context.layout.runtime}/shm"):
                os.unlink(entry.path)
        for entry in sorted(os.scandir(f"{self.context.layout.data}/dbs"), key=lambda entry: entry.name):
            try:
                self._load_database(decode_name(entry.name), fresh=fresh)
            except BadName as error:
                log.warning("ignored a folder in dbs: %s [%s]", error, error.code)
        for path, ino in self._orphans():
            if not fresh:
                self._load_orphan(path, ino)
            elif os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)

    def exists(self, name: str) -> bool:
        """Whether a database of that name exists now."""
        database = self.databases.get(name)
        return database is not None and database.main is not None

    def place(self, path: str) -> Place:
        """What a path stands for."""
        return place(path, self.exists)

    def node(self, ino: int) -> Node:
        """The node of a number.

        Raises:
            OSError: ESTALE, nothing has this number.
        """
        found = self._nodes.get(ino)
        if found is not None:
            return found
        if ino & virtual.INODE_BIT:
            return Virtual(ino)
        self._find_unknown()
        found = self._nodes.get(ino)
        if found is None:
            raise OSError(errno.ESTALE, f"no file has the number {ino}")
        return found

    def known(self, ino: int) -> File | Directory | None:
        """The node of a number, if it is in memory."""
        return self._nodes.get(ino)

    def directory(self, ino: int) -> Directory:
        """The directory of a number.

        Raises:
            OSError: ENOTDIR, ESTALE.
        """
        node = self.node(ino)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node

    def lookup(self, path: str) -> Node | None:
        """The node of a path; None when there is none."""
        where = self.place(path)
        if where.kind is Kind.VIRTUAL:
            ino = virtual.inode(self.context.state, path)
            return None if ino is None else Virtual(ino)
        if where.kind is not Kind.FILE:
            database = self.databases.get(where.name)
            found = database.file(where.kind) if database else None
            if found is not None or where.kind is not Kind.DATABASE:
                return found
        return self._lookup_other(path)

    def listing(self, directory: Directory) -> list[str]:
        """Names in a directory, sorted."""
        if directory.orphan:
            return []
        names = set(os.listdir(self.context.layout.other(directory.path)))
        prefix = directory.path + "/" if directory.path else ""
        for name, database in self.databases.items():
            if name.startswith(prefix) and "/" not in name[len(prefix) :]:
                names.update(f"{name[len(prefix) :]}{suffix}" for suffix in _present(database))
        return sorted(names)

    def create(self, path: str, where: Place | None = None) -> File:
        """Make an empty file; the caller checked roles and that the name is free, and may say what it is to be.

        Raises:
            OSError: EEXIST, ENOSPC, ENOENT …
        """
        where = where or self.place(path)
        if where.kind is Kind.JOURNAL and (kept := self.database(where.name).reuse_journal()) is not None:
            self._nodes[kept.ino] = kept
            return kept
        if where.kind is Kind.FILE:
            backing = self.context.layout.other(path)
        else:
            backing = self.context.layout.backing(where.kind, where.name)
        if where.kind is Kind.DATABASE:
            self.check_sides(where.name)
            os.makedirs(os.path.dirname(backing), exist_ok=True)
        fd = os.open(backing, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        ino = os.fstat(fd).st_ino
        file = self._attach(where, backing, ino)
        file.inherited = False
        self.context.descriptors.adopt(file, fd)
        if where.kind is Kind.DATABASE:
            self.adopt_sides(where.name)
            self.databases[where.name].touch()
        return file

    def database(self, name: str) -> Database:
        """The database object of a name, made when it is new."""
        found = self.databases.get(name)
        if found is None:
            found = self.databases[name] = Database(self.context, name)
        return found

    def check_sides(self, name: str) -> None:
        """Before a database takes this name.

        Raises:
            OSError: EISDIR, a directory has the name of one of its side files.
        """
        for kind in _SIDES:
            if os.path.isdir(self.context.layout.other(f"{name}-{kind.value}")):
                raise OSError(errno.EISDIR, f"{name}-{kind.value} is a directory")

    def check_directory(self, path: str) -> None:
        """Before a directory takes this name.

        Raises:
            OSError: EEXIST, it belongs to SQLite: ``-journal``, ``-wal``, ``-shm`` of a database that exists.
        """
        if self.place(path).kind in _SIDES:
            raise OSError(errno.EEXIST, "a side file of a database has this name")

    def make_directory(self, path: str) -> Directory:
        """mkdir."""
        self.check_directory(path)
        backing = self.context.layout.other(path)
        os.mkdir(backing, 0o700)
        return self._remember_directory(path, os.stat(backing).st_ino)

    def remove_directory(self, path: str) -> None:
        """rmdir.

        Raises:
            OSError: ENOTEMPTY: databases count, too.
        """
        if self.has_databases(path):
            raise OSError(errno.ENOTEMPTY, "there are databases in it")
        backing = self.context.layout.other(path)
        ino = os.stat(backing).st_ino
        directory = self._nodes.get(ino)
        if not isinstance(directory, Directory):  # the kernel has never seen it
            os.rmdir(backing)
            return
        if os.listdir(backing):
            raise OSError(errno.ENOTEMPTY, "there are files in it")
        target = self.context.layout.orphan(ino)
        os.rename(backing, target)
        directory.orphan = target

    def backing(self, directory: Directory) -> str:
        """Where a directory is."""
        return directory.orphan or self.context.layout.other(directory.path)

    def forget_directory(self, directory: Directory) -> None:
        """The kernel has no use for this directory any more."""
        if directory.orphan:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory.orphan)
            del self._nodes[directory.ino]

    def has_databases(self, path: str) -> bool:
        """Whether there are databases below a directory."""
        prefix = path + "/"
        return any(name.startswith(prefix) and database.main for name, database in self.databases.items())

    def put_aside(self, file: File) -> None:
        """The name of an open file is gone: keep its bytes until the last close; or remove it."""
        if file.handles or file.inherited:
            target = self.context.layout.orphan(file.ino)
            if file.kind is Kind.SHM:  # another file system: it stays where it is, without a name of its own
                target = f"{file.path}.{file.ino & ~SHM_INODE_BIT}.gone"
            os.rename(file.path, target)
            file.path = target
            file.unlinked = True
        else:
            os.unlink(file.path)
            self.forget(file)

    def hide(self, file: File) -> None:
        """The kernel has no use for this file any more; its bytes serve another one."""
        if self._nodes.get(file.ino) is file:
            del self._nodes[file.ino]

    def forget(self, file: File) -> None:
        """The kernel has no use for this file any more."""
        file.close()
        if self._nodes.get(file.ino) is file:
            del self._nodes[file.ino]

    def release_orphan(self, file: File) -> None:
        """The last handle of an unlinked file was closed. An unlinked WAL stays: the replicator removes it."""
        layout = self.context.layout
        with contextlib.suppress(FileNotFoundError):
            if file.path.startswith((f"{layout.data}/orphans/", f"{layout.runtime}/shm/")):
                os.unlink(file.path)
        self.forget(file)

    def remember(self, file: File) -> None:
        """Make a file findable by its number."""
        self._nodes[file.ino] = file

    def follow(self, old: File, new: File) -> None:
        """The same inode under another name, perhaps as another kind of file; what has it open goes with it."""
        new.handles, new.writers, new.inherited = old.handles, old.writers, old.inherited
        self.remember(new)
        self.rebound(old, new)

    def files_below(self, path: str) -> list[File | Directory]:
        """Known nodes of other files and directories at or below a path."""
        prefix = path + "/"
        found: list[File | Directory] = []
        for node in self._nodes.values():
            if isinstance(node, Directory):
                name = "" if node.orphan else node.path
            else:
                name = node.name if node.kind is Kind.FILE else ""
            if name == path or name.startswith(prefix):
                found.append(node)
        return found

    def _attach(self, where: Place, backing: str, ino: int) -> File:
        if where.kind is Kind.FILE:
            file = File(self.context, Kind.FILE, where.name, ino, backing)
        else:
            number = ino | SHM_INODE_BIT if where.kind is Kind.SHM else ino
            file = self.database(where.name).make_file(where.kind, backing, number)
        file.inherited = self._successor
        self._nodes[file.ino] = file
        return file

    def adopt_sides(self, name: str) -> None:
        """Side files that were there before their database belong to it now."""
        for kind in (Kind.JOURNAL, Kind.WAL):
            path = f"{name}-{kind.value}"
            source = self.context.layout.other(path)
            if not os.path.lexists(source):
                continue
            target = self.context.layout.backing(kind, name)
            os.rename(source, target)
            old = self._nodes.get(os.stat(target).st_ino)
            if isinstance(old, File):
                old.close()
            database = self.database(name)
            self._load_side(database, kind, fresh=True)
            if isinstance(old, File) and (new := database.file(kind)) is not None:
                self.follow(old, new)

    def _lookup_other(self, path: str) -> File | Directory | None:
        backing = self.context.layout.other(path)
        try:
            stat = os.lstat(backing)
        except OSError:
            return None
        known = self._nodes.get(stat.st_ino)
        if known is not None:
            return known
        if os.path.isdir(backing):
            return self._remember_directory(path, stat.st_ino)
        return self._attach(Place(Kind.FILE, path), backing, stat.st_ino)

    def _remember_directory(self, path: str, ino: int) -> Directory:
        directory = self._nodes[ino] = Directory(ino, path)
        return directory

    def _load_database(self, name: str, *, fresh: bool) -> None:
        database = self.database(name)
        backing = self.context.layout.backing(Kind.DATABASE, name)
        try:
            ino = os.stat(backing).st_ino
        except FileNotFoundError:
            if fresh:  # perhaps deleted just before the node stopped
                database.dropped()
            return
        self._attach(Place(Kind.DATABASE, name), backing, ino)
        if fresh:
            database.note_header()
            assert database.main is not None
            database.main.close()
        for kind in _SIDES:
            self._load_side(database, kind, fresh=fresh)
        if fresh and database.dirty and not database.journal_active:
            # The node died in the middle of a raw write: the replicator shall ask for it.
            database.words[Word.DIRTY_RAW] = 1

    def _load_side(self, database: Database, kind: Kind, *, fresh: bool) -> None:
        backing = self.context.layout.backing(kind, database.name)
        try:
            ino = os.stat(backing).st_ino
        except FileNotFoundError:
            return
        if kind is Kind.JOURNAL and (drop_unfinished(Path(backing)) if fresh else database.load_kept(backing, ino)):
            return
        file = self._attach(Place(kind, database.name), backing, ino)
        if database.wal is file:
            if fresh:
                database.wal.reload()
            else:
                database.wal.resume()
        elif database.journal is file:
            database.journal.resume()
            database.journal_active = database.journal.is_hot()
        file.close()

    def _find_unknown(self) -> None:
        """A successor is asked for a number it has not seen: look at everything once."""
        if self._walked:
            return
        self._walked = True
        top = self.context.layout.other("")
        for folder, directories, files in os.walk(top):
            path = folder[len(top) + 1 :]
            for name in (*directories, *files):
                with contextlib.suppress(OSError):
                    self._lookup_other(join(path, name))

    def _load_orphan(self, path: str, ino: int) -> None:
        if os.path.isdir(path):
            self._nodes[ino] = Directory(ino, f"(removed {ino})", path)
            return
        file = File(self.context, Kind.FILE, f"(deleted {ino})", ino, path)
        file.unlinked = file.inherited = True
        self._nodes[ino] = file

    def _orphans(self) -> list[tuple[str, int]]:
        """Files without a name: (backing path, inode number)."""
        found = [entry.path for entry in os.scandir(f"{self.context.layout.data}/orphans")]
        result = [(path, os.stat(path).st_ino) for path in found]
        shm = os.scandir(f"{self.context.layout.runtime}/shm")
        gone = [entry.path for entry in shm if entry.name.endswith(".gone")]
        return result + [(path, os.stat(path).st_ino | SHM_INODE_BIT) for path in gone]


def _present(database: Database) -> list[str]:
    if database.main is None:
        return []
    sides = (kind for kind in _SIDES if database.file(kind) is not None)
    return ["", *(f"-{kind.value}" for kind in sides)]
