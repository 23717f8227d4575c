"""What this machine must have, and careful removal of trees."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from localcluster import cgroups
from localcluster.errors import ClusterError
from localcluster.layout import Layout
from localcluster.nodeconfig import CNI_PROGRAMS

COMMANDS = ("containerd", "ctr", "runc", "nft", "ip", "nsenter", "unshare", "socat", "conntrack", "iptables", "sysctl")
CURE = "tools/install-cluster installs it (`make cluster` does that)"


def missing() -> list[str]:
    """What is missing on this machine, in words."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = [f"the command {name} is missing: {CURE}" for name in COMMANDS if not shutil.which(name, path=path)]
    if not (Path(CNI_PROGRAMS) / "ptp").exists():
        found.append(f"CNI plugins are missing in {CNI_PROGRAMS}: {CURE}")
    if not Path("/bin/busybox").exists():
        found.append(f"a static busybox is missing: {CURE}")
    return found


def check() -> None:
    """One line about why this machine cannot have a cluster, if so."""
    if os.geteuid() != 0:
        raise ClusterError("the local cluster needs root: it makes namespaces, mounts and cgroups")
    if not Path("/dev/fuse").exists():
        raise ClusterError("this machine has no /dev/fuse; sidecars could not mount")
    cgroups.hierarchies()
    if lacking := missing():
        raise ClusterError(lacking[0])


def free_port(preferred: int) -> int:
    """A local TCP port: the preferred one unless it is taken."""
    for port in (preferred, 0):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(candidate.getsockname()[1])
    raise ClusterError("no local port is free")


def remove_tree(path: Path) -> None:
    """Remove a folder, also with immutable files in it (mount points may be made so)."""
    if not path.exists():
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        subprocess.run(["chattr", "-R", "-i", str(path)], capture_output=True, check=False)
        shutil.rmtree(path)


def copy_logs(layout: Layout, target: Path) -> None:
    """Keep the logs of all components."""
    if layout.logs.exists():
        shutil.copytree(layout.logs, target / "control")
    for node in layout.nodes:
        source = layout.node_folder(node) / "logs"
        if source.exists():
            shutil.copytree(source, target / node.name)
