"""The order in which a cluster starts.

Certificates, network, nodes (they retry in the background), etcd and API server; only
when that answers the controllers, since they end for good without the first roles.
"""

from __future__ import annotations

import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from localcluster import cgroups, controlplane, images, machine, manifests, network, nodeconfig, pki, processes
from localcluster.client import Client
from localcluster.errors import ClusterError
from localcluster.layout import Layout
from localcluster.node import NodeProcess
from localcluster.programs import Programs

CONTROL = "control"
PREFERRED_PORT = 16443
CONTROL_PROCESSES = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "provisioner", "way-out", "way-in",
)  # fmt: skip
SOCKET_PATH_MAX = 107


class Starter:
    """One start of one cluster."""

    def __init__(self, layout: Layout, programs: Programs, say: Callable[[str], None]) -> None:
        if len(str(layout.api_socket)) > SOCKET_PATH_MAX:
            raise ClusterError(f"the state folder's path is too long for a socket: {layout.state}")
        self._layout = layout
        self._programs = programs
        self._say = say
        self._client = Client(layout)
        self._groups = cgroups.make(layout.cgroup(CONTROL))

    def run(self, nodes: Sequence[NodeProcess], limit_s: float) -> None:
        """Start all; returns when the nodes are Ready and names resolve."""
        layout, deadline = self._layout, time.monotonic() + limit_s
        built = {
            name: images.write(image, layout.images) for name, image in images.built_in(self._programs.coredns).items()
        }
        who = pki.make(layout)
        port = machine.free_port(PREFERRED_PORT)
        self._write_kubeconfigs(who, port)
        network.make(layout)
        self._control("etcd", controlplane.etcd(layout, self._programs.bin))
        self._control("kube-apiserver", controlplane.apiserver(self._programs.bin, who))
        self._control("way-out", controlplane.way_out(layout))
        self._start("way-in", controlplane.way_in(layout, port))
        self._start_nodes(nodes, who, built)
        self._wait("the API server", lambda: _ready(port, who), deadline, "kube-apiserver")
        self._say("API server ready")
        self._control("kube-controller-manager", controlplane.controller_manager(layout, self._programs.bin, who))
        self._control("kube-scheduler", controlplane.scheduler(layout, self._programs.bin))
        self._control("provisioner", controlplane.provisioner(layout, self._programs.bin))
        self._apply(manifests.text(built["coredns"][0]), deadline)
        names = {node.node.name for node in nodes}
        self._wait("the nodes", lambda: names <= self._client.ready_nodes(), deadline, "kube-controller-manager")
        self._say(f"nodes ready: {len(names)}")
        self._wait("names", self._names_resolve, deadline, "kube-controller-manager")

    def _write_kubeconfigs(self, who: pki.Identities, port: int) -> None:
        for user in ("controller-manager", "scheduler", "provisioner"):
            path = controlplane.kubeconfig_path(self._layout, user)
            path.write_text(pki.kubeconfig(pki.API_URL, who.ca.cert, who.users[user]))
        self._layout.kubeconfig.touch(mode=0o600)
        url = f"https://127.0.0.1:{port}"
        self._layout.kubeconfig.write_text(pki.kubeconfig(url, who.ca.cert, who.users["admin"]))
        self._layout.bin.mkdir(parents=True, exist_ok=True)
        for name in ("kubectl", "helm"):
            link = self._layout.bin / name
            link.unlink(missing_ok=True)
            link.symlink_to(self._programs.bin / name)

    def _start_nodes(
        self, nodes: Sequence[NodeProcess], who: pki.Identities, built: dict[str, tuple[str, Path]]
    ) -> None:
        archives = {reference: str(path) for reference, path in built.values()}
        for node in nodes:
            node.prepare(who, built["pause"][0], archives)
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(NodeProcess.start, nodes))

    def _control(self, name: str, command: list[str]) -> None:
        self._start(name, [*network.inside(self._layout, "control"), *command])

    def _start(self, name: str, command: list[str]) -> None:
        log = self._layout.logs / f"{name}.log"
        pid = processes.start(command, log=log, cgroups=self._groups, environment=nodeconfig.environment(os.environ))
        processes.remember(self._layout.pids, name, pid)

    def _wait(self, what: str, good: Callable[[], bool], deadline: float, log: str) -> None:
        def look() -> bool:
            ended = [name for name in CONTROL_PROCESSES if self._ended(name)]
            if ended:
                tail = processes.tail(self._layout.logs / f"{ended[0]}.log")
                raise ClusterError(f"{ended[0]} ended:\n{tail}")
            return good()

        if not processes.wait_until(look, deadline - time.monotonic(), 0.1):
            tail = processes.tail(self._layout.logs / f"{log}.log")
            raise ClusterError(f"{what} did not get ready; the end of {log}.log:\n{tail}")

    def _ended(self, name: str) -> bool:
        return (self._layout.pids / name).exists() and processes.recall(self._layout.pids, name) is None

    def _apply(self, text: str, deadline: float) -> None:
        said = ""

        def accepted() -> bool:
            nonlocal said
            try:
                self._client.kubectl("apply", "-f", "-", text=text)
            except ClusterError as error:
                said = str(error)
                return False
            return True

        try:
            self._wait("the first objects", accepted, deadline, "kube-apiserver")
        except ClusterError as error:
            raise ClusterError(f"{error}\n{said}") from None

    def _names_resolve(self) -> bool:
        query = ["get", "deployment", "coredns", "-n", "kube-system", "-o", "jsonpath={.status.readyReplicas}"]
        try:
            return self._client.kubectl(*query) == "2"
        except ClusterError:
            return False


def _ready(port: int, who: pki.Identities) -> bool:
    context = ssl.create_default_context(cafile=str(who.ca.cert))
    try:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", timeout=2, context=context) as answer:
            return bool(answer.read() == b"ok")
    except (urllib.error.URLError, OSError):
        return False
