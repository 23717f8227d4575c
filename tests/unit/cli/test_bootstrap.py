"""``sqlitecluster bootstrap``: what is made, when, and what is left alone."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sqlitecluster.cli import bootstrap
from sqlitecluster.cli.main import build_parser
from sqlitecluster.errors import BadName, ConfigError


class Node:
    """A node's local API; keeps what is imported."""

    def __init__(self, folder: Path, *roles: dict[str, Any], known: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.roles = list(roles) or [{"role": "primary"}]
        self.known = list(known)

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/info"
        role = self.roles.pop(0) if len(self.roles) > 1 else self.roles[0]
        return {**role, "databases": [{"name": name} for name in self.known]}

    @contextmanager
    def open(self, method: str, path: str, query: dict[str, str], body: Any, **_: Any) -> Iterator[Any]:
        assert (method, path) == ("POST", "/import")
        self.known.append(query["name"])
        (self.folder / query["name"].replace("/", "%2F")).write_bytes(body.read())
        yield io.BytesIO(b'{"position": "p"}')


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, node: Node, document: dict[str, Any]) -> int:
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(document))
    monkeypatch.setattr(bootstrap, "target", lambda _: node)
    monkeypatch.setattr(bootstrap, "_POLL_S", 0.0)
    return bootstrap.run(build_parser("bootstrap").parse_args(["bootstrap", "--file", str(file)]))


def ask(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def source(path: Path, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(rows)])
    connection.commit()
    connection.close()
    return path


def test_listed_databases_are_made_with_their_mode_and_page_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"name": "a.db", "journalMode": "WAL", "pageSize": 512}, {"name": "t/b.db", "journalMode": "DELETE"}]

    assert run(monkeypatch, tmp_path, Node(tmp_path), {"databases": rows}) == 0

    first = (tmp_path / "a.db").read_bytes()
    assert first[:16] == b"SQLite format 3\0" and first[18:20] == b"\2\2" and int.from_bytes(first[16:18]) == 512
    assert (tmp_path / "t%2Fb.db").read_bytes()[18:20] == b"\1\1"


def test_sql_is_run_once_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more = tmp_path / "0.sql"
    more.write_text("INSERT INTO t VALUES ('from a file')")
    initdb = {"database": "a.db", "sql": ["CREATE TABLE t (a);", "INSERT INTO t VALUES (1)"], "files": [str(more)]}
    node = Node(tmp_path)

    for _ in range(2):
        run(monkeypatch, tmp_path, node, {"databases": [{"name": "a.db"}], "initdb": initdb})

    assert ask(tmp_path / "a.db", "SELECT a FROM t") == [(1,), ("from a file",)]
    assert node.known == ["a.db"]


def test_a_database_that_exists_or_was_dropped_is_left_alone_also_when_its_source_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = Node(tmp_path, known=("a.db", "b.db"))
    document = {
        "initdb": {"database": "a.db", "files": [str(tmp_path / "gone.sql")]},
        "import": {"database": "b.db", "path": str(tmp_path / "gone.db")},
    }

    assert run(monkeypatch, tmp_path, node, document) == 0
    assert node.known == ["a.db", "b.db"]


def test_a_replica_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = Node(tmp_path, {"role": "disconnected"}, {"role": "replica"}, {"role": "replica", "inSync": True})

    assert run(monkeypatch, tmp_path, node, {"databases": [{"name": "a.db"}]}) == 0
    assert not node.known


def test_a_file_is_imported_with_what_its_log_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = source(tmp_path / "old" / "old.db")
    writer = sqlite3.connect(old)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("INSERT INTO t VALUES ('in the log')")
    writer.commit()

    run(monkeypatch, tmp_path, Node(tmp_path), {"import": {"database": "new.db", "path": str(old)}})

    assert ask(tmp_path / "new.db", "SELECT count(*) FROM t") == [(4,)]
    writer.close()


def test_of_a_folder_every_database_is_imported_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    source(folder / "one.db")
    source(folder / "t" / "two.db")
    source(folder / ".hidden.db")
    (folder / "notes.txt").write_text("no database")
    node = Node(tmp_path)

    run(monkeypatch, tmp_path, node, {"import": {"path": str(folder)}})

    assert sorted(node.known) == ["one.db", "t/two.db"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"initdb": {"database": "a.db", "sql": ["CREATE TABLE"]}}, "syntax error"),
        ({"import": {"database": "a.db", "path": "/no/such.db"}}, "cannot read"),
        ({"initdb": {"database": "a.db", "files": ["/no/such.sql"]}}, "No such file"),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: dict[str, Any], text: str
) -> None:
    node = Node(tmp_path)

    with pytest.raises(ConfigError, match=text):
        run(monkeypatch, tmp_path, node, document)
    assert not node.known


def test_a_file_that_is_no_database_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database")

    with pytest.raises(ConfigError, match="is no SQLite database"):
        run(monkeypatch, tmp_path, Node(tmp_path), {"import": {"database": "a.db", "path": str(tmp_path / "text")}})


def test_an_illegal_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        run(monkeypatch, tmp_path, Node(tmp_path), {"databases": [{"name": "../a.db"}]})
