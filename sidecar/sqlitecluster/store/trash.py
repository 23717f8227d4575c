"""Deleted databases: ``<data>/trash/<enc>/<unix ms>/{database,journal,wal}``, kept for the retention.

The mount moves the files here when a program deletes a database; the housekeeper
removes them when they are older than the retention; ``restore`` is for the command line.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster.errors import BadName, DatabaseExists, NoSuchDatabase
from sqlitecluster.units import decode_name, encode_name

PARTS: Final = ("database", "journal", "wal")


@dataclass(frozen=True, slots=True)
class Trashed:
    """One deleted database."""

    name: str
    deleted_ms: int
    path: Path
    size: int
    """Bytes."""


def throw(data_dir: Path, name: str, now_ms: int) -> Path:
    """Move the files of a database into the trash; LTX, checksums and state stay."""
    source = data_dir / "dbs" / encode_name(name)
    parent = data_dir / "trash" / encode_name(name)
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        target = parent / str(now_ms)
        try:
            target.mkdir()
            break
        except FileExistsError:
            now_ms += 1
    for part in PARTS:
        if (source / part).exists():
            os.replace(source / part, target / part)
    return target


def contents(data_dir: Path) -> list[Trashed]:
    """Everything in the trash, by name, then time."""
    found = []
    for folder in _folders(data_dir / "trash"):
        try:
            name = decode_name(folder.name)
        except BadName:
            continue
        for entry in _folders(folder):
            if entry.name.isdigit():
                size = sum(part.stat().st_size for part in entry.iterdir() if part.is_file())
                found.append(Trashed(name, int(entry.name), entry, size))
    return sorted(found, key=lambda each: (each.name, each.deleted_ms))


def purge(data_dir: Path, now_ms: int, age_s: float) -> list[Trashed]:
    """Remove what was deleted longer ago than ``age_s``; returns it."""
    old = [each for each in contents(data_dir) if each.deleted_ms < now_ms - age_s * 1000]
    for each in old:
        shutil.rmtree(each.path)
        if not any(each.path.parent.iterdir()):
            each.path.parent.rmdir()
    return old


def restore(data_dir: Path, name: str, deleted_ms: int) -> None:
    """Move a deleted database's files back; nothing may have it open.

    Raises:
        NoSuchDatabase: it is not in the trash (any more).
        DatabaseExists: there is a new one of this name.
    """
    source = data_dir / "trash" / encode_name(name) / str(deleted_ms)
    target = data_dir / "dbs" / encode_name(name)
    if not source.is_dir():
        raise NoSuchDatabase(f"{name}: nothing was deleted at {deleted_ms}")
    if (target / "database").exists():
        raise DatabaseExists(f"{name}: there is a new database of this name")
    target.mkdir(parents=True, exist_ok=True)
    for part in reversed(PARTS):  # the database last: only then it is found
        if (source / part).exists():
            os.replace(source / part, target / part)
    source.rmdir()


def _folders(parent: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir()]
    except FileNotFoundError:
        return []
