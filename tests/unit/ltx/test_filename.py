"""Names of LTX files."""

from __future__ import annotations

import pytest

from sqlitecluster.errors import LTXError
from sqlitecluster.ltx import filename, parse_filename


def test_a_name_gives_back_its_transactions() -> None:
    assert filename(1, 0xABC) == "0000000000000001-0000000000000abc.ltx"
    assert parse_filename(filename(1, 0xABC)) == (1, 0xABC)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0000000000000001-0000000000000002.ltx.tmp",
        "0000000000000001-0000000000000002.LTX",
        "000000000000000A-000000000000000B.ltx",
        "1-2.ltx",
        "0000000000000000-0000000000000001.ltx",
        "0000000000000003-0000000000000002.ltx",
        "x0000000000000001-0000000000000002.ltx",
        "0000000000000001-0000000000000002.ltx\n",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(LTXError):
        parse_filename(name)
