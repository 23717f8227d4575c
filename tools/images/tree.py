"""What is in one layer of an image: paths and where their bytes come from. No time stamps, owner always root."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FILE: Final = 0o644
PROGRAM: Final = 0o755
FOLDER: Final = 0o755

_MERGED: Final = ("bin", "sbin", "lib", "lib64")  # links to the same name below /usr, as in today's distributions


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (from ``source`` or ``data``), a link (``target``) or a folder (none of them)."""

    mode: int = FILE
    source: Path | None = None
    data: bytes | None = None
    target: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.source is None and self.data is None and self.target is None

    def read(self) -> bytes:
        """The bytes of a file."""
        if self.data is not None:
            return self.data
        return self.source.read_bytes() if self.source is not None else b""


@dataclass(slots=True)
class Tree:
    """Entries by their path in the image, without a leading slash."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, path: str, entry: Entry) -> None:
        """Add or replace an entry; folders above it need not be added."""
        self.entries[normal(path)] = entry

    def file(self, path: str, source: Path, *, mode: int | None = None) -> None:
        """A file of this machine; executable when it is here."""
        if mode is None:
            mode = PROGRAM if os.access(source, os.X_OK) else FILE
        self.add(path, Entry(mode, source=source))

    def text(self, path: str, text: str, *, mode: int = FILE) -> None:
        self.add(path, Entry(mode, data=text.encode()))

    def link(self, path: str, target: str) -> None:
        self.add(path, Entry(0o777, target=target))

    def folder(self, path: str, *, mode: int = FOLDER) -> None:
        self.add(path, Entry(mode))

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Every entry, folders before what is in them."""
        folders = {above for path in self.entries for above in _above(path)}
        everything = {**dict.fromkeys(folders, Entry(FOLDER)), **self.entries}
        yield from sorted(everything.items())

    def files(self) -> Iterator[tuple[str, Path]]:
        """Files that come from this machine."""
        for path, entry in sorted(self.entries.items()):
            if entry.source is not None:
                yield path, entry.source

    def digest(self) -> str:
        """Changes with every path, mode and byte."""
        total = hashlib.sha256()
        for path, entry in self.items():
            content = "" if entry.is_folder else entry.target or hashlib.sha256(entry.read()).hexdigest()
            total.update(f"{path}\0{entry.mode:o}\0{content}\n".encode())
        return total.hexdigest()

    def write(self, folder: Path) -> None:
        """Lay the tree out below ``folder``."""
        for path, entry in self.items():
            at = folder / path
            if entry.is_folder:
                at.mkdir(exist_ok=True)
                at.chmod(entry.mode)
            elif entry.target is not None:
                at.unlink(missing_ok=True)
                at.symlink_to(entry.target)
            else:
                _write_file(at, entry)


def normal(path: str) -> str:
    """``/lib/x`` → ``usr/lib/x``: one place for each file, whatever the machine's own layout is."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > 1 and parts[0] in _MERGED:
        parts.insert(0, "usr")
    return "/".join(parts)


def merged_links(tree: Tree) -> None:
    """``/bin`` and the like."""
    for name in _MERGED:
        tree.folder(f"usr/{name}")
        tree.entries[name] = Entry(0o777, target=f"usr/{name}")


def _above(path: str) -> Iterator[str]:
    parts = path.split("/")
    for end in range(1, len(parts)):
        yield "/".join(parts[:end])


def _write_file(at: Path, entry: Entry) -> None:
    at.unlink(missing_ok=True)
    if entry.source is not None:
        shutil.copyfile(entry.source, at)
    else:
        at.write_bytes(entry.read())
    at.chmod(entry.mode)
