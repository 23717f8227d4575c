"""``sqlitecluster verify``: have a running node look at everything it stores, now.

Pages are read from the disk and compared with their checksums, LTX files are read to their end.
What is damaged is mended from a peer while programs go on; see docs/operations.md.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from sqlitecluster.cli import output
from sqlitecluster.cli.api import add_target, target
from sqlitecluster.errors import CorruptStore, StreamError

_EXAMPLES = """\
examples:
  sqlitecluster verify                 every database of the node on this machine
  sqlitecluster verify app.db -o json  one, for a script; the exit code is 0 only if nothing stays damaged
"""


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "verify",
        help="look at everything stored for bit rot, and mend it",
        description=__doc__.partition("\n\n")[2],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("database", metavar="DB", nargs="?", help="only this one")
    output.add_output(parser)
    add_target(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``verify``."""
    query = {"name": arguments.database} if arguments.database else None
    found: list[dict[str, Any]] = []
    ended: dict[str, Any] | None = None
    with target(arguments).open("GET", "/verify", query, timeout_s=None) as response:
        for line in response:
            value = json.loads(line)
            if value["type"] == "database":
                found.append({key: value[key] for key in value if key != "type"})
            elif value["type"] == "end":
                ended = value
            else:
                _progress(value)
    if ended is None:
        raise StreamError("the node ended the answer early")
    _print(arguments, found, bool(ended["ok"]))
    bad = [each for each in found if each["damaged"]]
    if bad:
        text = ", ".join(f"{each['db']} pages {each['damaged'][:10]}" for each in bad)
        raise CorruptStore(f"damaged, and no good copy was found: {text}")
    return 0


_bars: dict[str, tuple[output.Progress, int]] = {}


def _progress(value: dict[str, Any]) -> None:
    """A bar for each database, on a terminal."""
    bar, done = _bars.get(value["db"], (None, 0))
    if bar is None:
        for shown, _done in _bars.values():
            shown.__exit__(None, None, None)
        bar = output.Progress(f"verify {value['db']}", value["total"])
    bar.add(value["bytes"] - done)
    _bars[value["db"]] = (bar, value["bytes"])


def _print(arguments: argparse.Namespace, found: list[dict[str, Any]], ok: bool) -> None:
    for bar, _done in _bars.values():
        bar.__exit__(None, None, None)
    if arguments.output == "json":
        output.print_json({"ok": ok, "databases": found})
        return
    for each in found:
        mended = f", {each['repaired']} of {each['found']} damages mended" if each["found"] else ""
        left = f", pages {each['damaged'][:10]} are damaged" if each["damaged"] else ""
        print(f"{each['db']}: {each['pages']} pages, {each['ltxFiles']} LTX files{mended}{left}")
    print("ok" if ok else "damaged")
