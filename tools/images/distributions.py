"""Python packages of an image: exactly what a lock file names, taken from the virtual environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from images.interpreter import MissingError
from images.tree import Tree

_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_TESTS: Final = {"test", "tests", "__pycache__"}
_NOT_NEEDED: Final = {".pyx", ".pxd", ".pyi", ".c", ".h", ".hpp", ".lib", ".a"}


def pinned(lock: Path) -> dict[str, str]:
    """Names and versions of a requirements file."""
    return dict(_PINNED.findall(lock.read_text()))


def add_distributions(tree: Tree, lock: Path, site_packages: str, left_out: frozenset[str]) -> None:
    """Add the files of every package in ``lock``, except those that the image does without.

    Raises:
        MissingError: the environment has another version, or not the package.
    """
    for name, version in sorted(pinned(lock).items()):
        if name in left_out:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise MissingError(f"{name} is not installed: make install") from error
        if found.version != version:
            raise MissingError(f"{name} is {found.version}, the lock says {version}: make install")
        for inside, source in _files(found):
            tree.file(f"{site_packages}/{inside}", source)


def _files(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or []:
        parts = file.parts
        if parts[0] == ".." or _TESTS & set(parts) or file.suffix in _NOT_NEEDED:
            continue
        source = Path(str(file.locate()))
        if source.is_file():
            yield str(file), source
