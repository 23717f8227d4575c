"""The supervisor's main part: start the node, replace what dies, stop it cleanly.

Entry: ``python -m sqlitecluster.supervisor``, see ``__main__``. Order of a start: lock
of the data directory, keeper, template, recovery of the store (a short-lived child),
mount(2), mount process and replicator.

What follows from a death:
    mount        see ``mountworker``: a successor, or a new mount.
    replicator   a new one, which adopts the kept lock descriptors.
    template     a new one; nobody else notices.
    keeper       a new one; the kept copies are lost, the replicator's own remain.
    supervisor   everybody else ends, the mount answers ENOTCONN, and the next start
                 of the node clears it away.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal

from sqlitecluster.supervisor import linux, mountpoint, ownership, words
from sqlitecluster.supervisor.children import Child, RestartPolicy, Template, describe, reap_strangers
from sqlitecluster.supervisor.lines import Log
from sqlitecluster.supervisor.loop import Loop
from sqlitecluster.supervisor.mountpoint import MountFailedError
from sqlitecluster.supervisor.mountworker import MountWorker
from sqlitecluster.supervisor.node import Inherited, Node
from sqlitecluster.supervisor.openerworker import OpenerWorker
from sqlitecluster.supervisor.pids import PidFile
from sqlitecluster.supervisor.replicatorworker import ReplicatorWorker
from sqlitecluster.supervisor.settings import Settings

STOP_USERS_S = 3.0  # clean stop: programs may finish and close
STOP_REPLICATOR_S = 30.0  # clean stop: final capture and sync of the log
STOP_ELECTED_S = 15.0  # the same after a hand-off, which has its own limit
STOP_MOUNT_S = 5.0
HURRY_S = 1.0  # after the second signal
USERS_POLL_S = 0.1
TEMPLATE = "sqlitecluster.template"
CPU_LATENCY = "/dev/cpu_dma_latency"


class Supervisor:
    """All processes of one node."""

    def __init__(
        self, settings: Settings, config_json: str, log: Log, fds: Inherited, *, template_module: str = TEMPLATE
    ) -> None:
        self._settings = settings
        self._config_json = config_json
        self._template_module = template_module
        self._log = log
        self._loop = Loop()
        self._lifeline = os.pipe2(os.O_CLOEXEC)
        self._pids = PidFile(settings.data_dir)
        self._template_policy = RestartPolicy()
        self._preparing: Child | None = None
        self._next_template: Template | None = None
        self._begun = False
        self._stopping = False
        self._hurry = False
        self._exit_code = 0
        self._node = Node(settings, log, self._loop, fds)
        self._node.template = self._new_template()
        self._node.changed = self._write_pids
        self._replicator = ReplicatorWorker(self._node)
        self._mount = MountWorker(self._node, self._replicator.forget_connection)
        self._opener = OpenerWorker(self._node, *settings.run_as) if settings.run_as else None

    def run(self) -> int:
        """Run the node until it is told to stop; returns the exit code."""
        linux.adopt_orphans()
        linux.name_process("sqlc-supervisor")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.makedirs(self._settings.runtime_dir, mode=0o700, exist_ok=True)
        if self._opener:
            self._begin_as_other_user(self._opener)
        self._replicator.start_keeper()
        self._node.template.start()
        self._write_pids()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._on_stop_signal)
        self._loop.on_signal(signal.SIGHUP, self._upgrade)
        self._loop.on_signal(signal.SIGCHLD, self._reap_strangers)
        while not self._stopping:
            self._loop.step()
        self._stop()
        return self._exit_code

    # -- start

    def _begin_as_other_user(self, opener: OpenerWorker) -> None:
        """Folders belong to who works in them; the opener is forked early, while this process is small."""
        assert self._settings.run_as is not None
        for folder in (self._settings.data_dir, self._settings.runtime_dir):
            if ownership.give(folder, *self._settings.run_as):
                self._log.say("info", f"gave {folder} to user {self._settings.run_as[0]}")
        opener.start()
        self._node.opener_fd = opener.fd
        with contextlib.suppress(OSError):  # missing in some containers; the mount does without
            self._node.cpu_fd = os.open(CPU_LATENCY, os.O_WRONLY | os.O_CLOEXEC)

    def _new_template(self) -> Template:
        template = Template(
            self._loop,
            module=self._template_module,
            config_json=self._config_json,
            lifeline_fd=self._lifeline[0],
        )
        template.on_ready = lambda: self._on_template_ready(template)
        template.on_death = lambda child, status: self._on_template_death(template, child, status)
        return template

    def _on_template_ready(self, template: Template) -> None:
        if template is self._next_template:
            self._switch_template()
        elif self._begun:
            self._mount.start()
            self._replicator.start()
        elif self._preparing is None:
            template.spawn({"run": "prepare"}, self._node.child_fds(), self._on_prepare_forked)
        self._write_pids()

    def _on_template_death(self, template: Template, child: Child, status: int) -> None:
        text = f"template {child.pid} ended ({describe(status)})"
        if template is self._next_template:
            self._next_template = None
            self._log.say("error", f"{text}: the upgrade is called off, the node goes on as it was", code="Unavailable")
            return
        if not self._begun and not child.ready:
            self._fail(f"{text} before it was ready", "Unavailable")
            return
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        delay_s = self._template_policy.delay_s(lived_s=child.lived_s, was_ready=child.ready, killed=killed)
        self._log.say("warning", text)
        self._write_pids()
        if delay_s:
            self._loop.call_later(delay_s, template.start)
        else:
            template.start()

    def _on_prepare_forked(self, child: Child | None) -> None:
        if child is None:
            return  # the template has died; the next one is asked again
        self._preparing = child
        self._loop.watch(child.pidfd, self._on_prepared)
        child.go()

    def _on_prepared(self) -> None:
        child, self._preparing = self._preparing, None
        assert child is not None
        self._loop.unwatch(child.pidfd)
        status = child.reap()
        if status != 0:
            self._fail(f"recovery of the store failed ({describe(status)})", "StoreError")
            return
        if not self._stopping:
            self._begin()

    def _begin(self) -> None:
        try:
            self._mount.begin()
        except MountFailedError as error:
            self._fail(str(error), "MountFailed")
            return
        self._begun = True
        self._replicator.begin()

    # -- while running

    def _write_pids(self) -> None:
        template, mount, replicator = self._node.template.child, self._mount.child, self._replicator.child
        self._pids.write(
            {
                "supervisor": os.getpid(),
                "keeper": self._replicator.keeper_pid,
                "opener": self._opener.pid if self._opener else 0,
                "template": template.pid if template else 0,
                "mount": mount.pid if mount else 0,
                "replicator": replicator.pid if replicator else 0,
            }
        )

    def _reap_strangers(self) -> None:
        known = {self._replicator.keeper_pid, self._opener.pid if self._opener else 0}
        for template in (self._node.template, self._next_template):
            if template and template.child:
                known.add(template.child.pid)
        known |= {c.pid for c in (self._mount.child, self._replicator.child, self._preparing) if c}
        reap_strangers(known)

    def _upgrade(self) -> None:
        """SIGHUP: fresh code for template, mount and replicator; programs only see a pause."""
        if self._begun and self._next_template is None:
            self._log.say("info", "starting a new template for an upgrade in place")
            self._next_template = self._new_template()
            self._next_template.start()

    def _switch_template(self) -> None:
        assert self._next_template is not None
        old, self._node.template, self._next_template = self._node.template, self._next_template, None
        old.retire()
        self._mount.replace()
        self._replicator.replace()

    def _on_stop_signal(self) -> None:
        self._hurry = self._stopping
        self._stopping = True

    def _fail(self, text: str, code: str) -> None:
        self._log.say("error", text, code=code)
        self._exit_code = self._exit_code or 1
        self._stopping = True

    # -- stop

    def _stop(self) -> None:
        """Stop from the outside in: programs, mount point, replicator, mount process.

        With programs cut off, the bare folder stays immutable: they would go on in it, and the next start
        would have to refuse the folder. The runtime folder stays too: a transaction may be open, and what is
        there tells the next start about it. A node that failed, and will be started again in its container,
        leaves its mount to be covered by the next one (``stackMounts``). An elected node hands its role over first,
        which needs the mount: databases are locked and captured to their end through it.
        """
        self._node.shared[words.STOPPING] = 1
        self._node.shared.ring()
        if self._settings.switchover_s is not None:
            self._replicator.announce_stop()
        clean = self._leave_programs_time()
        if self._settings.switchover_s is not None and self._mount.is_serving:
            self._replicator.stop(HURRY_S if self._hurry else self._settings.switchover_s + STOP_ELECTED_S)
        if not (self._exit_code and self._settings.stack_mounts):
            self._mount.detach()
        if not self._mount.is_serving:  # the replicator may wait for an answer that never comes
            self._mount.stop(HURRY_S)
        self._replicator.stop(HURRY_S if self._hurry else STOP_REPLICATOR_S)
        self._replicator.stop_keeper()
        if self._opener:
            self._opener.stop()
        self._mount.stop(HURRY_S if self._hurry else STOP_MOUNT_S)
        self._node.template.retire()
        if self._next_template:
            self._next_template.retire()
        if self._preparing:
            self._preparing.signal(signal.SIGKILL)
        if clean:
            import shutil  # not earlier: it costs memory that nothing else here needs

            self._mount.point.release_bare_folder()
            shutil.rmtree(self._settings.runtime_dir, ignore_errors=True)
        self._pids.remove()
        self._log.say("info", "stopped")

    def _leave_programs_time(self) -> bool:
        """Wait a little for programs to close their files; says which do not. True when none is left."""
        if not self._mount.point.mounted:
            return True
        waited_s = 0.0
        while (using := self._users()) and waited_s < STOP_USERS_S and not self._hurry:
            self._loop.wait_until(lambda: self._hurry, USERS_POLL_S)
            waited_s += USERS_POLL_S
        if using:
            names = ", ".join(f"{pid} ({name})" for pid, name in sorted(using.items()))
            self._log.say("warning", f"still used, and now cut off: {self._settings.mount_dir} by {names}")
        return not using

    def _users(self) -> dict[int, str]:
        own = {os.getpid(), self._replicator.keeper_pid, self._opener.pid if self._opener else 0}
        own |= {child.pid for child in (self._mount.child, self._replicator.child) if child}
        with contextlib.suppress(OSError):
            return {p: name for p, name in mountpoint.users(self._settings.mount_dir).items() if p not in own}
        return {}
