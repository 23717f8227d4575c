"""Fixtures of the tests that are named for a hazard of the design."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.capture_rig import Rig, RigDatabase, rig_in


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A primary whose mount is played by the test."""
    with rig_in(tmp_path) as made:
        yield made


@pytest.fixture
def app(rig: Rig) -> RigDatabase:
    """One database of it, not yet created."""
    return rig.database("app.db")
