"""Keeps the mount served: starts mount processes, hands the live connection on, or mounts anew.

A successor takes over the live connection when the kernel can resend unanswered
requests: programs see a pause. Otherwise, or after ``TAKE_OVERS_MAX`` successors that
did not become ready, the connection is aborted and a new one mounted: programs must
reopen their files.
"""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Callable

from sqlitecluster.supervisor import datagrams, mountpoint, words
from sqlitecluster.supervisor.children import Child, RestartPolicy, describe
from sqlitecluster.supervisor.loop import Timer
from sqlitecluster.supervisor.mountpoint import MountFailedError, MountPoint
from sqlitecluster.supervisor.node import Node

READY_TIMEOUT_S = 30.0  # a mount process needs milliseconds; a slow machine more
TAKE_OVERS_MAX = 3
REMOUNT_RETRY_S = 1.0


class MountWorker:
    """The mount point and the process that serves it."""

    def __init__(self, node: Node, on_remounted: Callable[[], None]) -> None:
        self.child: Child | None = None
        self.point = MountPoint(
            node.settings.mount_dir, allow_other=node.settings.allow_other, stacked=node.settings.stack_mounts
        )
        self._node = node
        self._on_remounted = on_remounted
        self._policy = RestartPolicy()
        self._served = False  # a process became ready on this connection: INIT is answered
        self._take_overs_failed = 0
        self._ordered = False
        self._replacing = False
        self._detached = False
        self._retired = False
        self._deadline: Timer | None = None

    @property
    def is_serving(self) -> bool:
        """Whether a process answers the kernel."""
        return self.child is not None and self.child.ready

    def begin(self) -> None:
        """Mount and start the first process.

        Raises:
            MountFailedError: with a text for the user.
        """
        self._attach()
        self.start()

    def start(self) -> None:
        """Start a process unless there is one; waits for the template if need be."""
        node = self._node
        if self.child or self._ordered or self._retired or not self.point.mounted or not node.template.ready:
            return
        self._ordered = True
        init = base64.b64encode(self.point.init).decode()
        message = {"run": "mount", "init": init, "successor": self._served}
        node.template.spawn(message, {**node.mount_fds(), "fuse": self.point.fuse_fd}, self._on_forked)

    def replace(self) -> None:
        """Upgrade: end the process cleanly; its successor comes from the present template."""
        if self.child:
            self._replacing = True
            self.child.signal(signal.SIGTERM)
            self._expect_within(READY_TIMEOUT_S)

    def detach(self) -> None:
        """Take the mount out of the folder tree; whoever has files open is still served."""
        self._detached = True
        self.point.detach()

    def stop(self, timeout_s: float) -> None:
        """End the process and our end of the connection; no successor."""
        self._retired = True
        if self.child:
            self.child.signal(signal.SIGTERM)
            if not self._node.loop.wait_until(lambda: self.child is None, timeout_s):
                self._kill()
        self.point.close()
        self._node.loop.wait_until(lambda: self.child is None, READY_TIMEOUT_S)

    def _attach(self) -> None:
        self.point.attach()
        self._served, self._take_overs_failed = False, 0
        self._node.shared[words.RESENDING] = int(self._can_hand_over())

    def _can_hand_over(self) -> bool:
        return self._node.settings.resend and mountpoint.can_resend(self.point.init)

    def _on_forked(self, child: Child | None) -> None:
        self._ordered = False
        if child is None:
            self.start()
            return
        node = self._node
        self.child = child
        node.shared[words.MOUNT_PID] = child.pid
        node.shared[words.MOUNT_GENERATION] += 1
        node.loop.watch(child.sock.fileno(), self._on_message)
        node.loop.watch(child.pidfd, self._on_end)
        self._expect_within(READY_TIMEOUT_S)
        child.go()
        node.changed()

    def _on_message(self) -> None:
        child = self.child
        assert child is not None
        received = datagrams.receive(child.sock)
        if received is None:
            self._node.loop.unwatch(child.sock.fileno())
        elif received[0]["op"] == "ready":
            child.ready = True
            self._cancel_deadline()
            if self._served:
                self._node.log.say("info", f"mount process {child.pid} took over the connection")
            self._served, self._take_overs_failed = True, 0
            self._node.notify("mounted")

    def _on_end(self) -> None:
        child = self.child
        assert child is not None
        self._cancel_deadline()
        self._node.loop.unwatch(child.sock.fileno())
        self._node.loop.unwatch(child.pidfd)
        status = child.reap()
        self.child = None
        self._node.shared[words.MOUNT_PID] = 0
        self._node.changed()
        if not self._retired:
            self._succeed(child, status)

    def _succeed(self, child: Child, status: int) -> None:
        """Decide what follows after a process that should have gone on."""
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if self._detached and not killed:
            return  # the last open file was closed, and the connection ended with it
        replaced, self._replacing = self._replacing, False
        delay_s = 0.0
        if not replaced:
            delay_s = self._policy.delay_s(lived_s=child.lived_s, was_ready=child.ready, killed=killed)
            self._say_ended(child, status, delay_s)
        if not child.ready and self._served:
            self._take_overs_failed += 1
        live = self._served and self._can_hand_over() and self._take_overs_failed < TAKE_OVERS_MAX
        follow = self.start if live else self._remount
        if delay_s:
            self._node.loop.call_later(delay_s, follow)
        else:
            follow()

    def _say_ended(self, child: Child, status: int, delay_s: float) -> None:
        text = f"mount process {child.pid} ended ({describe(status)})"
        if delay_s:
            self._node.log.say("error", f"{text}; it keeps ending, next start in {delay_s:g} s", code="MountFailed")
        else:
            self._node.log.say("warning", text)

    def _remount(self) -> None:
        if self._retired or self._detached:
            return
        self.point.abort()
        self._node.shared[words.REMOUNTS] += 1
        try:
            self._attach()
        except MountFailedError as error:
            self._node.log.say("error", f"{error}; trying again", code="MountFailed")
            self._node.loop.call_later(REMOUNT_RETRY_S, self._remount)
            return
        self._node.log.say("warning", f"mounted {self.point.path} anew; programs must reopen their databases")
        self.start()
        self._on_remounted()

    def _expect_within(self, timeout_s: float) -> None:
        self._cancel_deadline()
        self._deadline = self._node.loop.call_later(timeout_s, self._kill)

    def _cancel_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _kill(self) -> None:
        if self.child:
            self._node.log.say("error", f"mount process {self.child.pid} did not answer in time", code="MountFailed")
            self.child.signal(signal.SIGKILL)
