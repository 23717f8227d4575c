"""What transactions leave together."""

from __future__ import annotations

from sqlitecluster.replication.committed import merged


def test_the_last_version_of_a_page_wins() -> None:
    assert merged([([(1, b"a"), (2, b"b")], 2), ([(1, b"c")], 2)]) == ([(1, b"c"), (2, b"b")], 2)


def test_pages_beyond_the_end_go() -> None:
    assert merged([([(1, b"a"), (9, b"x")], 9), ([(1, b"b")], 3)]) == ([(1, b"b")], 3)


def test_pages_that_come_back_are_there() -> None:
    files = [([(1, b"a")], 2), ([(1, b"b"), (3, b"c"), (4, b"d")], 4)]
    assert merged(files) == ([(1, b"b"), (3, b"c"), (4, b"d")], 4)
