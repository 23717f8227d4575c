"""Commands that ask a running node: status, wait, import, export, cluster-id, events.

``register`` adds them to the parser of ``main``. Each is a thin client of the local API
(docs/http.md); docs/cli.md has examples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from sqlitecluster.cli import output
from sqlitecluster.cli.api import Api, add_target, target
from sqlitecluster.cli.terminal import paint
from sqlitecluster.errors import DatabaseExists, NoSuchDatabase, StreamError, TooSlow, from_wire
from sqlitecluster.units import check_database_name

_CHUNK: Final = 1 << 20
_NAMED: Final = 5


def register(subparsers: Any) -> None:
    """Add the commands."""
    _add(subparsers, "status", run_status, "what a node is and has")
    wait = _add(subparsers, "wait", run_wait, "wait until a position can be read on a node")
    wait.add_argument("database", metavar="DB")
    wait.add_argument("--position", metavar="P", required=True, help="TXID/CHECKSUM, as in <db>-pos")
    wait.add_argument("--timeout", metavar="S", type=float, default=30.0, help="seconds (default 30)")
    load = _add(subparsers, "import", run_import, "replace a database by a file, as one transaction")
    load.add_argument("database", metavar="DB")
    load.add_argument("file", metavar="FILE", type=Path, help="a SQLite database that nobody writes")
    save = _add(subparsers, "export", run_export, "copy a database as it is at one position")
    save.add_argument("database", metavar="DB")
    save.add_argument("file", metavar="FILE", type=Path)
    save.add_argument("--force", action="store_true", help="replace FILE if it exists")
    cluster = _add(subparsers, "cluster-id", run_cluster_id, "show or change the cluster a node belongs to")
    cluster.add_argument("action", choices=("show", "adopt"))
    cluster.add_argument("id", metavar="ID", nargs="?", help="for adopt: LFSC and 16 hex digits")
    events = _add(subparsers, "events", run_events, "print transactions and role changes as they happen")
    events.add_argument("database", metavar="DB", nargs="?", help="only this database's transactions")


def _add(subparsers: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    output.add_output(parser)
    add_target(parser)
    parser.set_defaults(run=run)
    return parser


def run_status(arguments: argparse.Namespace) -> int:
    """``status``."""
    info = target(arguments).get("/info")
    if arguments.output == "json":
        output.print_json(info)
    else:
        _print_status(info)
    return 0


def _print_status(info: dict[str, Any]) -> None:
    role = info["role"]
    where = f" of {info['primary']['hostname'] or info['primary']['url']}" if "primary" in info else ""
    lag = "" if info["isPrimary"] else f", lag {info['lagMs']} ms" if info["lagMs"] is not None else ", never in sync"
    link = "" if info["connected"] else ", " + paint("not connected", "red", sys.stdout)
    print(f"{paint(info['name'], 'bold', sys.stdout)}: {role}{where}{lag}{link}")
    print(f"cluster {info.get('clusterID', 'none')}, node {info['nodeID']}, epoch {info['epoch']}")
    print(f"mount {info['mountDir']}, data {info['path']}, take-over of a dead mount: {info['mountTakeOver']}")
    rows: list[list[object]] = [["DATABASE", "POSITION", "PAGES", "PAGE SIZE", "JOURNAL", "WRITING"]]
    for db in info["databases"]:
        writing = f"pid {db['writeTransaction']['pid']}" if db["writeTransaction"] else "-"
        state = db["journalMode"] if db["kind"] == "database" else db["kind"]
        rows.append([db["name"], db["position"], db["pages"], db["pageSize"], state, writing])
    if len(rows) > 1:
        print()
        output.print_table(rows)
    if info["replicas"]:
        print()
        heads = ["REPLICA", "ADDRESS", "SINCE", "BEHIND"]
        replicas = [[r["name"], r["address"], r["connectedSince"], r["behind"]] for r in info["replicas"]]
        output.print_table([heads, *replicas])
    local = info["localOnlyFiles"]
    if local["count"]:
        print(f"\n{local['count']} files are local only, not replicated: {', '.join(local['paths'][:5])}")
    for problem in info["problems"]:
        place = f"{problem['db']}: " if "db" in problem else ""
        print(paint(f"problem: {place}{problem['message']} [{problem['code']}]", "yellow", sys.stdout))
    _print_notices(info.get("notices", []))


def _print_notices(notices: list[dict[str, str]]) -> None:
    """One line for each text, however many databases it is about."""
    about: dict[str, list[str]] = {}
    for notice in notices:
        about.setdefault(f"{notice['message']} [{notice['code']}]", []).append(notice["db"])
    for text, names in about.items():
        more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
        print(f"notice: {', '.join(names[:_NAMED])}{more}: {text}")


def run_wait(arguments: argparse.Namespace) -> int:
    """``wait``."""
    query = {"name": arguments.database, "position": arguments.position, "timeout": f"{arguments.timeout:g}"}
    value = target(arguments).get("/wait", query, timeout_s=arguments.timeout + 30)
    if arguments.output == "json":
        output.print_json(value)
    else:
        print(value["position"])
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    """``import``."""
    name = check_database_name(arguments.database)
    if not arguments.file.is_file():
        raise NoSuchDatabase(f"{arguments.file}: no such file")
    api = target(arguments)
    size = arguments.file.stat().st_size
    with open(arguments.file, "rb") as file, output.Progress(f"import {name}", size) as progress:
        body, headers = _Counted(file, progress), {"Content-Length": str(size)}
        with api.open("POST", "/import", {"name": name}, body=body, headers=headers, timeout_s=None) as response:
            value = json.loads(response.read())
    if arguments.output == "json":
        output.print_json(value)
    else:
        print(f"{name} is at {value['position']}")
    return 0


class _Counted:
    """A file whose reads move a progress bar."""

    def __init__(self, file: Any, progress: output.Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, count: int = -1) -> bytes:
        """As the file's."""
        data: bytes = self._file.read(count)
        self._progress.add(len(data))
        return data


