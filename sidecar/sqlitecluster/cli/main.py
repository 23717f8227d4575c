"""The program ``sqlitecluster``: parses arguments, runs a command, reports errors.

Errors go to standard error as ``sqlitecluster: <message> [<Code>]``; the exit code is
the one that ``errors`` has for the code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from sqlitecluster import __version__
from sqlitecluster.cli import local, node
from sqlitecluster.cli.terminal import paint
from sqlitecluster.errors import SQLiteClusterError

PROGRAM: Final = "sqlitecluster"
_EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

_DESCRIPTION: Final = """\
Replicated SQLite for unmodified programs. A node mounts a folder; what programs
commit to the SQLite databases in it on the primary appears on every replica.
"""

_EXAMPLES: Final = """\
examples:
  sqlitecluster local --nodes 2 --dir /tmp/try     two nodes on this machine, until Ctrl-C
  sqlite3 /tmp/try/n1/mnt/app.db 'CREATE TABLE t(x); INSERT INTO t VALUES (1)'
  sqlite3 /tmp/try/n2/mnt/app.db 'SELECT * FROM t' the same data, read on the replica
  sqlitecluster status                             what the node on this machine does
  sqlitecluster node --config /etc/sqlitecluster.yaml

`sqlitecluster COMMAND --help` explains a command, with examples.
"""


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """The parser; each command sets ``run`` to its function.

    Args:
        command: the command that is going to run, if known. ``node`` and ``local`` then
            get a parser without the clients, whose imports would delay every start of a node.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    node.register(subparsers)
    local.register(subparsers)
    if command not in ("node", "local"):
        from sqlitecluster.cli import bootstrap, client, lost, ltx, verify

        bootstrap.register(subparsers)
        client.register(subparsers)
        ltx.register(subparsers)
        lost.register(subparsers)
        verify.register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(argv[0] if argv else "")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 2
    try:
        return int(arguments.run(arguments) or 0)
    except SQLiteClusterError as error:
        _report(error.message, error.code)
        return error.exit_code
    except BrokenPipeError:  # `sqlitecluster … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _report(message: str, code: str) -> None:
    label = paint(f"{PROGRAM}:", "red", sys.stderr)
    print(f"{label} {message} [{code}]", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
