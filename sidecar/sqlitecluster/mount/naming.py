"""Removing and renaming, where databases make them more than a system call.

Called by ``operations`` after the roles were asked.

Rules:
    1. Nothing here waits: the kernel holds the directory (hazard 6).
    2. Deleting a database is a drop in the log: its files go to the trash, LTX,
       checksums and state stay, so that a database made anew continues the history.
    3. A WAL that is not captured keeps its bytes as ``wal.<generation>.gone`` until the
       replicator has read and removed it.
    4. Renaming a database is a drop of the old name and a new image under the new one.
    5. What a file is follows from what it holds: a name that a database may have does not make it one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time

from sqlitecluster.mount.context import Context
from sqlitecluster.mount.database import Database
from sqlitecluster.mount.files import SQLITE_MAGIC, File
from sqlitecluster.mount.layout import Kind, Place
from sqlitecluster.mount.names import Names
from sqlitecluster.mount.tree import Directory, Tree, Virtual
from sqlitecluster.shared import KIND_DATABASE, Word
from sqlitecluster.units import encode_name

log = logging.getLogger(__name__)


class Naming:
    """Changes of names."""

    def __init__(self, tree: Tree, names: Names) -> None:
        self._tree = tree
        self._names = names
        self._context: Context = tree.context

    def unlink(self, path: str, *, privileged: bool) -> None:
        """Remove a file.

        Raises:
            OSError: ENOENT, EISDIR, EPERM (policy) …
        """
        node = self._tree.lookup(path)
        if isinstance(node, Virtual):
            return
        if node is None:
            raise OSError(errno.ENOENT, "no such file")
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, "a directory")
        database = node.database
        if database is None:
            self._tree.put_aside(node)
            self._names.remove(path)
        elif node.kind is Kind.DATABASE:
            self._drop(database, privileged=privileged)
        else:
            self._remove_side(database, node, privileged=privileged)

    def rename(self, old: str, new: str, *, replace: bool, privileged: bool) -> None:
        """Rename a file or directory.

        Raises:
            OSError: ENOENT, EEXIST, ENOTEMPTY, EPERM …
        """
        source, target = self._tree.lookup(old), self._tree.lookup(new)
        if source is None:
            raise OSError(errno.ENOENT, "no such file")
        if isinstance(source, Virtual) or isinstance(target, Virtual):
            raise OSError(errno.EPERM, "this name is not a file")
        if target is not None and not replace:
            raise OSError(errno.EEXIST, "the new name exists")
        if isinstance(source, Directory):
            self._rename_directory(source, target, new)
        else:
            self._rename_file(source, target, new, privileged=privileged)
        self._names.rename(old, new)

    def become_database(self, file: File) -> File:
        """A plain file whose name a database may have is one from now on; returns what it is then.

        Raises:
            OSError: EISDIR, a directory has the name of one of its side files.
        """
        name, is_empty = file.name, not file.stat().st_size
        self._tree.check_sides(name)
        backing = self._context.layout.backing(Kind.DATABASE, name)
        os.makedirs(os.path.dirname(backing), exist_ok=True)
        database = self._tree.database(name)
        if not is_empty:  # what stands there was not marked; said before a successor can find it
            database.words[Word.RAW_HINT] += 1
        os.rename(file.path, backing)
        self._rebind(file, Place(Kind.DATABASE, name), backing)
        self._tree.adopt_sides(name)
        database.note_header()
        database.touch()
        assert database.main is not None
        return database.main

    def _remove_side(self, database: Database, file: File, *, privileged: bool) -> None:
        if file is database.journal and not privileged:
            database.commit_journal()
        if file is database.wal:
            self._remove_wal(database)
        elif file is database.journal and database.journal.may_be_kept():
            self._tree.hide(file)
            database.keep_journal()
        else:
            if file is database.journal:
                self._context.journals_removed.add(os.path.dirname(file.path))
                database.journal.end_reuse()
            elif file is database.shm:
                database.words[Word.INDEX_GONE] = database.words[Word.WAL_GEN] + 1
            self._tree.put_aside(file)
            database.detach(file.kind)
        if file.kind is not Kind.SHM:
            database.touch()

    def _remove_wal(self, database: Database) -> None:
        wal = database.wal
        assert wal is not None
        if database.is_captured():
            self._tree.put_aside(wal)
        else:
            generation = int(database.words[Word.WAL_GEN])
            folder = self._context.layout.database_dir(database.name)
            while os.path.lexists(target := f"{folder}/wal.{generation}.gone"):
                generation += 1
            database.words[Word.WAL_GEN] = generation
            os.rename(wal.path, target)
            wal.path, wal.unlinked = target, True
            if not wal.handles and not wal.inherited:
                self._tree.forget(wal)
        database.next_generation(has_wal=False)
        database.detach(Kind.WAL)

    def _drop(self, database: Database, *, privileged: bool) -> None:
        if self._context.config.delete_policy == "Refuse" and not privileged and not _was_never_one(database):
            log.warning("%s: deleting databases is refused here (deletePolicy)", database.name)
            raise OSError(errno.EPERM, "deleting databases is refused")
        self._empty(database)
        self._names.remove(database.name)
        database.dropped()

    def _empty(self, database: Database) -> None:
        """Move the files of a database to the trash; side files that remain visible become other files."""
        main = database.main
        assert main is not None
        if _was_never_one(database):
            self._tree.put_aside(main)
            database.detach(Kind.DATABASE)
            return
        folder = self._trash(database.name)
        os.rename(main.path, f"{folder}/database")
        main.path, main.unlinked = f"{folder}/database", True
        database.detach(Kind.DATABASE)
        if not main.handles and not main.inherited:
            self._tree.forget(main)
        for kind in (Kind.JOURNAL, Kind.WAL):
            file = database.file(kind)
            if file is not None:
                self._set_free(database, file, f"{folder}/{kind.value}")
        if database.shm is not None:
            self._tree.put_aside(database.shm)
            database.detach(Kind.SHM)

    def _set_free(self, database: Database, file: File, copy: str) -> None:
        """A side file without its database: a copy in the trash, the name stays as an other file."""
        target = self._context.layout.other(file.name)
        if file is database.journal:
            database.journal.end_reuse()
        os.link(file.path, copy)
        with contextlib.suppress(FileNotFoundError):  # the directory of a database may exist only in its name
            os.rename(file.path, target)
            file.close()
            database.detach(file.kind)
            plain = File(self._context, Kind.FILE, file.name, file.ino, target)
            self._tree.follow(file, plain)
        if file.kind is Kind.WAL:
            database.next_generation(has_wal=False)

    def _trash(self, name: str) -> str:
        parent = f"{self._context.layout.data}/trash/{encode_name(name)}"
        os.makedirs(parent, exist_ok=True)
        at_ms = time.time_ns() // 1_000_000
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{parent}/{at_ms}")
                return f"{parent}/{at_ms}"
            at_ms += 1

    def _rename_file(self, source: File, target: File | Directory | None, new: str, *, privileged: bool) -> None:
        if isinstance(target, Directory):
            raise OSError(errno.EISDIR, "the new name is a directory")
        where = self._target(source, new, privileged=privileged)
        if where.kind is Kind.DATABASE:
            self._tree.check_sides(where.name)
        if where.kind is Kind.JOURNAL:
            self._tree.database(where.name).discard_kept()
        if source.database is not None and source.kind is not Kind.DATABASE:
            self._end_side(source.database, source, privileged=privileged)
        if source.kind is Kind.DATABASE:
            assert source.database is not None
            self._move_database(source, target, where)
            return
        if where.kind is Kind.DATABASE:
            self._replace_database(source, where)
            return
        if target is not None:
            self._remove_target(target, privileged=privileged)
        backing = self._backing(where)
        os.rename(source.path, backing)
        self._rebind(source, where, backing)

    def _target(self, source: File, new: str, *, privileged: bool) -> Place:
        """What a renamed file is under its new name."""
        where = self._tree.place(new)
        if where.kind is Kind.DATABASE and source.kind is Kind.FILE and not self._tree.exists(new):
            if source.read(0, len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                return Place(Kind.FILE, new)
            if not privileged:
                self._context.require_primary()
        return where

    def _move_database(self, source: File, target: File | None, where: Place) -> None:
        """The old name is dropped, its file goes on under the new one."""
        old = source.database
        assert old is not None
        old.detach(Kind.DATABASE)
        if where.kind is Kind.DATABASE:
            self._replace_database(source, where)
        else:
            if target is not None:
                self._remove_target(target, privileged=False)
            backing = self._backing(where)
            os.rename(source.path, backing)
            self._rebind(source, where, backing)
        for kind in (Kind.JOURNAL, Kind.WAL):
            file = old.file(kind)
            if file is not None:
                self._set_free(old, file, f"{self._trash(old.name)}/{kind.value}")
        if old.shm is not None:
            self._tree.put_aside(old.shm)
            old.detach(Kind.SHM)
        old.dropped()

    def _replace_database(self, source: File, where: Place) -> None:
        """A file takes a database's name: the usual way to replace one as a whole."""
        backing = self._context.layout.backing(Kind.DATABASE, where.name)
        os.makedirs(os.path.dirname(backing), exist_ok=True)
        database = self._tree.database(where.name)
        if database.main is not None:
            self._tree.put_aside(database.main)
            database.detach(Kind.DATABASE)
        os.rename(source.path, backing)
        self._rebind(source, where, backing)
        database.replaced()

    def _end_side(self, database: Database, file: File, *, privileged: bool) -> None:
        """A side file loses its name to a rename: as if it were deleted."""
        if file is database.journal:
            if not privileged:
                database.commit_journal()
            database.journal.end_reuse()
        if file is database.wal:
            database.next_generation(has_wal=False)
        database.detach(file.kind)
        database.touch()

    def _remove_target(self, target: File, *, privileged: bool) -> None:
        if target.database is None:
            self._tree.put_aside(target)
        elif target.kind is Kind.DATABASE:
            self._drop(target.database, privileged=privileged)
        else:
            self._remove_side(target.database, target, privileged=privileged)

    def _rebind(self, source: File, where: Place, backing: str) -> None:
        """The same inode under another name, perhaps as another kind of file."""
        source.close()
        if where.kind is Kind.FILE:
            file = File(self._context, Kind.FILE, where.name, source.ino, backing)
        else:
            file = self._tree.database(where.name).make_file(where.kind, backing, source.ino)
        self._tree.follow(source, file)
        self._move_writers(source, file)
        if where.kind is Kind.WAL:
            wal = self._tree.database(where.name).wal
            assert wal is not None
            wal.reload()

    @staticmethod
    def _move_writers(source: File, file: File) -> None:
        """All handles of a database file are of one inode, so all of its writers move."""
        if source.kind is Kind.DATABASE and source.database is not None:
            words = source.database.words
            file.writers, words[Word.WRITERS] = int(words[Word.WRITERS]), 0
        if file.kind is Kind.DATABASE and file.database is not None:
            file.database.words[Word.WRITERS] += file.writers

    def _backing(self, where: Place) -> str:
        if where.kind is Kind.FILE:
            return self._context.layout.other(where.name)
        return self._context.layout.backing(where.kind, where.name)

    def _rename_directory(self, source: Directory, target: File | Directory | None, new: str) -> None:
        old = source.path
        if isinstance(target, File):
            raise OSError(errno.ENOTDIR, "the new name is a file")
        if new.startswith(old + "/"):
            raise OSError(errno.EINVAL, "a directory cannot move into itself")
        self._tree.check_directory(new)
        if target is not None:
            self._tree.remove_directory(new)
        moved = self._tree.files_below(old)
        inside = [name for name in self._tree.databases if name.startswith(old + "/")]
        os.rename(self._context.layout.other(old), self._context.layout.other(new))
        for node in moved:
            if isinstance(node, Directory):
                node.path = new + node.path[len(old) :]
            else:
                node.close()
                node.name = new + node.name[len(old) :]
                node.path = self._context.layout.other(node.name)
        for name in inside:
            main = self._tree.databases[name].main
            if main is not None:
                path = new + name[len(old) :]
                self._move_database(main, None, self._tree.place(path))


def _was_never_one(database: Database) -> bool:
    """Whether a file only has a name that a database could have: nothing of it need be kept."""
    words = database.words
    has_sides = any(database.file(kind) is not None for kind in (Kind.JOURNAL, Kind.WAL, Kind.SHM))
    return words[Word.KIND] != KIND_DATABASE and not words[Word.TXID] and not has_sides
