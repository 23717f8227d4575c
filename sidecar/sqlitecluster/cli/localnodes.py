"""The nodes of ``sqlitecluster local``: start, watch, start again, stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from sqlitecluster.cli.terminal import paint
from sqlitecluster.supervisor import mountpoint
from sqlitecluster.supervisor.children import RestartPolicy, describe
from sqlitecluster.supervisor.loop import Loop

_MILESTONES: Final = frozenset({"mounted", "ready", "in-sync"})
_LOG_TAIL_LINES: Final = 15
_PROGRESS_S: Final = 2.0
_ROOT: Final = str(Path(__file__).resolve().parents[2])
_START: Final = f"import sys; sys.path.insert(0, {_ROOT!r}); from sqlitecluster.cli.main import main; sys.exit(main())"


class LocalNode:
    """One node: its folder, its process, and how far it has come."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.home = config.parent
        self.name = self.home.name
        self.reached: set[str] = set()
        self.policy = RestartPolicy()
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.notify_fd = -1
        self.started_at = 0.0

    @property
    def in_sync(self) -> bool:
        return self.reached >= _MILESTONES

    def start(self) -> None:
        """Start the process; its output is appended to the node's log."""
        self.reached = set()
        self.notify_fd, theirs = os.pipe2(os.O_CLOEXEC)
        arguments = ["node", "--config", str(self.config), "--notify-fd", str(theirs), "--stop-with", str(os.getpid())]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
                start_new_session=True,
            )
        os.close(theirs)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.started_at = time.monotonic()

    def reap(self) -> int:
        """Take the status of the process that has ended, as ``os.waitpid`` gives it."""
        assert self.process is not None
        code = self.process.wait()
        self.process = None
        os.close(self.pidfd)
        os.close(self.notify_fd)
        return -code if code < 0 else code << 8

    def log_tail(self) -> str:
        """The last lines of the log."""
        lines = (self.home / "log").read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"  {line}\n" for line in lines)


class LocalNodes:
    """All nodes, until a signal stops them."""

    def __init__(self, configs: list[Path]) -> None:
        self._nodes = [LocalNode(config) for config in configs]
        self._loop = Loop()
        self._began = time.monotonic()
        self._announced = False
        self._stopping = False
        self._exit_code = 0

    def run(self) -> int:
        """Start, watch, stop; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._on_stop_signal)
        self._say(f"starting {len(self._nodes)} nodes in {self._nodes[0].home.parent}")
        for node in self._nodes:
            self._start(node)
        self._loop.call_later(_PROGRESS_S, self._progress)
        while not self._stopping or any(node.process for node in self._nodes):
            self._loop.step()
        for node in self._nodes:
            mountpoint.clean_up(str(node.home / "mnt"))
        self._say("stopped")
        return self._exit_code

    def _start(self, node: LocalNode) -> None:
        if self._stopping or node.process:
            return
        node.start()
        self._loop.watch(node.pidfd, lambda: self._on_end(node))
        self._loop.watch(node.notify_fd, lambda: self._on_milestone(node))

    def _on_milestone(self, node: LocalNode) -> None:
        raw = os.read(node.notify_fd, 4096)
        if not raw:
            self._loop.unwatch(node.notify_fd)
            return
        was_in_sync = node.in_sync
        node.reached |= set(raw.decode().split())
        if node.in_sync and not was_in_sync:
            self._say(f"{node.name} is in sync after {time.monotonic() - node.started_at:.1f} s")
        if not self._announced and all(node.in_sync for node in self._nodes):
            self._announced = True
            print("ready", flush=True)

    def _on_end(self, node: LocalNode) -> None:
        self._loop.unwatch(node.pidfd)
        self._loop.unwatch(node.notify_fd)
        was_in_sync = node.in_sync
        status = node.reap()
        if self._stopping:
            return
        if not self._announced and os.WIFEXITED(status):
            self._say(f"{node.name} could not start ({describe(status)}); the end of {node.home / 'log'}:", "red")
            sys.stderr.write(node.log_tail())
            self._exit_code = os.WEXITSTATUS(status) or 1
            self._stop()
        elif status == 0:
            self._say(f"{node.name} was told to stop", "yellow")
        else:
            self._start_again(node, status, was_in_sync=was_in_sync)

    def _start_again(self, node: LocalNode, status: int, *, was_in_sync: bool) -> None:
        lived_s = time.monotonic() - node.started_at
        delay_s = node.policy.delay_s(lived_s=lived_s, was_ready=was_in_sync, killed=os.WIFSIGNALED(status))
        self._say(f"{node.name}: {describe(status)}; starting it again", "yellow")
        if delay_s:
            self._loop.call_later(delay_s, lambda: self._start(node))
        else:
            self._start(node)

    def _on_stop_signal(self) -> None:
        self._say("stopping (once more: hurry)" if not self._stopping else "stopping now")
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for node in self._nodes:
            if node.process:
                node.process.send_signal(signal.SIGTERM)

    def _progress(self) -> None:
        if not self._announced and not self._stopping:
            waiting = [node.name for node in self._nodes if not node.in_sync]
            self._say(f"waiting for {', '.join(waiting)} ({time.monotonic() - self._began:.0f} s)")
            self._loop.call_later(_PROGRESS_S, self._progress)

    def _say(self, text: str, colour: str = "dim") -> None:
        print(paint(f"local: {text}", colour, sys.stderr), file=sys.stderr, flush=True)
