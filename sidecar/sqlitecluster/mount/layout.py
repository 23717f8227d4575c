"""Which name below the mount is what, and where its bytes are. Pure.

    <data>/dbs/<enc>/database|journal|wal    a database and its side files
    <data>/files/<path>                      everything else; directories are mirrored here
    <data>/orphans/<ino>                     unlinked while open
    <runtime>/shm/<enc>, <runtime>/dirty/<enc>

``-journal``, ``-wal`` and ``-shm`` belong to a database while it exists; otherwise
they are other files. So is a file with a name that a database may have, until it holds
one (``files``, ``gate``). Virtual names are answered without any file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sqlitecluster.units import encode_name, valid_database_name


class Kind(Enum):
    """What a name stands for."""

    DIRECTORY = "directory"
    FILE = "file"
    DATABASE = "database"
    JOURNAL = "journal"
    WAL = "wal"
    SHM = "shm"
    VIRTUAL = "virtual"


_SIDES: Final = {"-journal": Kind.JOURNAL, "-wal": Kind.WAL, "-shm": Kind.SHM}
POSITION_SUFFIX: Final = "-pos"
NODE_FILES: Final = (".primary", ".role", ".lag")


@dataclass(frozen=True, slots=True)
class Place:
    """A classified name. ``name`` is the database it belongs to, or the path of another file."""

    kind: Kind
    name: str


def place(path: str, exists: Callable[[str], bool]) -> Place:
    """Classify a path below the mount (no leading slash).

    Args:
        path: as the program named it.
        exists: whether a database of that name exists now.
    """
    if path in NODE_FILES:
        return Place(Kind.VIRTUAL, path)
    for suffix, kind in _SIDES.items():
        if path.endswith(suffix):
            base = path[: -len(suffix)]
            return Place(kind, base) if exists(base) else Place(Kind.FILE, path)
    if path.endswith(POSITION_SUFFIX) and exists(path[: -len(POSITION_SUFFIX)]):
        return Place(Kind.VIRTUAL, path)
    return Place(Kind.DATABASE if valid_database_name(path) else Kind.FILE, path)


def join(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory`` (empty for the top)."""
    return f"{directory}/{name}" if directory else name


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of the backing files."""

    data: str
    runtime: str

    def database_dir(self, name: str) -> str:
        """Folder of one database."""
        return f"{self.data}/dbs/{encode_name(name)}"

    def backing(self, kind: Kind, name: str) -> str:
        """The file behind a classified name."""
        if kind is Kind.SHM:
            return f"{self.runtime}/shm/{encode_name(name)}"
        if kind in (Kind.FILE, Kind.DIRECTORY):
            return self.other(name)
        return f"{self.database_dir(name)}/{kind.value}"

    def other(self, path: str) -> str:
        """A file or directory that is no part of a database."""
        return f"{self.data}/files/{path}" if path else f"{self.data}/files"

    def dirty(self, name: str) -> str:
        """The table of written ranges."""
        return f"{self.runtime}/dirty/{encode_name(name)}"

    def held(self, slot: int) -> str:
        """The bytes that complete a commit and are held back."""
        return f"{self.runtime}/held/{slot}"

    def orphan(self, ino: int) -> str:
        """Where an unlinked open file waits for its last close."""
        return f"{self.data}/orphans/{ino}"

    def prepare(self) -> None:
        """Make the folders."""
        for path in ("dbs", "files", "orphans", "spool", "trash"):
            os.makedirs(f"{self.data}/{path}", exist_ok=True)
        for path in ("shm", "dirty", "spool", "held"):
            os.makedirs(f"{self.runtime}/{path}", mode=0o700, exist_ok=True)
