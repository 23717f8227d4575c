"""``sqlitecluster ltx``: look into LTX files without a running node.

    list    which files are there, and what their headers say
    verify  every file's checksum, and that the files of a database lead from one to the next
    dump    the pages of one file

Paths are LTX files, or folders in which they are looked for; ``--config`` means the
data directory of a node. Reading is streaming: one page in memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from sqlitecluster.cli import output
from sqlitecluster.cli.terminal import paint
from sqlitecluster.errors import CorruptLTX, FormatError, LimitError, NoSuchDatabase
from sqlitecluster.ltx import HEADER_SIZE, TRAILER_SIZE, Decoder, Header, Trailer, page_checksum
from sqlitecluster.units import format_checksum, format_node_id, format_txid

_GENERATIONS: Final = {"G1": "1", "G2": "2", "G3A": "3a", "G3B": "3b"}


def register(subparsers: Any) -> None:
    """Add ``ltx`` with its commands."""
    parser = subparsers.add_parser("ltx", help="look into LTX files", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="ltx_command", required=True)
    for name, run, text in (
        ("list", run_list, "what is in the headers of LTX files"),
        ("verify", run_verify, "check checksums and that files lead from one to the next"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="LTX files or folders")
        command.add_argument("--config", metavar="FILE", type=Path, help="all databases of a node's data directory")
        output.add_output(command)
        command.set_defaults(run=run)
    dump = commands.add_parser("dump", help="the pages of one file", description="Print the pages of one LTX file.")
    dump.add_argument("path", metavar="FILE", type=Path)
    dump.add_argument("--hex", action="store_true", help="also the content")
    output.add_output(dump)
    dump.set_defaults(run=run_dump)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file."""

    path: Path
    database: str
    size: int
    header: Header
    trailer: Trailer


def run_list(arguments: argparse.Namespace) -> int:
    """``ltx list``."""
    rows: list[dict[str, Any]] = []
    for path in _files(arguments):
        entry = _read_ends(path)
        rows.append(_row(entry))
    if arguments.output == "json":
        output.print_json(rows)
        return 0
    table: list[list[object]] = [["FILE", "TXIDS", "PAGE SIZE", "COMMIT", "PRE", "POST", "SIZE"]]
    table += [
        [
            r["path"],
            f"{r['minTXID'].lstrip('0')}-{r['maxTXID'].lstrip('0')}",
            r["pageSize"],
            r["commit"],
            r["preApplyChecksum"],
            r["postApplyChecksum"],
            output.size(r["bytes"]),
        ]
        for r in rows
    ]
    output.print_table(table)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """``ltx verify``."""
    paths = list(_files(arguments))
    groups: dict[Path, list[_Entry]] = {}
    errors: list[dict[str, str]] = []
    with output.Progress("verify", sum(path.stat().st_size for path in paths)) as progress:
        for path in paths:
            try:
                entry = _verify_file(path, progress)
            except (FormatError, LimitError) as error:
                errors.append({"database": _database(path), "path": str(path), **error.to_wire()})
                continue
            groups.setdefault(_folder(path), []).append(entry)
    for entries in groups.values():
        name = entries[0].database
        errors += [{"database": name, "code": CorruptLTX.code, "message": text} for text in chain_errors(entries)]
    summary = [_summary(folder, entries) for folder, entries in sorted(groups.items())]
    if arguments.output == "json":
        output.print_json({"ok": not errors, "databases": summary, "errors": errors})
    else:
        _print_verified(summary, errors)
    if errors:
        raise CorruptLTX(f"{len(errors)} of {len(paths)} files or joints are damaged")
    return 0


def chain_errors(entries: list[_Entry]) -> list[str]:
    """Gaps between the files of one database, and joints whose checksums differ.

    Files of several levels may hold the same transactions: a chain is what one can go
    along from the lowest to the highest TXID.
    """
    entries = sorted(entries, key=lambda e: (e.header.min_txid, e.header.max_txid))
    posts = {e.header.max_txid: e for e in entries}
    errors = []
    reach = entries[0].header.max_txid if entries else 0
    for entry in entries[1:]:
        header = entry.header
        if header.min_txid > reach + 1:
            errors.append(f"transactions {format_txid(reach + 1)} to {format_txid(header.min_txid - 1)} are missing")
        reach = max(reach, header.max_txid)
    for entry in entries:
        before = posts.get(entry.header.min_txid - 1)
        pre = entry.header.pre_apply
        if before is not None and pre and before.trailer.post_apply and pre != before.trailer.post_apply:
            errors.append(
                f"{entry.path.name} continues {format_checksum(pre)}, "
                f"{before.path.name} ends with {format_checksum(before.trailer.post_apply)}"
            )
    return errors


