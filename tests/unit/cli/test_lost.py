"""``sqlitecluster lost``: what was put aside can be listed, exported and read again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from sqlitecluster.cli.main import main
from sqlitecluster.errors import EXIT_NOT_FOUND, EXIT_REFUSED
from sqlitecluster.store import lostfound
from sqlitecluster.store.disk import Disk
from support.replica import Primary


@pytest.fixture
def lost(tmp_path: Path) -> tuple[Path, Primary, list[bytes]]:
    """A data directory with a kept tail of four transactions, the first of them the whole database."""
    primary = Primary(tmp_path / "p.db")
    files = [primary.run("CREATE TABLE t(x)")]
    files += [primary.run(f"INSERT INTO t VALUES({n})") for n in range(3)]
    return tmp_path / "data", primary, files


def keep(data: Path, files: list[bytes], first: int = 1) -> None:
    data.mkdir(exist_ok=True)
    blobs = [(f"{n:016x}-{n:016x}.ltx", blob) for n, blob in enumerate(files, first)]
    lostfound.keep(data, Disk(), 1_769_000_000_000, "app.db", "diverged from the primary", [], blobs, "x")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["lost", *arguments]) == code
    done = capsys.readouterr()
    return done.out, done.err


def test_it_lists_why_when_which_and_how_large(
    lost: tuple[Path, Primary, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, primary, files = lost
    assert run(capsys, "list", "--data-dir", str(data.parent))[0] == "nothing was put aside\n"
    keep(data, files)
    [entry] = json.loads(run(capsys, "list", "--data-dir", str(data), "-o", "json")[0])
    assert (entry["database"], entry["reason"], entry["position"]) == ("app.db", "diverged from the primary", "x")
    assert entry["to"] == str(primary.position)
    assert entry["bytes"] == sum(map(len, files))
    table = run(capsys, "list", "app.db", "--data-dir", str(data))[0]
    assert "20260121T" in table and "1-4" in table
    assert run(capsys, "list", "other.db", "--data-dir", str(data))[0] == "nothing was put aside\n"


def test_exported_files_verify(lost: tuple[Path, Primary, list[bytes]], capsys: pytest.CaptureFixture[str]) -> None:
    data, _primary, files = lost
    keep(data, files)
    out, _ = run(capsys, "export", "2026", "--to", str(data / "out"), "--data-dir", str(data))
    assert out.startswith(f"{data / 'out'}: 4 files")
    assert main(["ltx", "verify", str(data / "out")]) == 0
    run(capsys, "export", "2026", "--to", str(data / "out"), "--data-dir", str(data), code=EXIT_REFUSED)


def test_a_tail_with_its_snapshot_becomes_a_database(
    lost: tuple[Path, Primary, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, primary, files = lost
    keep(data, files)
    image = data / "then.db"
    out, _ = run(capsys, "export", "2026", "--image", str(image), "--data-dir", str(data))
    assert out == f"{image}: app.db at {primary.position}\n"
    assert image.read_bytes() == primary.image
    assert sqlite3.connect(image).execute("SELECT group_concat(x) FROM t").fetchone() == ("0,1,2",)


def test_a_tail_alone_needs_the_database_from_right_before_it(
    lost: tuple[Path, Primary, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, primary, _files = lost
    base = tmp_path / "base.db"
    base.write_bytes(primary.image)
    tail = [primary.run("INSERT INTO t VALUES(7)"), primary.run("INSERT INTO t VALUES(8)")]
    keep(data, tail, first=5)
    image = str(data / "then.db")
    _, error = run(capsys, "export", "2026", "--image", image, "--data-dir", str(data), code=EXIT_REFUSED)
    assert "--base DB" in error and not Path(image).exists()
    run(capsys, "export", "2026", "--image", image, "--base", str(base), "--data-dir", str(data))
    assert Path(image).read_bytes() == primary.image


def test_a_base_of_another_history_is_refused(
    lost: tuple[Path, Primary, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, primary, _files = lost
    keep(data, [primary.run("INSERT INTO t VALUES(7)")], first=5)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE other(x)").connection.commit()
    arguments = ("--image", str(data / "i.db"), "--base", str(tmp_path / "other.db"), "--data-dir", str(data))
    _, error = run(capsys, "export", "2026", *arguments, code=EXIT_REFUSED)
    assert "none of the kept files continues" in error
    assert not (data / "i.db").exists()


def test_a_gap_is_said_and_nothing_is_made(
    lost: tuple[Path, Primary, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, _primary, files = lost
    keep(data, files)
    next(data.glob("lost+found/*/0000000000000002-*.ltx")).unlink()
    _, error = run(capsys, "export", "2026", "--image", str(data / "i.db"), "--data-dir", str(data), code=EXIT_REFUSED)
    assert "nothing continues transaction 0000000000000001" in error


def test_delete_removes_one_entry_for_good(
    lost: tuple[Path, Primary, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, _primary, files = lost
    keep(data, files)
    keep(data, files)
    run(capsys, "delete", "2026", "--data-dir", str(data), code=EXIT_NOT_FOUND)  # two begin so
    entry = min((data / "lost+found").iterdir()).name
    assert run(capsys, "delete", entry, "--data-dir", str(data))[0] == f"deleted: {entry}\n"
    assert lostfound.count(data) == 1
