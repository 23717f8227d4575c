"""The cluster as a whole: up, down, and everything that can be done to it while it runs."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from localcluster import cgroups, images, machine, network, orphans, processes, programs
from localcluster.client import Client
from localcluster.errors import ClusterError
from localcluster.layout import DEFAULT_STATE, Layout, Node
from localcluster.node import NodeProcess
from localcluster.starting import CONTROL_PROCESSES, Starter

API_PROCESS = "kube-apiserver"
UP_LIMIT_S = 120.0
READY_LIMIT_S = 60.0
IMPORT_LIMIT_S = 300.0


def _print(text: str) -> None:
    print(f"==> {text}", flush=True)


class Cluster:
    """One local cluster; its state folder is its identity. Every method may be called by any process."""

    def __init__(self, state: Path = DEFAULT_STATE, *, nodes: int = 3, say: Callable[[str], None] = _print) -> None:
        self.layout = Layout(state.resolve(), nodes)
        self.client = Client(self.layout)
        self._say = say

    # What callers need.

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def kubectl_program(self) -> Path:
        return self.layout.bin / "kubectl"

    @property
    def helm_program(self) -> Path:
        return self.layout.bin / "helm"

    @property
    def node_names(self) -> list[str]:
        return [node.name for node in self.layout.nodes]

    def kubectl(self, *arguments: str, text: str | None = None, limit_s: float = 60.0) -> str:
        """Run kubectl; its output, or an error with its words."""
        return self.client.kubectl(*arguments, text=text, limit_s=limit_s)

    def client_command(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs in a network of its own beside the nodes: pods, Services and their names work."""
        return self.client.command(argv)

    def node_command(self, node: str, argv: Sequence[str]) -> list[str]:
        """A command line that runs inside a node."""
        return self._node(node).command(*argv)

    # Life.

    def up(self) -> None:
        """Start what does not run; does nothing when all is well."""
        machine.check()
        with self._lock():
            built = programs.ensure(self._say)
            if self.is_up():
                self._heal()
                self._say(f"the cluster is up: KUBECONFIG={self.kubeconfig}")
                return
            if self.layout.run.exists():
                self._say("what is left of an earlier cluster is removed")
                self._wipe()
            self._reap_orphans()
            self.layout.run.mkdir(parents=True)  # before the record: without it this is an orphan
            orphans.record(self.layout)
            began = time.monotonic()
            try:
                Starter(self.layout, built, self._say).run(self._processes(), UP_LIMIT_S)
            except BaseException:
                self._keep_logs()
                self._wipe()
                raise
            self._say(f"up in {time.monotonic() - began:.1f} s: KUBECONFIG={self.kubeconfig}")

    def down(self, *, everything: bool = False) -> None:
        """End all processes; remove namespaces, cgroups and state. Image stores stay unless ``everything``."""
        if not self.layout.state.exists():
            self._say("there is no cluster")
            return
        with self._lock():
            began = time.monotonic()
            self._wipe()
            if everything:
                machine.remove_tree(self.layout.state)
            self._say(f"down in {time.monotonic() - began:.1f} s")

    def is_up(self) -> bool:
        """True when the control plane runs (nodes may be off, cut or frozen; the API may be frozen)."""
        return self.kubeconfig.exists() and all(
            processes.recall(self.layout.pids, name) is not None for name in CONTROL_PROCESSES
        )

    def states(self) -> dict[str, str]:
        """What each node is in the eyes of this machine: on, off, frozen or cut."""
        return {node.name: self._state(node) for node in self.layout.nodes}

    def _state(self, node: Node) -> str:
        process = self._process(node)
        if process.pid() is None:
            return "off"
        if cgroups.is_frozen(process.group):
            return "frozen"
        return "on" if network.plugged(self.layout, node.name) else "cut"

    # Images.

    def load(self, archives: Sequence[Path]) -> None:
        """Import archives (docker-save or OCI layout) into all nodes' stores; they stay there over down and up."""
        missing = [str(path) for path in archives if not path.exists()]
        if missing:
            raise ClusterError(f"no such archive: {', '.join(missing)}")
        running = [process for process in self._processes() if process.pid() is not None]
        if not running:
            raise ClusterError("no node is on; start the cluster first")
        with ThreadPoolExecutor(len(running)) as pool:
            list(pool.map(lambda process: self._import(process, archives), running))
        self._say(f"loaded into {len(running)} nodes: {', '.join(path.name for path in archives)}")

    def _import(self, process: NodeProcess, archives: Sequence[Path]) -> None:
        stored = self._stored(process)
        for archive in archives:
            *names, content = map(images.qualified, images.references(archive))  # the last tag says what is inside
            if content in stored:
                self._tag(process, content, names)
                continue
            command = self._ctr(process, "import", "-")
            with archive.open("rb") as opened:
                done = subprocess.run(
                    command, stdin=opened, capture_output=True, text=True, timeout=IMPORT_LIMIT_S, check=False
                )
            if done.returncode:
                raise ClusterError(f"{process.node.name} refuses {archive}: {done.stderr.strip()}")

    def _tag(self, process: NodeProcess, content: str, names: Sequence[str]) -> None:
        for name in names:
            command = self._ctr(process, "tag", "--force", content, name)
            subprocess.run(command, capture_output=True, timeout=IMPORT_LIMIT_S, check=True)

    def _ctr(self, process: NodeProcess, *arguments: str) -> list[str]:
        return process.command("ctr", "-n", "k8s.io", "images", *arguments)

    def _stored(self, process: NodeProcess) -> set[str]:
        """References of the images that a node has."""
        done = subprocess.run(
            self._ctr(process, "ls", "-q"), capture_output=True, text=True, timeout=IMPORT_LIMIT_S, check=False
        )
        return set(done.stdout.split())

    # Failures.

    def cut(self, node: str) -> None:
        """Pull a node's network cable."""
        self._lead_client_around(self.layout.node(node))
        network.set_cable(self.layout, self.layout.node(node).name, plugged=False)

    def mend(self, node: str) -> None:
        """Plug it in again."""
        network.set_cable(self.layout, self.layout.node(node).name, plugged=True)
        self._lead_client_around()

    def freeze(self, node: str) -> None:
        """Stop a whole node, daemons and pods at once, as a paused virtual machine."""
        cgroups.set_frozen(self._node(node).group, True)

    def thaw(self, node: str) -> None:
        cgroups.set_frozen(self._node(node).group, False)

    def power_off(self, node: str) -> None:
        """Pull a node's plug: no process of it gets a word out."""
        process = self._node(node)
        self._lead_client_around(process.node)
        network.set_cable(self.layout, process.node.name, plugged=False)
        self._end_node(process)

    def power_on(self, node: str) -> None:
        process = self._node(node)
        if process.pid() is not None:
            return
        self._end_node(process)  # what is left of one that ended by itself
        network.set_cable(self.layout, process.node.name, plugged=True)
        process.start()
        self._lead_client_around()

    def _end_node(self, process: NodeProcess) -> None:
        process.power_off()
        network.forget_rules(self.layout, process.node)
        network.forget_pods(self.layout, process.node)

    def freeze_api(self) -> None:
        """Stop the API server as it is; connections stay open and silent."""
        processes.send(self._api_pid(), signal.SIGSTOP)

    def thaw_api(self) -> None:
        processes.send(self._api_pid(), signal.SIGCONT)

    def wait_nodes(self, *names: str, limit_s: float = READY_LIMIT_S) -> None:
        """Wait until nodes (all of them without names) are Ready."""
        wanted = set(names or self.node_names)
        if not processes.wait_until(lambda: wanted <= self.client.ready_nodes(), limit_s, 0.2):
            raise ClusterError(
                f"not Ready after {limit_s:.0f} s: {', '.join(sorted(wanted - self.client.ready_nodes()))}"
            )

    # Inside.

    def _api_pid(self) -> int:
        pid = processes.recall(self.layout.pids, API_PROCESS)
        if pid is None:
            raise ClusterError("the API server does not run")
        return pid

    def _process(self, node: Node) -> NodeProcess:
        return NodeProcess(self.layout, node, programs.cached().bin)

    def _processes(self) -> list[NodeProcess]:
        return [self._process(node) for node in self.layout.nodes]

    def _node(self, name: str) -> NodeProcess:
        try:
            return self._process(self.layout.node(name))
        except KeyError as error:
            raise ClusterError(error.args[0]) from None

    def _heal(self) -> None:
        """Undo what an interrupted test may have left: everything on, plugged in and awake."""
        self.thaw_api()
        cures = {"off": self.power_on, "frozen": self.thaw, "cut": self.mend}
        for name in self.node_names:
            while (state := self._state(self.layout.node(name))) != "on":
                self._say(f"{name} was {state}")
                cures[state](name)
        self.wait_nodes()

    def _lead_client_around(self, *gone: Node) -> None:
        usable = [n for n in self.layout.nodes if n not in gone and self._state(n) in ("on", "frozen")]
        if usable:
            network.lead_client_by(self.layout, usable[0])

    def _wipe(self) -> None:
        cgroups.kill(self.layout.cgroup())
        cgroups.remove(self.layout.cgroup())
        network.remove(self.layout)
        machine.remove_tree(self.layout.run)
        self.kubeconfig.unlink(missing_ok=True)
        orphans.forget(self.layout)

    def _reap_orphans(self) -> None:
        for layout in orphans.orphans():
            if layout.identity != self.layout.identity:
                self._say(f"a cluster whose folder {layout.state} is gone is ended")
                Cluster(layout.state, say=self._say)._wipe()

    def _keep_logs(self) -> None:
        kept = self.layout.state / "failed-logs"
        machine.remove_tree(kept)
        machine.copy_logs(self.layout, kept)
        self._say(f"logs of the failed start: {kept}")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.layout.state.mkdir(parents=True, exist_ok=True)
        with (self.layout.state / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
