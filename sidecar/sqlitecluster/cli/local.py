"""``sqlitecluster local``: several nodes on this machine, to try things and to test.

Each node is a ``sqlitecluster node`` of its own, in a session of its own so that Ctrl-C
reaches only this process, and with a death signal so that none outlives it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Final

from sqlitecluster.errors import ConfigError

NODES_MAX: Final = 100
_PORTS_PER_NODE: Final = 10

_DESCRIPTION: Final = """\
Run N nodes on this machine. Node 1 is the primary, the others follow it. Programs use
DIR/n1/mnt to write and DIR/n2/mnt, DIR/n3/mnt … to read. Prints one line `ready` when
all nodes are mounted and in sync, then runs until Ctrl-C or SIGTERM and leaves nothing
mounted. A node whose supervisor is killed comes back by itself.
"""

_EXAMPLES: Final = """\
examples:
  sqlitecluster local --nodes 2 --dir /tmp/try
  sqlitecluster local --nodes 3 --dir /tmp/try --base-port 30200 --set replicaWrites=ReadOnly

Of node i: mount DIR/n<i>/mnt, data DIR/n<i>/data, log DIR/n<i>/log, configuration
DIR/n<i>/node.yaml (written anew at each start). It listens on 127.0.0.1, ports
P+10*(i-1)+2 (peers), +3 (health, metrics) and +4 (local API), P being --base-port.
"""


def register(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "local",
        help="run several nodes on this machine",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", metavar="N", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--dir", metavar="DIR", type=Path, required=True, help="folder for everything; made if missing")
    parser.add_argument("--base-port", metavar="P", type=int, default=20200, help="first port (default: 20200)")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="another key of every node's configuration, such as --set verify=Off; may be repeated",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the nodes until told to stop."""
    from sqlitecluster.cli.localnodes import LocalNodes

    if not 1 <= arguments.nodes <= NODES_MAX:
        raise ConfigError(f"--nodes: {arguments.nodes} is not within 1 … {NODES_MAX}")
    last_port = arguments.base_port + _PORTS_PER_NODE * arguments.nodes
    if not 0 < arguments.base_port <= last_port < 65536:
        raise ConfigError(f"--base-port: ports {arguments.base_port} … {last_port} are not all within 1 … 65535")
    folder = Path(os.path.realpath(arguments.dir))
    extra = dict(_setting(text) for text in arguments.set)
    return LocalNodes(
        [write_config(folder, i, base_port=arguments.base_port, extra=extra) for i in range(1, arguments.nodes + 1)]
    ).run()


def write_config(folder: Path, index: int, *, base_port: int, extra: dict[str, object]) -> Path:
    """Write ``node.yaml`` of node ``index`` (1 is the primary); returns its path."""
    home = folder / f"n{index}"
    home.mkdir(parents=True, exist_ok=True)
    port = base_port + _PORTS_PER_NODE * (index - 1)
    config: dict[str, object] = {
        "name": f"n{index}",
        "dataDir": str(home / "data"),
        "mountDir": str(home / "mnt"),
        "role": "primary" if index == 1 else "replica",
        "listen": {
            "peers": f"127.0.0.1:{port + 2}",
            "metrics": f"127.0.0.1:{port + 3}",
            "api": f"127.0.0.1:{port + 4}",
        },
    }
    if index > 1:
        config["primaryUrl"] = f"http://127.0.0.1:{base_port + 2}"
    path = home / "node.yaml"
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in {**config, **extra}.items()]
    path.write_text(
        "# Written by `sqlitecluster local` at each start; change it with --set KEY=VALUE.\n" + "".join(lines)
    )
    return path


def _setting(text: str) -> tuple[str, object]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set: expected KEY=VALUE, not {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {value!r} is no legal value") from error
