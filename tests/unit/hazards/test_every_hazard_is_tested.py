"""The table of hazards: each has a guard, and each guard exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from lanes import badinput, identity, quorum, scenes, special
from support.hazards import HAZARDS, OPEN

ROOT = Path(__file__).resolve().parents[2]
CASES = {lane.__name__.removeprefix("lanes."): lane.CASES for lane in (scenes, special, badinput, identity, quorum)}
GUARDS = sorted({guard for guards in HAZARDS.values() for guard in guards})


@cache
def names_in(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


def test_the_table_has_every_row() -> None:
    ids = [re.split(r"\s", row)[0] for row in (*HAZARDS, *OPEN)]
    assert sorted(ids) == sorted([f"B{n}" for n in range(1, 28)] + [str(n) for n in range(1, 31)])


def test_a_row_without_a_guard_says_why() -> None:
    assert all(HAZARDS.values())
    assert all(OPEN.values())


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_exists(guard: str) -> None:
    if guard.startswith("lane:"):
        lane, _, case = guard.removeprefix("lane:").partition("/")
        assert (ROOT / "lanes" / f"{lane}.py").exists()
        assert not case or case in CASES[lane]
    else:
        file, _, name = guard.partition("::")
        assert name.startswith("test_") and name in names_in(ROOT / "unit" / file)
