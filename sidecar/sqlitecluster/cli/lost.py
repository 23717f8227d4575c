"""``sqlitecluster lost``: what a node put aside, and how to get at it.

list     everything in lost+found: why, when, which transactions, how large
export   one entry's files, or a database made of them
delete   one entry, when it is no longer needed: nothing else ever removes it
"""

from __future__ import annotations

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlitecluster.cli import output
from sqlitecluster.cli.api import DEFAULT_URL, Api
from sqlitecluster.cli.lostentries import Entry, base_position, build, chain_from, entries, export_name, find
from sqlitecluster.errors import CorruptStore, DatabaseExists, NoSuchDatabase, SQLiteClusterError

_DESCRIPTION: Final = """\
Nothing that a node takes out of use is thrown away: transactions that the new
primary never had, damaged files, databases that were never replicated. They are
kept in <dataDir>/lost+found until you delete them.

Two histories cannot be joined by a machine. What you want back of a lost tail,
read from an exported image and write it again through your program.
"""

_EXAMPLES: Final = """\
examples:
  sqlitecluster lost list                               on this machine's node
  sqlitecluster lost list --data-dir /backup/n1         of a copied data directory
  sqlitecluster lost export 20260121T1507 --to ./tail   LTX files, for `ltx list`, `ltx dump`, `ltx verify`
  sqlitecluster lost export 20260121T1507 --image then.db
      the database as that node had it, if the kept files begin with a snapshot
  sqlitecluster lost export 20260121T1507 --image then.db --base before.db
      the same on top of a copy of the database from right before the tail (`sqlitecluster export`, a backup)
  sqlitecluster lost delete 20260121T1507

An id may be shortened as long as it names one entry.
"""


def register(subparsers: Any) -> None:
    """Add ``lost`` with its commands."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "lost",
        help="what was put aside in lost+found",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=form,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="lost_command", required=True)
    listing = _add(commands, "list", run_list, "everything that was put aside")
    listing.add_argument("database", metavar="DB", nargs="?", help="only of this database")
    export = _add(commands, "export", run_export, "copy an entry's files, or make a database of them")
    export.add_argument("id", metavar="ID")
    export.add_argument("--to", metavar="FOLDER", type=Path, help="copy the files into this folder; it is made")
    export.add_argument("--image", metavar="FILE", type=Path, help="make this SQLite database: the end of the tail")
    export.add_argument("--base", metavar="DB", type=Path, help="for --image: the database right before the tail")
    delete = _add(commands, "delete", run_delete, "remove an entry for good")
    delete.add_argument("id", metavar="ID")


def _add(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data-dir", metavar="FOLDER", type=Path, help="a data directory; no node needs to run")
    where.add_argument("--config", metavar="FILE", type=Path, help="take the data directory from a configuration")
    where.add_argument(
        "--url", metavar="URL", help=f"ask the node on this machine where its is (default {DEFAULT_URL})"
    )
    output.add_output(parser)
    parser.set_defaults(run=run)
    return parser


def run_list(arguments: argparse.Namespace) -> int:
    """``lost list``."""
    found = [e for e in entries(_data_dir(arguments)) if arguments.database in (None, e.database)]
    if arguments.output == "json":
        output.print_json([each.to_json() for each in found])
    elif not found:
        print("nothing was put aside")
    else:
        rows: list[list[object]] = [["ID", "TIME", "DATABASE", "REASON", "TRANSACTIONS", "SIZE"]]
        rows += [[_short(e, found), _time(e), e.database, e.reason, _span(e), output.size(e.size)] for e in found]
        output.print_table(rows)
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """``lost export``."""
    if arguments.to is None and arguments.image is None:
        raise NoSuchDatabase("say where to: --to FOLDER copies the files, --image FILE makes a database of them")
    entry = find(_data_dir(arguments), arguments.id)
    done: dict[str, Any] = entry.to_json()
    if arguments.to is not None:
        done["exported"] = _copy(entry, arguments.to)
    if arguments.image is not None:
        done["image"] = str(arguments.image)
        done["imagePosition"] = _image(entry, arguments.image, arguments.base)
    if arguments.output == "json":
        output.print_json(done)
        return 0
    if arguments.to is not None:
        print(f"{arguments.to}: {len(entry.files)} files, {output.size(entry.size)}")
    if arguments.image is not None:
        print(f"{arguments.image}: {entry.database} at {done['imagePosition']}")
    return 0


def run_delete(arguments: argparse.Namespace) -> int:
    """``lost delete``."""
    entry = find(_data_dir(arguments), arguments.id)
    shutil.rmtree(entry.path)
    if arguments.output == "json":
        output.print_json({"deleted": entry.id})
    else:
        print(f"deleted: {entry.id}")
    return 0


def _data_dir(arguments: argparse.Namespace) -> Path:
    if arguments.data_dir is not None:
        folder: Path = arguments.data_dir
    elif arguments.config is not None:
        from sqlitecluster.config.load import load

        folder = load(arguments.config).data_dir
    else:
        folder = Path(Api(arguments.url or DEFAULT_URL).get("/info")["path"])
    if not folder.is_dir():
        raise NoSuchDatabase(f"{folder}: no such folder; the data directory is on the node's own machine")
    return folder


def _copy(entry: Entry, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for path in [*entry.files, entry.path / "reason.json"]:
        target = folder / export_name(path)
        if target.exists():
            raise DatabaseExists(f"{target} exists; export into an empty folder")
        if path.exists():
            shutil.copyfile(path, target)
            copies.append(str(target))
    return copies


def _image(entry: Entry, target: Path, base: Path | None) -> str | None:
    """Make the database; its position, if transactions say one."""
    if target.exists():
        raise DatabaseExists(f"{target} exists")
    plain = [path for path in entry.files if path.read_bytes()[:16] == b"SQLite format 3\0"]
    try:
        if not entry.ltx and len(plain) == 1:
            shutil.copyfile(plain[0], target)
            return None
        if not entry.ltx:
            raise CorruptStore(f"{entry.id} holds no transactions and no database: {[p.name for p in entry.files]}")
        if base is not None:
            chosen = chain_from(base_position(base, entry.ltx), entry.ltx)
            shutil.copyfile(base, target)
        else:
            chosen = chain_from(None, entry.ltx)
        return str(build(chosen, target))
    except (SQLiteClusterError, OSError):
        target.unlink(missing_ok=True)
        raise


def _short(entry: Entry, others: list[Entry]) -> str:
    """As much of the id as names this entry alone."""
    length = len("20260121T150718")
    while any(o is not entry and o.id.startswith(entry.id[:length]) for o in others) and length < len(entry.id):
        length += 1
    return entry.id[:length]


def _time(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(entry: Entry) -> str:
    if not entry.ltx:
        return "-"
    first, last = min(e.header.min_txid for e in entry.ltx), max(e.header.max_txid for e in entry.ltx)
    return f"{first:x}-{last:x}"
