"""B15: a transaction that makes the database longer and lacks new pages goes no further than its maker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sqlitecluster.errors import CorruptLTX, LTXError
from sqlitecluster.ltx import Decoder, compact, encode, page_checksum
from sqlitecluster.ltx.growth import missing_growth
from support.store_model import Model, make


def without(model: Model, left_out: int) -> tuple[bytes, object, int, list[int], list[int]]:
    """A transaction that grows to page 6 but forgets one; writer and checksum agree on that."""
    _blob, header, _post = model.transaction({n: b"new %d" % n for n in (1, 4, 5, 6)})
    del model.pages[left_out]
    header = replace(header, commit=6)
    pages = [(n, model.pages[n]) for n in (1, 4, 5, 6) if n != left_out]
    post = model.checksum()
    return encode(header, pages, post), header, post, [n for n, _ in pages], [page_checksum(n, p) for n, p in pages]


def grown(folder: Path) -> Model:
    _store, model = make(folder)
    model.write(dict.fromkeys((1, 2, 3), b"SQLite format 3\x00"))
    return model


@pytest.mark.parametrize("left_out", [4, 5, 6])
def test_the_store_takes_none_that_lacks_a_page(tmp_path: Path, left_out: int) -> None:
    model = grown(tmp_path)
    before = model.store.position
    blob, header, post, pgnos, sums = without(model, left_out)
    with pytest.raises(CorruptLTX, match=f"page {left_out} is not there"):
        model.store.append(blob, header, post, pgnos, sums)  # type: ignore[arg-type]
    assert model.store.position == before


def test_a_whole_one_is_taken(tmp_path: Path) -> None:
    model = grown(tmp_path)
    model.write(dict.fromkeys((4, 5, 6), b"new"))
    assert model.store.commit == 6


def test_files_that_lack_pages_are_not_joined(tmp_path: Path) -> None:
    model = grown(tmp_path)
    first = model.write({1: b"changed"})
    second = without(model, 5)[0]
    with pytest.raises(LTXError, match="between 3 and 6 are missing"):
        compact([Decoder.of(first), Decoder.of(second)], lambda _data: None)


def test_which_page_is_missing() -> None:
    assert missing_growth(3, 6, [1, 4, 5, 6], 4096) == 0
    assert missing_growth(3, 6, [1, 4, 6], 4096) == 5
    assert missing_growth(6, 3, [], 4096) == 0
    assert missing_growth(0, 2, [2], 4096) == 1
