"""``ltx list``, ``verify`` and ``dump`` on real files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sqlitecluster.cli.main import main
from sqlitecluster.errors import EXIT_BAD_INPUT, EXIT_NOT_FOUND
from sqlitecluster.ltx import Header, encode, filename, fold, page_checksums


def chain(folder: Path, count: int = 3) -> list[Path]:
    """Files of one database, each changing page 1 of two."""
    folder.mkdir(parents=True)
    pages = {1: bytes(512), 2: b"\x02" * 512}
    paths, before = [], 0
    for txid in range(1, count + 1):
        pages[1] = os.urandom(512)
        changed = pages if txid == 1 else {1: pages[1]}
        post = fold(page_checksums(sorted(pages), [pages[n] for n in sorted(pages)]))
        header = Header(page_size=512, commit=2, min_txid=txid, max_txid=txid, timestamp_ms=txid, pre_apply=before)
        path = folder / filename(txid, txid)
        path.write_bytes(encode(header, sorted(changed.items()), post))
        paths.append(path)
        before = post
    return paths


def test_a_whole_chain_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain(tmp_path / "dbs" / "sub%2Fapp.db" / "ltx" / "0")
    assert main(["ltx", "verify", "-o", "json", str(tmp_path)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["ok"]
    [database] = value["databases"]
    assert (database["database"], database["files"], database["maxTXID"]) == ("sub/app.db", 3, "0000000000000003")


def test_overlapping_levels_are_no_fault(tmp_path: Path) -> None:
    paths = chain(tmp_path / "ltx" / "0")
    (tmp_path / "ltx" / "1").mkdir()
    os.link(paths[1], tmp_path / "ltx" / "1" / paths[1].name)
    assert main(["ltx", "verify", str(tmp_path)]) == 0


def test_a_missing_file_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = chain(tmp_path / "ltx" / "0")
    paths[1].unlink()
    assert main(["ltx", "verify", str(tmp_path)]) == EXIT_BAD_INPUT
    output = capsys.readouterr()
    assert "transactions 0000000000000002 to 0000000000000002 are missing" in output.out
    assert "[CorruptLTX]" in output.err


def test_a_file_of_another_history_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = chain(tmp_path / "a" / "ltx" / "0")
    other = chain(tmp_path / "b" / "ltx" / "0")
    paths[1].write_bytes(other[1].read_bytes())
    assert main(["ltx", "verify", str(tmp_path / "a")]) == EXIT_BAD_INPUT
    assert "continues" in capsys.readouterr().out


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = chain(tmp_path / "ltx" / "0")[0]
    data = bytearray(path.read_bytes())
    data[130] ^= 1
    path.write_bytes(data)
    assert main(["ltx", "verify", str(path)]) == EXIT_BAD_INPUT


def test_list_shows_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain(tmp_path / "ltx" / "0")
    assert main(["ltx", "list", "-o", "json", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["minTXID"] for row in rows] == ["0000000000000001", "0000000000000002", "0000000000000003"]
    assert rows[1]["preApplyChecksum"] == rows[0]["postApplyChecksum"]
    assert main(["ltx", "list", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_dump_shows_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = chain(tmp_path / "ltx" / "0")[0]
    assert main(["ltx", "dump", "--hex", "-o", "json", str(path)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [page["pgno"] for page in value["pages"]] == [1, 2]
    assert value["pages"][1]["content"] == "02" * 512
    assert main(["ltx", "dump", str(path)]) == 0


def test_a_path_that_does_not_exist_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ltx", "list", str(tmp_path / "no")]) == EXIT_NOT_FOUND
    assert "[NoSuchDatabase]" in capsys.readouterr().err
