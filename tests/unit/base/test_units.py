"""Names and positions: what is accepted, what is refused, and that both ways agree."""

from __future__ import annotations

import pytest

from sqlitecluster import units
from sqlitecluster.errors import BadName, FormatError

LONG = "a" * 127


@pytest.mark.parametrize(
    "name",
    [
        *("a", "app.db", "x-1_2.sqlite3", "a/b/c/d/e/f/g/h", LONG, f"{LONG}/b", "a-wal/b", "-wal.db", "a..b"),
        *(
            "a b",
            "a%2Fb",
            "a%",
            "ä" * 42,
            "Plug-in Support/x.db",
            "me@example.org",
            "a'z\"\\;?#.db",
            " ",
            "~",
            "数据.db",
        ),
    ],
)
def test_names_of_databases(name: str) -> None:
    assert units.valid_database_name(name)
    encoded = units.encode_name(name)
    assert units.decode_name(encoded) == name
    assert encoded.isascii() and "/" not in encoded and len(encoded) <= 255


def test_a_name_has_one_encoding() -> None:
    assert units.encode_name("sub/my data.db") == "sub%2Fmy%20data.db"
    assert len({units.encode_name(name) for name in ("a/b", "a%2Fb", "a%252Fb", "a b", "a+b", "a%20b")}) == 6


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        ".",
        "..",
        "a/../b",
        "a\0b",
        "a\n",
        "a\x07b",
        "a\u2028b",
        "\udce7.db",  # a byte that is no UTF-8
        "\ufffd.db",
        "ä" * 43,  # 258 bytes when encoded
        "a" * 128,
        "a/b/c/d/e/f/g/h/i",
        f"{LONG}/{LONG}/c",
        "a.db-journal",
        "a.db-wal",
        "a.db-shm",
        "a.db-pos",
        "a.db-lock",
        "a.db-mj0123AB9CD",
    ],
)
def test_other_names_are_refused_with_what_is_allowed(name: str) -> None:
    assert not units.valid_database_name(name)
    with pytest.raises(BadName, match="1 to 8 parts"):
        units.check_database_name(name)


@pytest.mark.parametrize("encoded", ["a/b", "a%2fb", "%2Fa", "a%2F..%2Fb", "", "a b", "%41", "a%", "a%E7b", "a%00"])
def test_texts_that_encode_no_name_are_refused(encoded: str) -> None:
    with pytest.raises(BadName):
        units.decode_name(encoded)


def test_positions_are_texts_of_33_characters() -> None:
    text = units.format_position(0xAB, 1 << 63)
    assert text == "00000000000000ab/8000000000000000"
    assert units.parse_position(text) == (0xAB, 1 << 63)


@pytest.mark.parametrize(
    "text", ["", "1/2", "00000000000000ab", "00000000000000ab/800000000000000g", "+0000000000000ab/" + "0" * 16]
)
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        units.parse_position(text)


def test_node_ids_are_upper_case() -> None:
    assert units.format_node_id(0xAB) == "00000000000000AB"
    assert units.parse_node_id("00000000000000AB") == 0xAB
