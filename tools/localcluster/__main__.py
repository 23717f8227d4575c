"""``python -m localcluster``: the local cluster from a shell."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.layout import DEFAULT_STATE

API = "apiserver"
ON_A_NODE = {
    "cut": "pull a node's network cable",
    "mend": "plug it in again",
    "poweroff": "pull a node's plug",
    "poweron": "switch it on again",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m localcluster", description=__doc__)
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="folder of the cluster (default: .cluster)")
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default: 3)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start it; nothing happens when it runs")
    down = commands.add_parser("down", help="stop it; nothing stays but the image stores")
    down.add_argument("--all", action="store_true", help="remove the image stores too")
    commands.add_parser("status", help="nodes as this machine and as the API see them")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    commands.add_parser("load", help="import image archives into all nodes").add_argument(
        "archives", nargs="+", type=Path
    )
    for name, text in ON_A_NODE.items():
        commands.add_parser(name, help=text).add_argument("node")
    for name, text in (("freeze", "stop a node with all its pods"), ("thaw", "let it go on")):
        commands.add_parser(name, help=f"{text}; or the API server: {API}").add_argument("node")
    for name, text in (("client", "run a command beside the nodes"), ("in", "run a command inside a node")):
        run = commands.add_parser(name, help=text)
        if name == "in":
            run.add_argument("node")
        run.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


def perform(cluster: Cluster, options: argparse.Namespace) -> int:
    """Do what the command line says."""
    match options.command:
        case "up":
            cluster.up()
        case "down":
            cluster.down(everything=options.all)
        case "status":
            return status(cluster)
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "load":
            cluster.load(options.archives)
        case "freeze":
            cluster.freeze_api() if options.node == API else cluster.freeze(options.node)
        case "thaw":
            cluster.thaw_api() if options.node == API else cluster.thaw(options.node)
        case "client":
            execute(cluster.client_command(options.argv))
        case "in":
            execute(cluster.node_command(options.node, options.argv))
        case other:
            {"cut": cluster.cut, "mend": cluster.mend, "poweroff": cluster.power_off, "poweron": cluster.power_on}[
                other
            ](options.node)
    return 0


def execute(command: list[str]) -> None:
    """Become another program."""
    os.execvp(command[0], command)


def status(cluster: Cluster) -> int:
    """A line for each node; 1 when the cluster is not up."""
    if not cluster.is_up():
        print("the cluster is down")
        return 1
    ready = cluster.client.ready_nodes()
    for name, state in cluster.states().items():
        print(f"{name}  {state:8} {'Ready' if name in ready else 'NotReady'}")
    print(f"KUBECONFIG={cluster.kubeconfig}")
    return 0


def main() -> int:
    """Entry; an error is one message."""
    options = build_parser().parse_args()
    try:
        return perform(Cluster(options.state, nodes=options.nodes), options)
    except ClusterError as error:
        print(f"localcluster: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
