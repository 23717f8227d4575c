"""docs/operator.md says what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from sqlitecluster_operator import options
from sqlitecluster_operator.reconcile import reasons

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "operator.md").read_text()


def rows(heading: str) -> dict[str, str]:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))


def test_the_tables_of_conditions_and_reasons_are_the_codes() -> None:
    assert rows("Conditions") == reasons.CONDITIONS
    assert rows("Reasons of Ready") == reasons.READY


def test_no_reason_is_used_that_is_not_in_the_table() -> None:
    tree = ast.parse((ROOT / "operator/sqlitecluster_operator/reconcile/status.py").read_text())
    deciding = {"ready", "_trouble", "_asleep", "_served", "_without_primary", "_updating"}
    used = {
        call.args[1].value
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in deciding
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") == "Sum"
        and isinstance(call.args[1], ast.Constant)
    }

    assert used == set(reasons.READY)


def test_the_command_line_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "version", lambda: "VERSION")
    flags = {flag for action in options.parser()._actions for flag in action.option_strings if flag.startswith("--")}
    section = TEXT.split("## Command line\n")[1].split("\n## ")[0]

    assert flags == set(re.findall(r"(?<![\w-])--[a-z-]+", section))
