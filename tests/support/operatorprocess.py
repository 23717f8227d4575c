"""The operator as a process of this machine, for tests that need no pods or make them themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from localcluster.layout import ROOT
from support import ports

LEADER_LEASE = "operator-under-test"


class OperatorProcess:
    """One operator for some namespaces."""

    def __init__(
        self, folder: Path, kubeconfig: Path, namespaces: tuple[str, ...], lease_namespace: str, *more: str
    ) -> None:
        self._folder = folder
        self.kubeconfig = kubeconfig
        self._namespaces = namespaces
        self._lease_namespace = lease_namespace
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        base = ports.take_base(3)
        self.health, self.metrics_port, self.identity = base, base + 1, base + 2

    @property
    def log(self) -> Path:
        """Where it writes."""
        return self._folder / "operator.log"

    def start(self, kubeconfig: Path | None = None) -> None:
        """Start it, anew if it ran."""
        self._starts += 1
        command = [
            sys.executable, "-m", "sqlitecluster_operator",
            *(part for namespace in self._namespaces for part in ("--namespace", namespace)),
            "--kubeconfig", str(kubeconfig or self.kubeconfig),
            "--lease-namespace", self._lease_namespace, "--lease-name", LEADER_LEASE,
            "--liveness", f"127.0.0.1:{self.health}", "--metrics", f"127.0.0.1:{self.metrics_port}",
            "--listen-identity", f"127.0.0.1:{self.identity}",
            *self._more,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'sidecar'}"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, env=environment, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self, limit_s: float = 20.0) -> int:
        """SIGTERM; its exit code."""
        if self._process is None or self._process.poll() is not None:
            return -1
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def get(self, path: str, port: int) -> tuple[int, str]:
        """A page of it: status and text; (0, …) when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self) -> dict[str, float]:
        """Its metrics, by name with labels."""
        status, text = self.get("/metrics", self.metrics_port)
        if status != 200:
            return {}
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def resident_mib(self, line_of: str = "VmRSS") -> float:
        """Its memory; ``VmHWM``: the most that it ever had."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{line_of}:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def wait_leading(self, limit_s: float = 60.0) -> None:
        """Until it leads and has listed what is there."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if not self.running:
                raise AssertionError(f"the operator ended:\n{self.tail()}")
            if self.metrics().get("sqlitecluster_operator_leader") == 1:
                return
            time.sleep(0.2)
        raise AssertionError(f"the operator does not lead within {limit_s:.0f} s:\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
