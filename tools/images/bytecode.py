"""Compiled modules beside their sources: containers have a read-only root and should start fast.

The code never looks at the source's time (``unchecked-hash``), so the bytes depend on
the source and its path in the image alone. Compiled files are cached by both.
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from images.tree import Entry, Tree

_TAG: Final = sys.implementation.cache_tag
_VERSION: Final = sys.version.encode()


def add_bytecode(tree: Tree, cache: Path) -> None:
    """Add a ``.pyc`` for every ``.py`` of the tree."""
    cache.mkdir(parents=True, exist_ok=True)
    sources = [(path, entry.source) for path, entry in tree.entries.items() if path.endswith(".py") and entry.source]
    wanted = {path: (source, cache / _key(path, source)) for path, source in sources}
    _compile([(path, source, out) for path, (source, out) in wanted.items() if not out.exists()])
    for path, (_source, out) in wanted.items():
        if out.stat().st_size:
            folder, name = os.path.split(path)
            tree.add(f"{folder}/__pycache__/{name[:-3]}.{_TAG}.pyc", Entry(source=out))


def _key(path: str, source: Path) -> str:
    return hashlib.sha256(_VERSION + path.encode() + b"\0" + source.read_bytes()).hexdigest()


def _compile(jobs: list[tuple[str, Path, Path]]) -> None:
    if not jobs:
        return
    with ProcessPoolExecutor() as pool:
        consume(pool.map(_compile_one, jobs, chunksize=50))


def consume(results: Iterable[None]) -> None:
    """Wait for all of them; the first error is raised."""
    for _ in results:
        pass


def _compile_one(job: tuple[str, Path, Path]) -> None:
    path, source, out = job
    part = out.with_suffix(".part")
    try:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), str(part), "/" + path, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, UnicodeDecodeError):  # a template or an example that is no Python
        part.write_bytes(b"")
    os.replace(part, out)
