"""Shared libraries: everything that the programs and modules of a tree load, by ``ldd``."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from images.tree import PROGRAM, Tree, normal

_LINE: Final = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$")
_MISSING: Final = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)
_SYSTEM: Final = ("/lib", "/usr/lib")
_AT_RUN_TIME: Final = ("libgcc_s.so.1",)  # the C library opens it when a thread ends
_BATCH: Final = 200


class LibraryError(Exception):
    """A library is not on this machine."""


def add_libraries(tree: Tree, *, present: Iterable[str] = ()) -> None:
    """Add what the tree's files need and is not ``present`` in a lower layer."""
    binaries = [source for _path, source in tree.files() if _is_elf(source)]
    known = set(present) | set(tree.entries)
    for source in sorted(_needed(binaries)):
        path = _place(source)
        if path not in known:
            tree.file(path, source.resolve(), mode=PROGRAM)


def add_run_time_libraries(tree: Tree) -> None:
    """Libraries that no file names."""
    beside = next(source.parent for path, source in tree.files() if os.path.basename(path).startswith("libc.so"))
    for name in _AT_RUN_TIME:
        found = [folder / name for folder in (beside, Path("/usr/lib") / beside.name) if (folder / name).exists()]
        if not found:
            raise LibraryError(f"{name} is missing beside {beside}")
        tree.file(_place(found[0]), found[0].resolve(), mode=PROGRAM)


def _needed(binaries: list[Path]) -> Iterator[Path]:
    for start in range(0, len(binaries), _BATCH):
        batch = [str(path) for path in binaries[start : start + _BATCH]]
        done = subprocess.run(["ldd", *batch], capture_output=True, text=True, check=False)
        missing = _MISSING.search(done.stdout)
        if missing:
            raise LibraryError(f"the library {missing[1]} is missing on this machine")
        for line in done.stdout.splitlines():
            match = _LINE.match(line)
            if match and "/site-packages/" not in match[2]:  # wheels bring their own, found beside them
                yield Path(os.path.normpath(match[2]))


def _place(source: Path) -> str:
    """Where a library stands in the image: its own place, or the system's folder for one from elsewhere."""
    if str(source).startswith(_SYSTEM):
        return normal(str(source))
    return f"usr/lib/{source.name}"


def _is_elf(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"
