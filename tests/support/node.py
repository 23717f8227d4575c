"""One node under test: its folders, its process ``sqlitecluster node``, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from support import processes

START_LIMIT_S = 90.0
STOP_LIMIT_S = 60.0
ANSWER_LIMIT_S = 10.0


class StartError(Exception):
    """A node did not come up: the machine's fault or ours, told apart by its log."""


class Node:
    """A node below ``folder``: mnt, data, node.yaml, log, failpoints."""

    def __init__(self, folder: Path, index: int, base_port: int, **options: object) -> None:
        self.name = f"n{index}"
        self.index = index
        self.folder = folder / self.name
        self.mount = self.folder / "mnt"
        self.data = self.folder / "data"
        self.config_file = self.folder / "node.yaml"
        self.log = self.folder / "log"
        self.failpoints = self.folder / "failpoints"
        self._base_port = base_port
        self._options = options
        self.has_failpoints = True
        """Off where time is measured: each failpoint costs a system call."""
        self.extra: dict[str, str] = {}
        """More of the environment, for the next start."""
        self.process: subprocess.Popen[bytes] | None = None

    def port(self, kind: str, index: int | None = None) -> int:
        """Port of ``peers``, ``metrics`` or ``api``, of this or another node."""
        return self._base_port + 10 * ((index or self.index) - 1) + {"peers": 2, "metrics": 3, "api": 4}[kind]

    def settings(self) -> dict[str, object]:
        """The configuration as it is written to node.yaml."""
        listen = {kind: f"127.0.0.1:{self.port(kind)}" for kind in ("peers", "metrics", "api")}
        role: dict[str, object] = {"role": "primary"}
        if self.index > 1:
            role = {"role": "replica", "primaryUrl": f"http://127.0.0.1:{self.port('peers', 1)}"}
        paths = {"dataDir": str(self.data), "mountDir": str(self.mount)}
        return {"name": self.name, **paths, **role, "listen": listen, **self._options}

    def set_options(self, **options: object) -> None:
        """Change settings for the next start."""
        self._options = {**self._options, **options}

    def launch(self) -> None:
        """Start the process; ``wait_ready`` waits for it."""
        for path in (self.mount, self.data, self.failpoints):
            with contextlib.suppress(OSError):  # a dead mount answers ENOTCONN; the node itself clears it
                path.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(json.dumps(self.settings(), indent=2) + "\n")  # JSON is YAML
        env = processes.environment(**self.extra)
        if self.has_failpoints:
            env["SQLITECLUSTER_FAILPOINTS"] = str(self.failpoints)
        command = processes.cli("node", "--config", str(self.config_file))
        self.process = processes.start(command, log=self.log, env=env)

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the directory is mounted and the API answers.

        Raises:
            StartError: it ended, or the limit passed.
        """
        process = self.process
        assert process is not None
        processes.wait_until(lambda: process.poll() is not None or self.is_ready(), limit_s=limit_s)
        if process.poll() is not None:
            raise StartError(f"{self.name} ended with code {process.returncode}:\n{self.log_tail()}")
        if not self.is_ready():
            raise StartError(f"{self.name} was not ready after {limit_s:.0f} s:\n{self.log_tail()}")

    def is_ready(self) -> bool:
        """True when programs can use the mount and the API answers."""
        return self.is_mounted() and self.info() is not None

    def is_mounted(self) -> bool:
        """True when a live file system is mounted (a dead one answers an error)."""
        try:
            os.stat(self.mount)
        except OSError:
            return False
        return bool(processes.mounts_under(self.mount))

    def start(self) -> None:
        """Start and wait."""
        self.launch()
        self.wait_ready()

    def stop(self, limit_s: float = STOP_LIMIT_S) -> bool:
        """Stop cleanly; True when it ended by itself and left nothing mounted."""
        if self.process is None:
            return True
        clean = processes.end(self.process, limit_s=limit_s)
        self.process = None
        left = processes.mounts_under(self.mount)
        for point in left:
            processes.unmount(point)
        return clean and not left

    def pids(self) -> dict[str, int]:
        """Processes of the node by part; empty while it is not known."""
        try:
            found = json.loads((self.data / "pids.json").read_text())
        except (OSError, ValueError):
            return {}
        return {str(k): int(v) for k, v in found.items() if isinstance(v, int) and v > 0}

    def kill(self, part: str) -> int:
        """SIGKILL one part (mount, replicator, template, supervisor); returns its pid, 0 if there is none."""
        pid = self.pids().get(part, 0)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pid

    def arm(self, failpoint: str) -> Path:
        """Have the process die at a failpoint, once; the file disappears when it did."""
        file = self.failpoints / failpoint
        file.touch()
        return file

    def get(self, path: str, kind: str = "api", limit_s: float = ANSWER_LIMIT_S) -> bytes:
        """HTTP GET; raises urllib.error.HTTPError or OSError."""
        url = f"http://127.0.0.1:{self.port(kind)}{path}"
        with urllib.request.urlopen(url, timeout=limit_s) as answer:
            return bytes(answer.read())

    def info(self) -> dict[str, Any] | None:
        """The node's own description, None while it does not answer."""
        try:
            return dict(json.loads(self.get("/info")))
        except (OSError, ValueError):
            return None

    def database(self, name: str) -> dict[str, Any] | None:
        """What the node says about one database."""
        for database in (self.info() or {}).get("databases", []):
            if database.get("name") == name:
                return dict(database)
        return None

    def position(self, name: str) -> tuple[str, str] | None:
        """(TXID, checksum) of a database as hex texts, None when unknown."""
        return position_of(self.database(name))

    def cli(self, *arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a client command against this node."""
        return subprocess.run(
            processes.cli(*arguments), env=processes.environment(), capture_output=True, text=True, timeout=limit_s
        )

    @property
    def api(self) -> str:
        """``http://host:port`` of the local API."""
        return f"http://127.0.0.1:{self.port('api')}"

    def log_tail(self, lines: int = 25) -> str:
        """The end of the node's log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(f"    {self.name}| {line}" for line in text.splitlines()[-lines:])


def position_of(database: dict[str, Any] | None) -> tuple[str, str] | None:
    """(TXID, checksum) out of one entry of /info."""
    found = (database or {}).get("position")
    if isinstance(found, str) and "/" in found:
        txid, checksum = found.split("/", 1)
        return txid, checksum
    if isinstance(found, dict) and "txid" in found:
        return str(found["txid"]), str(found.get("checksum", ""))
    return None
