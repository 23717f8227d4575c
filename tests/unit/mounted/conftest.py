"""Fixtures: a directory that is really mounted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.mounting import MountedNode, can_mount


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not can_mount():
        for item in items:
            if "mounted" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="needs root and /dev/fuse"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedNode]:
    """A primary that the tests of one module share; each works below names of its own."""
    with MountedNode(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="sqlitecluster-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., MountedNode]]:
    """Makes a node of one's own."""
    with ExitStack() as stack:

        def make(**options: Any) -> MountedNode:
            return stack.enter_context(MountedNode(tmp_path / "node", **options))

        yield make
