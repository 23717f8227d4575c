"""Keeps the opener running while workers run as somebody else (``runAs``)."""

from __future__ import annotations

import os

from sqlitecluster.supervisor import datagrams, opener, words
from sqlitecluster.supervisor.children import RestartPolicy, describe
from sqlitecluster.supervisor.node import Node


class OpenerWorker:
    """The opener process and both ends of its socket, which outlive it."""

    def __init__(self, node: Node, uid: int, gid: int) -> None:
        self.pid = 0
        self._node = node
        self._user = uid, gid
        self._policy = RestartPolicy()
        self._pidfd = -1
        self._retired = False
        self._started_s = 0.0
        self._ours, self._theirs = datagrams.pair()

    @property
    def fd(self) -> int:
        """The end that the replicator uses."""
        return self._ours.fileno()

    def start(self) -> None:
        """Fork one; unless the node is being stopped."""
        if self._retired or self.pid:
            return
        settings = self._node.settings
        limits = opener.Limits(settings.mount_dir, settings.data_dir, settings.token_dirs)
        self.pid = opener.start(self._theirs, limits, *self._user)
        self._pidfd = os.pidfd_open(self.pid)
        self._started_s = self._node.loop.now()
        self._node.shared[words.OPENER_PID] = self.pid
        self._node.loop.watch(self._pidfd, self._on_end)
        self._node.changed()

    def stop(self) -> None:
        """No new one; the present one ends with the last copy of the replicator's end."""
        self._retired = True
        self._ours.close()

    def _on_end(self) -> None:
        self._node.loop.unwatch(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.pid, self._pidfd = 0, -1
        self._node.shared[words.OPENER_PID] = 0
        self._node.changed()
        if self._retired:
            return
        lived_s = self._node.loop.now() - self._started_s
        delay_s = self._policy.delay_s(lived_s=lived_s, was_ready=True, killed=os.WIFSIGNALED(status))
        self._node.log.say("warning", f"opener ended ({describe(status)}); starting another")
        if delay_s:
            self._node.loop.call_later(delay_s, self.start)
        else:
            self.start()
