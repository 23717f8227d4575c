"""One node as processes: starting it, finding its first process, running commands in it, pulling its plug."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster import cgroups, network, nodeconfig, processes
from localcluster.errors import ClusterError
from localcluster.layout import Layout, Node
from localcluster.pki import API_URL, Identities, kubeconfig

SYSTEM_GROUP = "sys"
FIRST_PROCESS_LIMIT_S = 20.0
FOLDERS = ("kubelet", "cni-cache", "pods", "containers", "volumes", "logs", "cni")


@dataclass(frozen=True)
class NodeProcess:
    """A node of a cluster, running or not."""

    layout: Layout
    node: Node
    programs: Path

    @property
    def group(self) -> str:
        return self.layout.cgroup(self.node.name)

    def prepare(self, who: Identities, pause_image: str, images: Mapping[str, str]) -> None:
        """Write everything that the node reads."""
        folder = self.layout.node_folder(self.node)
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.layout.store(self.node).mkdir(parents=True, exist_ok=True)
        texts = nodeconfig.files(self.node, cgroup=self.group, pause_image=pause_image, images=images)
        texts["kubelet.kubeconfig"] = kubeconfig(API_URL, who.ca.cert, who.node_clients[self.node.name])
        texts["proxy.kubeconfig"] = kubeconfig(API_URL, who.ca.cert, who.users["proxy"])
        store = str(self.layout.store(self.node))
        texts["init.sh"] = nodeconfig.init(self.node, folder=str(folder), store=store, programs=str(self.programs))
        for name, text in texts.items():
            (folder / name).write_text(text)
        server = who.node_servers[self.node.name]
        for source, name in ((who.ca.cert, "ca.crt"), (server.cert, "server.crt"), (server.key, "server.key")):
            shutil.copyfile(source, folder / name)

    def start(self) -> None:
        """Switch the node on."""
        groups = cgroups.make(f"{self.group}/{SYSTEM_GROUP}")
        folder = self.layout.node_folder(self.node)
        command = [
            *network.inside(self.layout, self.node.name),
            *("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("bash", str(folder / "init.sh")),
        ]
        log = folder / "logs" / "init.log"
        outer = processes.start(command, log=log, cgroups=groups, environment=nodeconfig.environment(os.environ))
        found: list[int] = []

        def look() -> bool:
            # The child before its exec looks like the first process, too: only number 1 of its namespace is it.
            found[:] = [child for child in processes.children(outer) if processes.is_first_of_namespace(child)]
            return bool(found) or not processes.alive(outer)

        if not processes.wait_until(look, FIRST_PROCESS_LIMIT_S) or not found:
            raise ClusterError(f"{self.node.name} did not start:\n{processes.tail(log)}")
        processes.remember(self.layout.pids, self.node.name, found[0])

    def pid(self) -> int | None:
        """The node's first process, if it is on."""
        return processes.recall(self.layout.pids, self.node.name)

    def power_off(self) -> None:
        """Pull the plug: everything of the node is gone at once, nothing is told to anyone."""
        pid = self.pid()
        if pid is not None:
            processes.send(pid, signal.SIGKILL)
        cgroups.kill(self.group)
        cgroups.remove(self.group)

    def command(self, *argv: str) -> list[str]:
        """A command line that runs inside the node (its mounts, network and processes)."""
        pid = self.pid()
        if pid is None:
            raise ClusterError(f"{self.node.name} is off")
        return ["nsenter", f"--target={pid}", "--mount", "--net", "--uts", "--pid", "--", *argv]
