"""``sqlitecluster node``: one node, in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from sqlitecluster.config.codec import config_to_json
from sqlitecluster.config.model import NodeConfig

_DESCRIPTION: Final = """\
Run one node in the foreground: mount the folder, replicate, until SIGTERM or Ctrl-C.

The first signal stops cleanly: programs get a moment, the last transactions are made
durable, nothing stays mounted. A second signal hurries. SIGHUP replaces the code of the
running node in place; programs see a short pause.
"""

_EXAMPLES: Final = """\
example:
  cat > node.yaml <<END
  name: n1
  dataDir: /var/lib/sqlitecluster
  mountDir: /srv/databases
  END
  sqlitecluster node --config node.yaml --check
  sudo sqlitecluster node --config node.yaml

All keys are explained in docs/configuration.md.
"""

_START: Final = (
    "import sys; sys.path.insert(0, {root!r}); from sqlitecluster.supervisor.__main__ import main; sys.exit(main())"
)


def register(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "node",
        help="run one node in the foreground",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="YAML; see docs/configuration.md")
    parser.add_argument("--check", action="store_true", help="check the configuration and this machine, start nothing")
    parser.add_argument("--notify-fd", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--stop-with", metavar="PID", type=int, default=0, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then become the supervisor."""
    from sqlitecluster.config.load import load
    from sqlitecluster.supervisor import linux, preflight

    if arguments.stop_with:
        linux.die_with_parent(signal.SIGTERM)
        if os.getppid() != arguments.stop_with:
            return 1
    config = load(arguments.config)
    lock_fd = preflight.check(config)
    if arguments.check:
        os.close(lock_fd)
        print(f"{arguments.config}: fine; node {config.name} would mount {config.mount_dir} as {config.role}")
        return 0
    return _become_supervisor(config, lock_fd, arguments)


def _become_supervisor(config: NodeConfig, lock_fd: int, arguments: argparse.Namespace) -> NoReturn:
    """Replace this process, so that nothing that the command line imported stays in memory."""
    config_fd = os.memfd_create("sqlitecluster-config")
    os.write(config_fd, config_to_json(config).encode())
    os.lseek(config_fd, 0, os.SEEK_SET)
    fds = [config_fd, lock_fd, arguments.notify_fd]
    for fd in fds:
        if fd >= 0:
            os.set_inheritable(fd, True)
    start = _START.format(root=str(Path(__file__).resolve().parents[2]))
    told = [*map(str, fds), str(arguments.config.resolve())]  # the path is only for people who look at `ps`
    sys.stdout.flush()
    # -S: the supervisor needs nothing that was installed, and the site packages' hooks cost memory
    os.execv(sys.executable, [sys.executable, "-S", "-c", start, *told])
