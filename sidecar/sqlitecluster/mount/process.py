"""The mount process: started by the supervisor's template, ends with the connection.

Order: state, tree, take-over of the connection, ready, serve. On SIGTERM it stops
reading, finishes what runs, and leaves the rest to a successor where the kernel can
send requests again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import socket

import numpy as np
import pyfuse3

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.mount import driver as driving
from sqlitecluster.mount import takeover
from sqlitecluster.mount.byte_requests import ByteRequests
from sqlitecluster.mount.channel import Channel
from sqlitecluster.mount.context import Context
from sqlitecluster.mount.cpuwake import CpuWake
from sqlitecluster.mount.descriptors import Descriptors
from sqlitecluster.mount.driver import Driver
from sqlitecluster.mount.layout import Layout
from sqlitecluster.mount.name_requests import NameRequests
from sqlitecluster.mount.names import Names
from sqlitecluster.mount.operations import Operations
from sqlitecluster.mount.space import Space
from sqlitecluster.mount.tree import Tree
from sqlitecluster.shared import Bell, NodeWord, State, Word

log = logging.getLogger(__name__)


def run(config: NodeConfig, fds: dict[str, int], init: bytes, successor: bool) -> None:
    """Serve until the connection ends, the supervisor dies, or SIGTERM.

    Args:
        config: the node's.
        fds: ``state``, ``bell_mount``, ``bell_replicator``, ``sup``, ``lifeline``, ``fuse``.
        init: the kernel's INIT request as the supervisor read it.
        successor: another mount process has served this connection.
    """
    state = State(fds["state"])
    context = _context(config, state, fds["bell_replicator"])
    fresh = state.node[NodeWord.REQUESTS] == 0 and not successor
    tree = Tree(context, successor=successor)
    names = Names(f"{context.layout.data}/names.db")
    tree.load(fresh=fresh)
    service = Service(tree)
    driver = Driver(service, CpuWake(enabled=config.hold_cpus_awake, device=fds.get("cpu_latency", -1)))
    service.driver = driver
    operations = service.operations = Operations(tree, names, successor=successor)
    driving.install()
    connection = takeover.connect(
        lambda fd: pyfuse3.init(operations, f"/dev/fd/{fd}", set()),
        driver.first_step,
        fuse_fd=fds["fuse"],
        init=init,
        successor=successor,
        resend=config.resend,
    )
    files, requests = ByteRequests(operations, state), NameRequests(operations)
    channel = service.channel = Channel(connection.fd, connection.library, files, requests)
    driver.watch(fds["lifeline"], driver.stop)  # the supervisor is gone
    signal.signal(signal.SIGTERM, lambda *_args: driver.stop())
    _report_ready(fds["sup"])
    driver.run(channel, fds["bell_mount"])
    driver.close(drain=not state.node[NodeWord.RESENDING])
    context.settling.close()
    names.close()


class Service:
    """What the process does between requests."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._state = tree.context.state
        self._node = self._state.node
        self._asked = np.zeros(0, dtype=np.uint64)
        self._asked_seq = 0
        self.driver: Driver | None = None
        self.operations: Operations | None = None
        self.channel: Channel | None = None

    def woken(self) -> None:
        """The replicator may have asked for raw ranges, or closed a generation of handles."""
        self._asked_seq = self._node[NodeWord.MOUNT_ASKED]
        asks = self._state.column(Word.RAW_ASK)
        if len(self._asked) < len(asks):
            self._asked = np.concatenate((self._asked, np.zeros(len(asks) - len(self._asked), dtype=np.uint64)))
        for slot in np.flatnonzero(asks != self._asked[: len(asks)]):
            self._asked[slot] = asks[slot]
            self._answer_raw(int(slot))
        for slot in np.flatnonzero(self._state.column(Word.POISONED) >= self._state.column(Word.OPEN_GEN)):
            self._poison(int(slot))

    def parked(self, count: int) -> None:
        """Show it."""
        self._node[NodeWord.PARKED] = count

    def sleeping(self, *, asleep: bool) -> None:
        """The bell is needed only while this process sleeps."""
        self._node[NodeWord.MOUNT_SLEEPING] = int(asleep)
        if asleep:
            if self.driver is not None:
                self._node[NodeWord.REQUESTS] = self.driver.requests
            if self._node[NodeWord.MOUNT_ASKED] != self._asked_seq:  # asked while awake, so without a ring
                self.woken()

    def idle(self) -> None:
        """Others may have filled the disk meanwhile."""
        self._tree.context.space.pause()

    def _poison(self, slot: int) -> None:
        database = self._tree.databases.get(self._state.name(slot))
        if database is None or self.operations is None or self.driver is None or self.channel is None:
            return
        database.open_generation()
        for ino in self.operations.poison(database):
            # In a thread: the kernel may have to wait for pages that this thread is asked for.
            self.driver.background(functools.partial(self.channel.invalidate, ino))

    def _answer_raw(self, slot: int) -> None:
        words = self._state.slot(slot)
        if words[Word.RAW_ASK] != words[Word.EVENT_SEQ]:
            return  # written again meanwhile: not quiet
        database = self._tree.databases.get(self._state.name(slot))
        if database is None or database.main is None:
            return
        try:
            database.spool_raw()
        except OSError as error:
            log.warning("%s: raw writes could not be handed over: %s", database.name, error)


def _context(config: NodeConfig, state: State, bell: int) -> Context:
    layout = Layout(str(config.data_dir), str(runtime_dir(config)))
    layout.prepare()
    return Context(
        config=config,
        state=state,
        replicator=Bell(bell, state, NodeWord.REPLICATOR_SLEEPING),
        layout=layout,
        space=Space(layout.data, config.reserve_bytes, state),
        descriptors=Descriptors(),
    )


def _report_ready(fd: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as supervisor:
        supervisor.send(json.dumps({"op": "ready"}).encode())