def run_export(arguments: argparse.Namespace) -> int:
    """``export``."""
    path: Path = arguments.file
    if path.exists() and not arguments.force:
        raise DatabaseExists(f"{path} exists; --force replaces it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        position, count = _fetch(target(arguments), arguments.database, temporary)
        os.replace(temporary, path)
        for ending in ("-journal", "-wal", "-shm"):  # leftovers of the replaced file would be taken for this one's
            path.with_name(path.name + ending).unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)
    if arguments.output == "json":
        output.print_json({"name": arguments.database, "position": position, "bytes": count, "file": str(path)})
    else:
        print(f"{path}: {arguments.database} at {position}, {output.size(count)}")
    return 0


def _fetch(api: Api, name: str, path: Path) -> tuple[str, int]:
    count = 0
    with api.open("GET", "/export", {"name": name}, timeout_s=None) as response, open(path, "wb") as file:
        total = int(response.headers["Content-Length"])
        with output.Progress(f"export {name}", total) as progress:
            while data := response.read(_CHUNK):
                file.write(data)
                count += len(data)
                progress.add(len(data))
        if count != total:
            raise StreamError(f"the export of {name} ended after {count} of {total} bytes")
        file.flush()
        os.fsync(file.fileno())
        return response.headers["Sqlitecluster-Position"], count


def run_cluster_id(arguments: argparse.Namespace) -> int:
    """``cluster-id show`` and ``cluster-id adopt ID``."""
    api = target(arguments)
    if arguments.action == "show":
        value = api.get("/cluster-id")
    else:
        value = api.post("/cluster-id", {"clusterID": arguments.id or ""})
    if arguments.output == "json":
        output.print_json(value)
    else:
        print(value["clusterID"] or "none")
    return 0


def run_events(arguments: argparse.Namespace) -> int:
    """``events``: until interrupted, or the node closes the stream."""
    with target(arguments).open("GET", "/events", timeout_s=None) as response:
        for line in response:
            event = json.loads(line)
            if event["type"] == "error":
                raise from_wire(event["data"].get("code", TooSlow.code), event["data"].get("message", ""))
            if arguments.database and event.get("db", arguments.database) != arguments.database:
                continue
            print(line.decode().rstrip() if arguments.output == "json" else _event_text(event), flush=True)
    return 0


def _event_text(event: dict[str, Any]) -> str:
    data = event["data"]
    if event["type"] == "tx":
        position = f"{data['txID']}/{data['postApplyChecksum']}"
        return f"{data['timestamp']}  tx  {event['db']}  {position}  {data['commit']} pages"
    if event["type"] == "problem":
        return f"problem  {event.get('db', '')}  {data['message']} [{data['code']}]"
    role = "primary" if data["isPrimary"] else f"replica of {data.get('hostname', 'nobody')}"
    return f"{event['type']}  {role}"
