"""Three elected nodes in networks of their own, a real API server, and the programs of each pod.

    ├ 10.88.0.2   etcd, kube-apiserver
    └ 10.88.0.11… a node each: supervisor, mount, replicator; its data on a small tmpfs

All packets between them go through ``support.chaosnet``. The operator's part (making the
Lease, writing requests for hand-offs, making pods anew) is played by the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from sqlitecluster.election.record import HANDOFF, HandOff, LeaseRecord
from support import nemesisclient, processes, realapi
from support.chaosnet import ChaosNet
from support.cluster import ClusterStartError, SyncError
from support.electedcluster import unsettled
from support.history import Away, Term
from support.namespaces import Namespace
from support.node import Node, StartError, position_of
from support.realapi import RealAPI, Refused

CLUSTER: Final = "notes"
LEASE: Final = {"durationS": 5, "renewDeadlineS": 3, "retryPeriodS": 0.5, "marginMs": 500}
DISK_MIB: Final = 256
RESERVE: Final = 8 << 20
PORTS: Final = {"peers": 20202, "metrics": 20203, "api": 20204}
LIMIT_S: Final = 60.0
LEASE_PATH: Final = f"{realapi.LEASES}/{CLUSTER}"


class NemesisNode(Node):
    """A pod: a node and its programs."""

    def __init__(self, folder: Path, index: int, api: RealAPI, **options: object) -> None:
        super().__init__(folder, index, 0, **options)
        self.log = folder / f"{self.name}.log"
        self.space = Namespace(f"10.88.0.{10 + index}")
        self.uid = ""
        self._api = api
        self.programs: subprocess.Popen[bytes] | None = None
        self.credentials = self.folder / "credentials"

    @property
    def address(self) -> str:
        """Where the others find it."""
        return self.space.address

    def port(self, kind: str, index: int | None = None) -> int:
        return PORTS[kind]

    def settings(self) -> dict[str, object]:
        listen = {kind: f"127.0.0.1:{port}" for kind, port in PORTS.items()}
        listen["peers"] = f"{self.address}:{PORTS['peers']}"
        election: dict[str, object] = {
            "cluster": CLUSTER,
            "namespace": realapi.NAMESPACE,
            "podUID": self.uid,
            "address": self.address,
            "apiServer": realapi.URL,
            "credentialsDir": str(self.credentials),
            "lease": LEASE,
            "switchoverTimeoutS": 10,
        }
        paths = {"dataDir": str(self.data), "mountDir": str(self.mount)}
        more: dict[str, object] = {"reserveBytes": RESERVE, **self._options}
        return {"name": self.name, **paths, "role": "elected", "listen": listen, "election": election, **more}

    def make_disk(self) -> None:
        """Its volume: full sooner than the machine's."""
        self.data.mkdir(parents=True)
        options = f"size={DISK_MIB}m,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.data)], check=True)

    def clear_runtime(self) -> list[str]:
        """Remove what it had on the machine's tmpfs; says which files were still there."""
        digest = hashlib.sha256(str(self.data).encode()).hexdigest()[:16]
        folder = Path("/dev/shm") / f"sqlitecluster-{digest}"
        files = [f"left-over {path}" for path in folder.rglob("*") if path.is_file()]
        shutil.rmtree(folder, ignore_errors=True)
        return files

    def make_pod(self) -> None:
        """Its Pod object, anew when there was one."""
        if self.uid:
            self._api.call("DELETE", f"{realapi.PODS}/{self.name}?gracePeriodSeconds=0")
        self.uid = self._api.make_pod(self.name, {"sqlitecluster.dev/cluster": CLUSTER}, self.address)

    def launch(self) -> None:
        self.space.call(super().launch)

    def stop(self, limit_s: float = 60.0) -> bool:
        self.end_programs()
        return super().stop(limit_s)

    def get(self, path: str, kind: str = "api", limit_s: float = 3.0) -> bytes:
        return self.space.call(super().get, path, kind, limit_s)

    # Its processes.

    def everyone(self) -> list[int]:
        """All processes of the node."""
        return processes.children_of(self.process.pid) if self.process is not None else []

    def signal_all(self, number: int, *, programs: bool) -> None:
        """To every process of the node, and to its programs."""
        for pid in self.everyone():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if programs and self.programs is not None and self.programs.poll() is None:
            self.programs.send_signal(number)

    def crash(self, *, programs: bool) -> None:
        """SIGKILL, as when a machine is lost."""
        gone = self.everyone()
        self.signal_all(signal.SIGKILL, programs=programs)
        if self.process is not None:
            self.process.wait(30)
        processes.wait_until(lambda: not any(map(processes.alive, gone)), limit_s=30)
        self.process = None
        if programs:
            self.end_programs()

    def start_programs(self, database: str, record: Path, seed: str, rate: float) -> None:
        """Its programs for a run."""
        self.programs = nemesisclient.start(self.mount / database, record, self.name, seed, rate)

    def end_programs(self) -> None:
        """Ask them to end; what hangs is killed."""
        if self.programs is not None:
            processes.end(self.programs, limit_s=20)
            self.programs = None


