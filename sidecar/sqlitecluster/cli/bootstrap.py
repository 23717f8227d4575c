"""``sqlitecluster bootstrap``: makes the databases that a new cluster starts with.

Runs in every pod before the program, beside a node that serves. On a replica there is nothing to do. On the primary
each database that the node has never heard of is built in a folder of its own and imported as one transaction, so
that others see all of it or nothing; what exists, or was dropped, is left alone. Safe to repeat.

The file is JSON:
    {"databases": [{"name": "a.db", "journalMode": "WAL", "pageSize": 4096}],
     "initdb": {"database": "a.db", "sql": ["CREATE …"], "files": ["/seeds/0.sql"]},
     "import": {"database": "b.db", "path": "/source/b.db"}       or "url", or a folder as path without "database"
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlitecluster.cli.api import Api, add_target, target
from sqlitecluster.errors import BadName, ConfigError, SQLiteClusterError, Unavailable
from sqlitecluster.units import check_database_name, valid_database_name

_MAGIC: Final = b"SQLite format 3\0"
_POLL_S: Final = 0.5
_CHUNK: Final = 1 << 20
_FETCH_TIMEOUT_S: Final = 60.0
_SIDE_FILES: Final = ("-journal", "-wal")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One database that must exist."""

    name: str
    source: str = ""
    """Path or URL of a database file; empty: a new database."""
    sql: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """With more SQL; read only when the database is made, because they may be gone later."""
    journal_mode: str = "WAL"
    page_size: int = 4096


def register(subparsers: Any) -> None:
    """Add the command."""
    text = "make the databases that a new cluster starts with"
    parser: argparse.ArgumentParser = subparsers.add_parser("bootstrap", help=text, description=f"M{text[1:]}.")
    add_target(parser)
    parser.add_argument("--file", type=Path, required=True, metavar="FILE", help="what to make, as JSON")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where databases are built (default: a temporary one)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``bootstrap``: returns when this node is a replica, or has all databases."""
    try:
        document = json.loads(arguments.file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {arguments.file}: {error}") from error
    api = target(arguments)
    while wait_for_role(api) == "primary":
        try:
            for wanted in list(plan(document)):
                make(api, wanted, arguments.folder)
        except SQLiteClusterError as error:
            if isinstance(error, ConfigError | BadName) or wait_for_role(api) == "primary":
                raise
            continue  # the role went to another node meanwhile, which does the rest
        print("every database is there")
        return 0
    print("this node is a replica; databases come from the primary")
    return 0


def wait_for_role(api: Api) -> str:
    """``primary``, or ``replica`` when it has what the primary has."""
    while True:
        try:
            info = api.get("/info")
        except Unavailable:
            info = {}
        if info.get("role") == "primary" or (info.get("role") == "replica" and info.get("inSync")):
            return str(info["role"])
        time.sleep(_POLL_S)


def plan(document: dict[str, Any]) -> Iterator[Wanted]:
    """The databases of the file. One that is imported or has SQL is not made empty first."""
    initdb, imported = document.get("initdb"), document.get("import")
    listed = {row["name"]: row for row in document.get("databases", ())}
    if imported is not None:
        for name, source in sources(imported):
            listed.pop(name, None)
            yield Wanted(check_database_name(name), source)
    if initdb is not None:
        name = initdb["database"]
        row = listed.pop(name, {})
        yield _new(name, row, tuple(initdb.get("sql", ())), tuple(initdb.get("files", ())))
    for name, row in listed.items():
        yield _new(name, row)


def _new(name: str, row: dict[str, Any], sql: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> Wanted:
    check_database_name(name)
    return Wanted(name, "", sql, files, row.get("journalMode", "WAL"), row.get("pageSize", 4096))


def sources(imported: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and places of the databases to import."""
    place = imported.get("url") or imported["path"]
    if "url" in imported or not Path(place).is_dir():
        if "database" in imported:  # else it was a folder, which is gone by now
            yield imported["database"], place
        return
    found = [path for path in sorted(Path(place).rglob("*")) if is_database(path)]
    if imported.get("database"):
        named = [path for path in found if path.name == Path(imported["database"]).name] or found[:1]
        yield imported["database"], str(named[0]) if named else place
        return
    for path in found:
        name = path.relative_to(place).as_posix()
        if valid_database_name(name):
            yield name, str(path)
        else:
            print(f"left out, not a legal name: {name}")


def is_database(path: Path) -> bool:
    """Whether a file begins as SQLite databases do."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def make(api: Api, wanted: Wanted, folder: Path | None) -> None:
    """Build and import one database, unless the node knows it."""
    if any(row["name"] == wanted.name for row in api.get("/info")["databases"]):
        print(f"{wanted.name}: exists")
        return
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "new.db"
        build(wanted, path)
        size = path.stat().st_size
        with open(path, "rb") as file:
            headers = {"Content-Length": str(size)}
            with api.open(
                "POST", "/import", {"name": wanted.name}, body=file, headers=headers, timeout_s=None
            ) as answer:
                position = json.loads(answer.read())["position"]
    print(f"{wanted.name}: made, {size} bytes, at {position}")


def build(wanted: Wanted, path: Path) -> None:
    """The database as a file that nobody has open.

    Raises:
        ConfigError: the SQL is wrong, or the source is no database.
    """
    if wanted.source:
        fetch(wanted.source, path)
        if not is_database(path):
            raise ConfigError(f"{wanted.source} is no SQLite database")
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            if not wanted.source:
                _fill(connection, wanted)
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise ConfigError(f"{wanted.source or wanted.name}: the database is damaged: {result}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"{wanted.name}: {error}") from error


def _fill(connection: sqlite3.Connection, wanted: Wanted) -> None:
    connection.execute(f"PRAGMA page_size={int(wanted.page_size)}")
    connection.execute("CREATE TABLE empty (x)")  # a database without a page is no database
    connection.execute("DROP TABLE empty")
    for text in (*wanted.sql, *(Path(file).read_text() for file in wanted.files)):
        connection.executescript(f"BEGIN;\n{text}\n;COMMIT;")
    connection.execute(f"PRAGMA journal_mode={'WAL' if wanted.journal_mode == 'WAL' else 'DELETE'}")


def fetch(source: str, path: Path) -> None:
    """Copy a database file, with what its log still holds.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=_FETCH_TIMEOUT_S) as answer, open(path, "wb") as file:
                shutil.copyfileobj(answer, file, _CHUNK)
            return
        shutil.copyfile(source, path)
        for ending in _SIDE_FILES:
            if Path(source + ending).exists():
                shutil.copyfile(source + ending, f"{path}{ending}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {source}: {error}") from error
