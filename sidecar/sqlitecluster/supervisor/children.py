"""Children of the supervisor: the template, what it forks, and when to start one again.

The template has every module imported and forks in milliseconds. A child it forks is
handed over: the template's own helper process ends at once and the supervisor, being a
subreaper, becomes the parent. So the template may die without taking anybody along.

A child says ``forked`` on the template's socket when the hand-over is done and then
waits for ``go`` on its own socket, so that the supervisor has noted its pid before it
does anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection

from sqlitecluster.supervisor import datagrams
from sqlitecluster.supervisor.datagrams import Message
from sqlitecluster.supervisor.loop import Loop

QUICK_DEATHS_MAX = 5  # in a row, each within QUICK_S: a crash loop
QUICK_S = 10.0
BACK_OFF_FIRST_S = 0.25
BACK_OFF_MAX_S = 10.0
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = "import sys; sys.path.insert(0, {root!r}); from {module} import main; sys.exit(main())"


class RestartPolicy:
    """How long to wait before a child is started again.

    A child that somebody killed from outside after it was ready starts again at once:
    that says nothing about the child. One that keeps ending by itself within
    ``QUICK_S`` gets a growing pause, so that a crash loop does not eat the machine.
    """

    def __init__(self) -> None:
        self.quick_deaths = 0

    def delay_s(self, *, lived_s: float, was_ready: bool, killed: bool) -> float:
        """Seconds to wait after this death; 0 means start at once."""
        if lived_s >= QUICK_S:
            self.quick_deaths = 0
        if was_ready and killed:
            return 0.0
        self.quick_deaths += 1
        beyond = self.quick_deaths - QUICK_DEATHS_MAX
        return 0.0 if beyond < 0 else float(min(BACK_OFF_FIRST_S * 2**beyond, BACK_OFF_MAX_S))

    @property
    def is_crash_loop(self) -> bool:
        """Whether the next start is being held back."""
        return self.quick_deaths >= QUICK_DEATHS_MAX


class Child:
    """A running child, from its ``forked`` message to its death."""

    __slots__ = ("pid", "pidfd", "ready", "sock", "started_at")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid, self.sock = pid, sock
        self.pidfd = os.pidfd_open(pid)
        self.started_at = time.monotonic()
        self.ready = False

    @property
    def lived_s(self) -> float:
        return time.monotonic() - self.started_at

    def go(self) -> None:
        """Let it begin; harmless when it has ended."""
        with contextlib.suppress(OSError):
            datagrams.send(self.sock, {"op": "go"})

    def signal(self, number: int) -> None:
        """Send a signal; harmless when the child has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> int:
        """Take the exit status of a child that ended and close what belonged to it: as ``os.waitpid``'s."""
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            status = 0
        os.close(self.pidfd)
        self.sock.close()
        return status


def describe(status: int) -> str:
    """An exit status in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


Forked = Callable[[Child | None], None]


class Template:
    """The fork server. Orders that it could not finish are answered with None."""

    def __init__(self, loop: Loop, *, module: str, config_json: str, lifeline_fd: int) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        self.on_death: Callable[[Child, int], None] = lambda child, status: None
        self.child: Child | None = None
        self._loop = loop
        self._module = module
        self._config_json = config_json
        self._lifeline_fd = lifeline_fd
        self._orders: dict[int, tuple[socket.socket, Forked]] = {}
        self._tokens = 0

    @property
    def ready(self) -> bool:
        return self.child is not None and self.child.ready

    def start(self) -> None:
        """Start the process; ``on_ready`` follows."""
        ours, theirs = datagrams.pair()
        theirs.set_inheritable(True)
        start = _START.format(root=_ROOT, module=self._module)
        argv = [sys.executable, "-c", start, str(theirs.fileno())]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        pid = os.posix_spawn(sys.executable, argv, environment)
        theirs.close()
        self.child = Child(pid, ours)
        hello = {"op": "hello", "config": self._config_json, "supervisor": os.getpid()}
        datagrams.send(ours, hello, [self._lifeline_fd])
        self._loop.watch(ours.fileno(), self._on_message)
        self._loop.watch(self.child.pidfd, self._on_end)

    def spawn(self, message: Message, fds: dict[str, int], forked: Forked) -> None:
        """Have a child forked; only while ``ready``. ``forked`` gets it, or None, and lets it ``go``."""
        assert self.child is not None
        ours, theirs = datagrams.pair()
        self._tokens += 1
        self._orders[self._tokens] = (ours, forked)
        names = [*fds, "sup"]
        order = {**message, "op": "spawn", "token": self._tokens, "names": names}
        with contextlib.suppress(OSError):  # it is dying: _on_end answers the order
            datagrams.send(self.child.sock, order, [*fds.values(), theirs.fileno()])
        theirs.close()

    def retire(self) -> None:
        """End the process; ``on_death`` is not called."""
        child, self.child = self.child, None
        if child is not None:
            self._disconnect(child)
            child.signal(signal.SIGKILL)
            child.reap()

    def _on_message(self) -> None:
        assert self.child is not None
        received = datagrams.receive(self.child.sock)
        if received is None:
            self._loop.unwatch(self.child.sock.fileno())  # its end is seen on the pidfd
            return
        message, _ = received
        if message["op"] == "ready":
            self.child.ready = True
            self.on_ready()
        elif message["op"] == "forked":
            self._on_forked(message["token"], message["pid"])

    def _on_forked(self, token: int, pid: int) -> None:
        sock, forked = self._orders.pop(token)
        try:
            child = Child(pid, sock)
        except OSError:  # it is dead already
            sock.close()
            forked(None)
        else:
            forked(child)

    def _on_end(self) -> None:
        child = self.child
        assert child is not None
        while (received := _pending(child.sock)) is not None:
            if received["op"] == "forked":
                self._on_forked(received["token"], received["pid"])
        self.child = None
        self._disconnect(child)
        self.on_death(child, child.reap())

    def _disconnect(self, child: Child) -> None:
        self._loop.unwatch(child.sock.fileno())
        self._loop.unwatch(child.pidfd)
        orders, self._orders = self._orders, {}
        for sock, forked in orders.values():
            sock.close()
            forked(None)


def _pending(sock: socket.socket) -> Message | None:
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        received = datagrams.receive(sock)
        return received[0] if received else None
    return None


def reap_strangers(known: Collection[int]) -> None:
    """Reap children that nobody started here: a container's first process inherits such."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            pids = [int(pid) for pid in file.read().split()]
    except OSError:
        return
    for pid in pids:
        if pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
