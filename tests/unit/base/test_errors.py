"""The error table is complete, stable and documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sqlitecluster import errors
from sqlitecluster.errors import TABLE, FormatError, LTXError, PositionMismatch, SQLiteClusterError, from_wire

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "errors.md"
ROW = re.compile(r"^\| `\w+` \| \d+ \| \d+ \| .+ \|$", re.MULTILINE)


def test_every_class_has_a_code_of_its_own() -> None:
    classes = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SQLiteClusterError)
    }
    assert set(TABLE.values()) == classes
    assert all(re.fullmatch(r"([A-Z]+[a-z]*)+", code) for code in TABLE)


def test_the_document_lists_exactly_this_table() -> None:
    rows = [f"| `{code}` | {kind.http_status} | {kind.exit_code} | {kind.meaning} |" for code, kind in TABLE.items()]
    assert ROW.findall(DOCUMENT.read_text()) == rows, "\n".join(("docs/errors.md should list:", *rows))


@pytest.mark.parametrize("code", TABLE)
def test_an_error_travels_between_processes(code: str) -> None:
    error = from_wire(code, "what happened")
    assert (type(error), str(error)) == (TABLE[code], "what happened")
    assert error.to_wire() == {"code": code, "message": "what happened"}


def test_an_unknown_code_becomes_the_base_class() -> None:
    assert type(from_wire("FromTheFuture", "x")) is SQLiteClusterError


def test_a_format_error_names_field_value_and_reason() -> None:
    error = LTXError("page_size", 3, "not a SQLite page size")
    assert isinstance(error, FormatError)
    assert (error.field, error.value, str(error)) == ("page_size", 3, "LTX: page_size=3: not a SQLite page size")


def test_a_position_mismatch_names_both_positions() -> None:
    assert str(PositionMismatch("1/a", "2/b")) == "the database is at 1/a, the transaction continues 2/b"


def test_an_error_without_text_says_what_its_class_means() -> None:
    assert str(errors.NotPrimary()) == errors.NotPrimary.meaning