def run_dump(arguments: argparse.Namespace) -> int:
    """``ltx dump``."""
    with open_ltx(arguments.path) as file:
        decoder = Decoder(file.read)
        pages = [
            {"pgno": pgno, "checksum": format_checksum(page_checksum(pgno, page)), "content": page.hex()}
            if arguments.hex
            else {"pgno": pgno, "checksum": format_checksum(page_checksum(pgno, page))}
            for pgno, page in decoder.pages()
        ]
        size = arguments.path.stat().st_size
        row = _row(_Entry(arguments.path, _database(arguments.path), size, decoder.header, decoder.trailer))
        row["generation"] = _GENERATIONS.get(decoder.generation.name, decoder.generation.name)
    if arguments.output == "json":
        output.print_json({**row, "pages": pages})
        return 0
    for key, value in row.items():
        print(f"{key:18} {value}")
    for page_row in pages:
        print(f"page {page_row['pgno']:>10}  {page_row['checksum']}")
        if arguments.hex:
            print(f"  {page_row['content']}")
    return 0


def open_ltx(path: Path) -> BinaryIO:
    """Open a file.

    Raises:
        NoSuchDatabase: it cannot be opened.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise NoSuchDatabase(f"{path}: {error.strerror}") from error


def _files(arguments: argparse.Namespace) -> Iterator[Path]:
    roots: list[Path] = list(arguments.paths)
    if arguments.config is not None:
        from sqlitecluster.config.load import load

        roots.append(load(arguments.config).data_dir / "dbs")
    if not roots:
        raise NoSuchDatabase("name LTX files or folders, or give --config")
    for root in roots:
        if root.is_dir():
            yield from sorted(root.rglob("*.ltx"))
        elif root.exists():
            yield root
        else:
            raise NoSuchDatabase(f"{root}: No such file or directory")


def _folder(path: Path) -> Path:
    """The folder whose files belong to one database: dbs/<name>/ltx, or the file's own."""
    levels = path.absolute().parent.parent
    return levels if levels.name == "ltx" else path.absolute().parent


def _database(path: Path) -> str:
    """The database that a file's place tells: dbs/<name>/ltx/<level>/<file>."""
    folder = _folder(path)
    return folder.parent.name.replace("%2F", "/") if folder.name == "ltx" else str(path.parent)


def _read_ends(path: Path) -> _Entry:
    size = path.stat().st_size
    with open_ltx(path) as file:
        header = Header.parse(file.read(HEADER_SIZE))
        file.seek(max(HEADER_SIZE, size - TRAILER_SIZE))
        trailer = Trailer.parse(file.read(TRAILER_SIZE))
    return _Entry(path, _database(path), size, header, trailer)


def _verify_file(path: Path, progress: output.Progress) -> _Entry:
    with open_ltx(path) as file:
        decoder = Decoder(_counted(file.read, progress))
        for _page in decoder.pages():
            continue
        return _Entry(path, _database(path), path.stat().st_size, decoder.header, decoder.trailer)


def _counted(read: Callable[[int], bytes], progress: output.Progress) -> Callable[[int], bytes]:
    def counting(count: int) -> bytes:
        data = read(count)
        progress.add(len(data))
        return data

    return counting


def _row(entry: _Entry) -> dict[str, Any]:
    header = entry.header
    return {
        "path": str(entry.path),
        "database": entry.database,
        "minTXID": format_txid(header.min_txid),
        "maxTXID": format_txid(header.max_txid),
        "snapshot": header.is_snapshot,
        "pageSize": header.page_size,
        "commit": header.commit,
        "preApplyChecksum": format_checksum(header.pre_apply),
        "postApplyChecksum": format_checksum(entry.trailer.post_apply),
        "timestampMs": header.timestamp_ms,
        "nodeID": format_node_id(header.node_id),
        "bytes": entry.size,
    }


def _summary(folder: Path, entries: list[_Entry]) -> dict[str, Any]:
    return {
        "database": entries[0].database,
        "folder": str(folder),
        "files": len(entries),
        "bytes": sum(e.size for e in entries),
        "minTXID": format_txid(min(e.header.min_txid for e in entries)),
        "maxTXID": format_txid(max(e.header.max_txid for e in entries)),
    }


def _print_verified(summary: list[dict[str, Any]], errors: list[dict[str, str]]) -> None:
    for row in summary:
        span = f"{row['minTXID']} to {row['maxTXID']}"
        print(f"{row['database']}: {row['files']} files, {output.size(row['bytes'])}, {span}")
    for error in errors:
        place = error.get("path", error["database"])
        print(paint(f"{place}: {error['message']} [{error['code']}]", "red", sys.stdout))
    if not errors:
        print("ok")
