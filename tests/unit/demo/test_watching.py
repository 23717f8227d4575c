"""What the demo says about what it saw: gaps between rows, pods in a word."""

from __future__ import annotations

from typing import Any

import pytest
from demo.watching import Gap, Row, cell, longest_gap, parse, table_line


def rows(*moments: float, pod: str = "notes-0") -> list[Row]:
    return [Row(at, str(at), pod) for at in moments]


def test_a_line_of_the_client_is_a_row() -> None:
    assert parse('{"at": 1.5, "token": "a", "id": 3, "pod": "notes-1"}') == Row(1.5, "a", "notes-1")


@pytest.mark.parametrize("line", ["", "{", "[]", '{"at": 1}', "3"])
def test_anything_else_is_none(line: str) -> None:
    assert parse(line) is None


def test_the_gap_is_the_longest_silence_that_ended_after_the_moment() -> None:
    seen = [*rows(0, 5, 6), Row(8, "b", "notes-1"), Row(8.1, "c", "notes-1")]

    assert longest_gap(seen, 5.5) == Gap(2, "notes-0", "notes-1")


def test_without_a_row_since_the_moment_there_is_no_gap() -> None:
    assert longest_gap(rows(0, 1), 2) is None


def pod(*, ready: bool = True, role: str = "", node: str = "n1", ending: bool = False) -> dict[str, Any]:
    meta: dict[str, Any] = {"labels": {"sqlitecluster.dev/role": role} if role else {}}
    if ending:
        meta["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {"metadata": meta, "spec": {"nodeName": node}, "status": {"conditions": [condition]}}


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (None, "gone"),
        (pod(ending=True), "ending"),
        (pod(role="primary"), "primary"),
        (pod(role="replica", ready=False), "(replica)"),
        (pod(ready=False), "starting"),
        (pod(node="n2", role="primary"), "node is off"),
    ],
)
def test_a_pod_in_a_word(found: dict[str, Any] | None, word: str) -> None:
    assert cell(found, frozenset({"n2"})) == word


def test_a_line_says_since_when_nothing_was_written_only_when_it_is_long() -> None:
    assert "no write" not in table_line(1, ["primary"], 3, 50, 0.2)
    assert "no write for 2.5 s" in table_line(1, ["primary"], 3, 50, 2.5)
