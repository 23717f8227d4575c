"""The cluster's network: a switch and one cable to each part, all in namespaces of their own.

Everything is routed, no address exists outside. A cable is pulled on the switch's side.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from localcluster.errors import ClusterError
from localcluster.layout import (
    BRIDGE_NET,
    CLIENT_ADDRESS,
    CONTROL_ADDRESS,
    SERVICE_NET,
    Layout,
    Node,
)

PREFIX = BRIDGE_NET.rpartition("/")[2]


def ports(layout: Layout) -> dict[str, str]:
    """Parts that have a cable, with their addresses."""
    named = {"control": CONTROL_ADDRESS, "client": CLIENT_ADDRESS}
    return named | {node.name: node.address for node in layout.nodes}


def switch_lines(layout: Layout) -> list[str]:
    """Commands of ``ip -batch`` inside the switch: the bridge and all cables."""
    lines = ["link set lo up", "link add sw0 type bridge", "link set sw0 up"]
    for part in ports(layout):
        lines += [
            f"link add p-{part} type veth peer name eth0 netns {layout.namespace(part)}",
            f"link set p-{part} master sw0",
            f"link set p-{part} up",
        ]
    return lines


def part_lines(layout: Layout, part: str) -> list[str]:
    """Commands inside one part: its address, and routes to all pods and Services."""
    lines = ["link set lo up", f"addr add {ports(layout)[part]}/{PREFIX} dev eth0", "link set eth0 up"]
    lines += [f"route add {node.pod_net} via {node.address}" for node in layout.nodes if node.name != part]
    # A route for Services must exist although kube-proxy rewrites the address: it is looked up first.
    via = f"via {layout.nodes[0].address}" if part == "client" else "dev eth0"
    return [*lines, f"route add {SERVICE_NET} {via}"]


def make(layout: Layout) -> None:
    """Make all namespaces, cables and routes."""
    for part in ("switch", *ports(layout)):
        _run(["ip", "netns", "add", layout.namespace(part)])
    _batch(layout, "switch", switch_lines(layout))
    for part in ports(layout):
        _batch(layout, part, part_lines(layout, part))
        _run([*inside(layout, part), "sysctl", "-qw", "net.ipv4.ip_forward=1"])


def remove(layout: Layout) -> None:
    """Remove all namespaces; what is in them goes along."""
    for path in sorted(Path("/run/netns").glob(f"{layout.identity}-*")):
        _run(["ip", "netns", "delete", path.name])


def inside(layout: Layout, part: str) -> list[str]:
    """The start of a command line that runs in a part's network."""
    return ["nsenter", f"--net={layout.namespace_path(part)}"]


def set_cable(layout: Layout, part: str, plugged: bool) -> None:
    """Plug or pull a part's cable."""
    _batch(layout, "switch", [f"link set p-{part} {'up' if plugged else 'down'}"])


def plugged(layout: Layout, part: str) -> bool:
    text = _run(["ip", "-n", layout.namespace("switch"), "link", "show", f"p-{part}"])
    return ",UP" in text.partition(">")[0]


def forget_rules(layout: Layout, node: Node) -> None:
    """A node without power has no packet rules left."""
    _run([*inside(layout, node.name), "nft", "flush", "ruleset"])


def forget_pods(layout: Layout, node: Node) -> None:
    """A node without power has no cables to pods left.

    The kernel takes them away some time after the pods' namespaces, each with its route: one that goes late takes the
    route of the pod that got the same address after the node's start, since the plugin leaves a route that exists.
    """
    for line in _run(["ip", "-n", layout.namespace(node.name), "-o", "link", "show", "type", "veth"]).splitlines():
        name = line.split(":", 2)[1].strip().partition("@")[0]
        if name != "eth0":
            with contextlib.suppress(ClusterError):  # it is gone
                _run(["ip", "-n", layout.namespace(node.name), "link", "delete", name])


def lead_client_by(layout: Layout, node: Node) -> None:
    """Let the client reach Services through another node (when its own is gone)."""
    _batch(layout, "client", [f"route replace {SERVICE_NET} via {node.address}"])


def _batch(layout: Layout, part: str, lines: list[str]) -> None:
    _run(["ip", "-n", layout.namespace(part), "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