class NemesisCluster:
    """Everything together; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path, seed: str, say: Callable[[str], None], **options: object) -> None:
        self.folder = folder
        self.away: list[Away] = []
        self.terms: list[Term] = []
        self._control = Namespace(realapi.ADDRESS)
        self.api = RealAPI(folder / "api", self._control, say)
        self.nodes = [NemesisNode(folder, index, self.api, **options) for index in (1, 2, 3)]
        spaces = [self._control, *(node.space for node in self.nodes)]
        self.net = ChaosNet(spaces, seed, folder / "net.log")
        self.left: list[str] = []
        """After the end: what had to be removed by force."""
        self._ids = 0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self.api.thaw()
        with contextlib.suppress(RuntimeError, OSError):
            self.net.heal()
        for node in self.nodes:
            node.signal_all(signal.SIGCONT, programs=True)
            node.end_programs()
        for node in reversed(self.nodes):
            node.stop(30)
            processes.unmount(node.data)
        self.api.stop()
        self.net.close()
        self.left = processes.clear(self.folder)
        for node in self.nodes:
            self.left += node.clear_runtime()
        for space in (self._control, *(node.space for node in self.nodes)):
            space.close()

    def _start(self) -> None:
        self.api.start()
        self.api.call("POST", realapi.LEASES, {"metadata": {"name": CLUSTER}, "spec": {"leaseDurationSeconds": 5}})
        for node in self.nodes:
            node.make_disk()
            node.make_pod()
            self.api.write_credentials(node.credentials)
            node.launch()
        try:
            for node in self.nodes:
                node.wait_ready()
            self.settled()
        except (StartError, AssertionError) as error:
            raise ClusterStartError(str(error)) from error
        threading.Thread(target=self._follow_lease, daemon=True).start()

    # The Lease.

    def record(self) -> LeaseRecord:
        """The Lease as it is; raises OSError while the API does not answer."""
        return LeaseRecord.from_object(self.api.call("GET", LEASE_PATH))

    def _follow_lease(self) -> None:
        """Note each epoch and holder that is seen."""
        while not self._ended.wait(0.2):
            with contextlib.suppress(OSError, Refused, RuntimeError, ValueError):
                record = self.record()
                holder = str(record.holder) if record.holder else ""
                if not self.terms or (self.terms[-1].epoch, self.terms[-1].holder) != (record.epoch, holder):
                    self.terms.append(Term(time.monotonic(), record.epoch, holder))

    def ask(self, to: str, kind: str = "handoff") -> str:
        """Request a hand-off as the operator does; returns its id."""
        self._ids += 1
        request = HandOff(f"id-{os.getpid()}-{self._ids}", to, kind)
        self.api.patch(LEASE_PATH, {"metadata": {"annotations": {HANDOFF: request.to_json()}}})
        return request.id

    # The nodes.

    @property
    def primary(self) -> NemesisNode:
        """Whom the Lease names."""
        return self.node(self.record().pod)

    @property
    def followers(self) -> list[NemesisNode]:
        """The others."""
        pod = self.record().pod
        return [node for node in self.nodes if node.name != pod]

    def node(self, name: str) -> NemesisNode:
        """By name."""
        return next(node for node in self.nodes if node.name == name)

    def believed(self) -> NemesisNode:
        """Who was seen last as the holder; for faults, which must not need the API."""
        holder = next((term.holder for term in reversed(self.terms) if term.holder), "")
        return self.node(holder.partition("_")[0]) if holder else self.primary

    def settled(self, limit_s: float = LIMIT_S) -> NemesisNode:
        """Wait until the holder is the primary and everybody follows it."""
        last = "never looked"

        def good() -> bool:
            nonlocal last
            last = self._unsettled()
            return not last

        if not processes.wait_until(good, limit_s=limit_s, step_s=0.1):
            raise AssertionError(f"not settled after {limit_s:.0f} s: {last}")
        return self.primary

    def _unsettled(self) -> str:
        try:
            record = self.record()
        except (OSError, Refused) as error:
            return f"the API does not answer: {error}"
        return unsettled(self.nodes, record.pod)

    def wait_synced(self, name: str, limit_s: float = LIMIT_S) -> None:
        """Wait until all nodes have the same position of a database, twice."""
        last: dict[str, object] = {}

        def good() -> bool:
            nonlocal last
            before, last = last, {node.name: position_of(node.database(name)) for node in self.nodes}
            return None not in last.values() and len(set(map(str, last.values()))) == 1 and last == before

        if not processes.wait_until(good, limit_s=limit_s, step_s=0.1):
            raise SyncError(f"{name} is not everywhere the same after {limit_s:.1f} s: {last}")

    @contextlib.contextmanager
    def note_away(self, node: NemesisNode, kind: str) -> Iterator[None]:
        """Note the time in which a node is stopped, dead or cut off."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.away.append(Away(node.name, begin, time.monotonic(), kind))

    def log_tails(self, lines: int = 25) -> str:
        """The ends of all nodes' logs."""
        return "\n".join(node.log_tail(lines) for node in self.nodes)

    def keep(self, folder: Path) -> None:
        """Copy what explains a run: logs, what nodes say, the Lease."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*self.folder.glob("*.log"), *self.folder.glob("api/run/logs/*.log")):
            shutil.copy(path, folder / path.name)
        for node in self.nodes:
            copy = ["cp", "-a", "--sparse=always", str(node.data), str(folder / f"{node.name}-data")]
            subprocess.run(copy, check=False, capture_output=True)
        said: dict[str, Any] = {node.name: node.info() for node in self.nodes}
        with contextlib.suppress(OSError, Refused):
            said["lease"] = self.api.call("GET", LEASE_PATH)
        (folder / "nodes.json").write_text(json.dumps(said, indent=1))
