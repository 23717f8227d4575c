"""Keeps the replicator running, and the keeper that holds its lock descriptors."""

from __future__ import annotations

import os
import signal
import socket

from sqlitecluster.supervisor import datagrams, keeper, words
from sqlitecluster.supervisor.children import Child, RestartPolicy, describe
from sqlitecluster.supervisor.node import Node


class ReplicatorWorker:
    """The replicator process and its keeper."""

    def __init__(self, node: Node) -> None:
        self.child: Child | None = None
        self.keeper_pid = 0
        self._keeper: socket.socket | None = None
        self._node = node
        self._policy = RestartPolicy()
        self._serving = 0
        self._ordered = False
        self._replacing = False
        self._begun = False
        self._retired = False

    def start_keeper(self) -> None:
        """Fork the keeper, the earlier the smaller it is."""
        self.keeper_pid, self._keeper = keeper.start()
        self._node.loop.watch(self._keeper.fileno(), self._on_keeper)

    def begin(self) -> None:
        """Start the first process: the store is recovered and the mount is made."""
        self._begun = True
        self.start()

    def start(self) -> None:
        """Start a process unless there is one; waits for the template if need be."""
        node = self._node
        if self.child or self._ordered or self._retired or not self._begun or not node.template.ready:
            return
        self._ordered = True
        node.template.spawn({"run": "replicator"}, node.replicator_fds(), self._on_forked)

    def replace(self) -> None:
        """Upgrade: end the process cleanly; the next comes from the present template."""
        if self.child:
            self._replacing = True
            self.child.signal(signal.SIGTERM)

    def forget_connection(self) -> None:
        """The mount is a new one: what was kept and what the process has open is dead."""
        self._tell_keeper({"op": "clear"})
        if self.child:
            self._replacing = True
            self.child.signal(signal.SIGKILL)

    def announce_stop(self) -> None:
        """The node is about to stop: an elected primary hands its role over while everything still runs."""
        if self.child and self.child.ready:
            self.child.signal(signal.SIGUSR1)

    def stop(self, timeout_s: float) -> None:
        """Let the process finish (final capture, sync of the log); kill it when it takes too long."""
        self._retired = True
        if self.child:
            self.child.signal(signal.SIGTERM)
            if not self._node.loop.wait_until(lambda: self.child is None, timeout_s):
                self._node.log.say("error", f"replicator {self.child.pid} did not stop in time", code="Unavailable")
                self.child.signal(signal.SIGKILL)

    def stop_keeper(self) -> None:
        """Let the kept descriptors go."""
        if self._keeper:
            self._node.loop.unwatch(self._keeper.fileno())
            self._keeper.close()
            self._keeper = None

    def _on_forked(self, child: Child | None) -> None:
        self._ordered = False
        if child is None:
            self.start()
            return
        self.child = child
        self._serving += 1
        self._node.shared[words.REPLICATOR_PID] = child.pid
        self._node.loop.watch(child.pidfd, self._on_end)
        child.go()
        self._serve(offer=True)
        self._node.changed()

    def _serve(self, *, offer: bool) -> None:
        if self.child:
            message = {"op": "serve", "serving": self._serving, "offer": offer}
            self._tell_keeper(message, [self.child.sock.fileno()])

    def _tell_keeper(self, message: datagrams.Message, fds: list[int] | None = None) -> None:
        if self._keeper:
            try:
                datagrams.send(self._keeper, message, fds or [])
            except OSError:  # it has just ended: _on_keeper starts the next one
                return

    def _on_keeper(self) -> None:
        assert self._keeper is not None
        received = datagrams.receive(self._keeper)
        if received is None:
            self._on_keeper_end()
            return
        message, _ = received
        if self.child and message["serving"] == self._serving:
            if message["op"] == "ready":
                self.child.ready = True
                self._node.notify("ready")
            elif message["op"] == "state":
                self._node.notify(str(message["text"]))

    def _on_keeper_end(self) -> None:
        self.stop_keeper()
        os.waitpid(self.keeper_pid, 0)
        self._node.log.say("warning", f"keeper {self.keeper_pid} ended; starting another")
        self.start_keeper()
        self._serve(offer=False)
        self._node.changed()

    def _on_end(self) -> None:
        child = self.child
        assert child is not None
        self._node.loop.unwatch(child.pidfd)
        status = child.reap()
        self.child = None
        self._node.shared[words.REPLICATOR_PID] = 0
        self._node.changed()
        if not self._retired:
            self._succeed(child, status)

    def _succeed(self, child: Child, status: int) -> None:
        replaced, self._replacing = self._replacing, False
        if replaced:
            self.start()
            return
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        delay_s = self._policy.delay_s(lived_s=child.lived_s, was_ready=child.ready, killed=killed)
        text = f"replicator {child.pid} ended ({describe(status)})"
        if delay_s:
            self._node.log.say("error", f"{text}; it keeps ending, next start in {delay_s:g} s", code="Unavailable")
            self._node.loop.call_later(delay_s, self.start)
        else:
            self._node.log.say("warning", text)
            self.start()
