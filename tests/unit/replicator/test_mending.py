"""Bit rot: who is damaged, page or checksum; good copies from peers and from stored transactions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.errors import CorruptLTX, FormatError
from sqlitecluster.ltx import page_checksum
from sqlitecluster.replicator.judging import judge
from sqlitecluster.replicator.peer_pages import _numbers, good_pages
from sqlitecluster.store import chain, cutter
from sqlitecluster.store.damage import Damage, Gap
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.pagefinder import find_gaps, find_pages
from support.store_model import PAGE, Model, make


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    """A database of five pages, whose image lies beside its store."""
    store, made = make(tmp_path, ring_bytes=0)
    made.write({n: b"SQLite format 3\0 page %d" % n for n in range(1, 6)})
    cutter.cut(made.store, store.log)
    (made.store.dir / "database").write_bytes(made.image())
    yield made
    store.close()


def read_of(model: Model, **changed: bytes) -> object:
    return lambda pgno: changed.get(f"p{pgno}", model.pages[pgno])


def spoil(page: bytes) -> bytes:
    return page[:100] + bytes([page[100] ^ 4]) + page[101:]


def test_a_damaged_page_is_mended_by_one_with_its_checksum_only(model: Model) -> None:
    db, bad = model.store, spoil(model.pages[3])
    read = read_of(model, p3=bad)
    found = judge(db.checksums, db.position, read, [2, 3], {3: spoil(bad), 2: b"?"})  # type: ignore[arg-type]
    assert (found.mend, found.left) == ({3: model.pages[3]}, [])
    found = judge(db.checksums, db.position, read, [3], {3: model.pages[2]})  # type: ignore[arg-type]
    assert (found.mend, found.left, found.bad) == ({}, [3], {3: bad})


def test_a_damaged_checksum_is_put_right_when_the_image_adds_up(model: Model) -> None:
    db = model.store
    cells = db.checksums._file.cells
    cells[512 + 3] ^= 1 << 17  # page 4, behind the array's back
    assert not db.checksums.adds_up
    found = judge(db.checksums, db.position, read_of(model), [4], {})  # type: ignore[arg-type]
    assert (found.rebuilt, found.damaged) == ([4], [])
    assert db.checksums.get(4) == page_checksum(4, model.pages[4])
    assert db.checksums.adds_up and db.checksums.rolling == db.position.checksum


def test_page_and_checksum_damaged_at_once_are_told_apart_by_a_good_copy(model: Model) -> None:
    db = model.store
    db.checksums._file.cells[512 + 3] ^= 1 << 17
    read = read_of(model, p2=spoil(model.pages[2]))
    found = judge(db.checksums, db.position, read, [2, 4], {2: model.pages[2], 4: model.pages[4]})  # type: ignore[arg-type]
    assert (found.rebuilt, found.mend, found.left) == ([4], {2: model.pages[2]}, [])


def test_a_changed_total_is_noticed_at_the_next_start(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(3)
    store.close()
    file = tmp_path / "dbs" / "app.db" / "checksums"
    data = bytearray(file.read_bytes())
    data[5 * 8] ^= 1
    file.write_bytes(data)
    db = NodeStore(tmp_path).open("app.db")
    assert db.checksums.rolling == db.position.checksum
    assert db.checksums.adds_up


def test_damaged_state_words_are_put_aside_and_found_again(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write_many(5)
    cutter.cut(model.store, store.log)
    at = model.store.position
    store.close()
    file = tmp_path / "dbs" / "app.db" / "state"
    data = bytearray(file.read_bytes())
    data[3 * 8 + 2] ^= 1  # the TXID
    file.write_bytes(data)
    again = NodeStore(tmp_path)
    assert again.open("app.db").position == at
    assert again.open("app.db").needs_compare
    assert again.damage.found == {("state", "app.db"): 1}
    assert len(list(tmp_path.glob("lost+found/*damaged-state"))) == 1


def test_only_pages_that_are_right_are_given_away(model: Model) -> None:
    path = model.store.dir / "database"
    data = bytearray(path.read_bytes())
    data[PAGE + 7] ^= 1
    path.write_bytes(data)
    value = good_pages(model.store, [1, 2, 3, 99])
    assert sorted(value["pages"]) == ["1", "3"]
    assert base64.b64decode(value["pages"]["3"]) == model.pages[3]


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-1", "1" * 30, ",".join(["1"] * 257)])
def test_nonsense_in_a_question_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        _numbers(text)


def test_stored_transactions_have_good_copies(model: Model) -> None:
    model.write({2: b"newer"})
    assert find_pages(model.store, [2, 3]) == {2: model.pages[2], 3: model.pages[3]}


def test_a_gap_between_stored_transactions_is_found(model: Model) -> None:
    store = model.store._node
    for n in range(3):
        model.write({1: b"%d" % n})
        cutter.cut(model.store, store.log)
    assert find_gaps(model.store) == []
    model.store.files.forget([model.store.files.files[2]])
    [gap] = find_gaps(model.store)
    assert (gap.min_txid, gap.max_txid, gap.kind) == (3, 3, "log")
    assert not model.store.files.covers(2, 4)


def test_a_file_of_another_history_closes_no_gap(model: Model, tmp_path: Path) -> None:
    store = model.store._node
    blobs = []
    for n in range(3):
        blobs.append(model.write({1: b"%d" % n}))
        cutter.cut(model.store, store.log)
    model.store.files.forget([model.store.files.files[2]])
    header, post = chain.verify_piece(blobs[1], 3)
    chain.check_neighbours(model.store, header, post)
    other_store, other = make(tmp_path / "other", ring_bytes=0)
    other.write({1: b"SQLite format 3\0"})
    other.write({1: b"?"})
    header, post = chain.verify_piece(other.write({1: b"!"}), 3)
    with pytest.raises(CorruptLTX):
        chain.check_neighbours(model.store, header, post)
    with pytest.raises(CorruptLTX):
        chain.verify_piece(blobs[1], 7)
    other_store.close()


def test_what_waits_for_a_copy_is_bounded() -> None:
    book = Damage()
    for n in range(2000):
        book.gaps.append(Gap("app.db", n, n))
    assert sum(book.take_gap() is not None for _ in range(2000)) == 1000
