"""The template: a process with everything imported that forks the workers of a node.

Started by the supervisor; ``main`` is its entry, with the number of a socket as argument. It runs
nothing itself. A fork takes milliseconds, an interpreter that imports numpy, aiohttp
and pyfuse3 most of a second; and the memory of the modules is shared.

Rules:
    1. No threads and no event loop in this process, or forks would be unsafe.
    2. Each worker is forked twice, so that the supervisor becomes its parent, and is
       killed by the kernel when the supervisor ends.
    3. Descriptors reach only the worker they are for. Above all ``/dev/fuse``: whoever
       holds it keeps the mount alive.
    4. With ``runAs`` it gives every right away before it reads an order, so its forks have none.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from sqlitecluster.config.codec import config_from_json
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.supervisor import datagrams, linux, logs, privileges
from sqlitecluster.supervisor.datagrams import Message

log = logging.getLogger("sqlitecluster.template")


def _run_mount(config: NodeConfig, fds: dict[str, int], message: Message) -> None:
    from sqlitecluster.mount import process

    process.run(config, fds, base64.b64decode(message["init"]), message["successor"])


def _run_replicator(config: NodeConfig, fds: dict[str, int], message: Message) -> None:
    from sqlitecluster.replicator import process

    process.run(config, fds)


def _run_prepare(config: NodeConfig, fds: dict[str, int], message: Message) -> None:
    from sqlitecluster.store import recovery

    recovery.prepare_node(config)


Work = Callable[[NodeConfig, dict[str, int], Message], None]

WORKERS: Final[dict[str, Work]] = {
    "mount": _run_mount,
    "replicator": _run_replicator,
    "prepare": _run_prepare,
}
ADOPTION_S: Final = 10.0  # the helper process ends in microseconds
_MODULES: Final = ("sqlitecluster.store.recovery", "sqlitecluster.mount.process", "sqlitecluster.replicator.process")


def main(workers: Mapping[str, Work] = WORKERS, modules: Sequence[str] = _MODULES) -> int:
    """Import, report ``ready``, then fork on command until the supervisor ends."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    received = datagrams.receive(sock)
    if received is None:
        return 0
    hello, (lifeline,) = received
    config = config_from_json(hello["config"])
    os.setsid()  # Ctrl-C in a terminal is the supervisor's business alone
    linux.name_process("sqlc-template")
    logs.configure(config)
    _import_all(modules)
    if config.run_as is not None:  # not earlier: the interpreter's files may be closed to that user
        privileges.drop(config.run_as.uid, config.run_as.gid)
    linux.die_with_parent(signal.SIGKILL)  # not earlier: becoming somebody else forgets it
    if os.getppid() != hello["supervisor"]:
        return 0
    datagrams.send(sock, {"op": "ready"})
    spawner = Spawner(config=config, workers=workers, sock=sock, lifeline=lifeline, supervisor=hello["supervisor"])
    while (received := datagrams.receive(sock)) is not None:
        _spawn(spawner, *received)
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawner:
    """What a fork needs to become a worker."""

    config: NodeConfig
    workers: Mapping[str, Work]
    sock: socket.socket
    lifeline: int
    supervisor: int


def _import_all(modules: Sequence[str]) -> None:
    gc.disable()  # nothing that imports make is garbage yet
    for name in modules:
        __import__(name)
    gc.enable()
    gc.collect()
    gc.freeze()  # the collector never writes to these objects again, so their pages stay shared


def _spawn(spawner: Spawner, message: Message, fds: list[int]) -> None:
    helper = os.fork()
    if helper == 0:
        if os.fork() == 0:
            _become_worker(spawner, message, fds)
        os._exit(0)
    os.waitpid(helper, 0)
    for fd in fds:
        os.close(fd)


def _become_worker(spawner: Spawner, message: Message, fds: list[int]) -> NoReturn:
    """Run in the fork: become the supervisor's child, report, wait for ``go``, work."""
    status = 1
    try:
        _wait_for_parent(spawner.supervisor)
        linux.name_process(f"sqlc-{message['run']}")
        by_name = {**dict(zip(message["names"], fds, strict=True)), "lifeline": spawner.lifeline}
        datagrams.send(spawner.sock, {"op": "forked", "token": message["token"], "pid": os.getpid()})
        spawner.sock.close()
        if _may_go(by_name["sup"]):
            status = _work(spawner, by_name, message)
    finally:
        logging.shutdown()
        os._exit(status)


def _wait_for_parent(supervisor: int) -> None:
    deadline = time.monotonic() + ADOPTION_S
    while os.getppid() != supervisor:
        if time.monotonic() > deadline:
            os._exit(0)
        time.sleep(0.0001)  # until the helper process has ended
    linux.die_with_parent(signal.SIGKILL)  # not earlier: the helper's end would count as the parent's
    if os.getppid() != supervisor:
        os._exit(0)


def _may_go(sup_fd: int) -> bool:
    sock = socket.socket(fileno=os.dup(sup_fd))
    with contextlib.closing(sock):
        received = datagrams.receive(sock)
        return received is not None and received[0]["op"] == "go"


def _work(spawner: Spawner, fds: dict[str, int], message: Message) -> int:
    """The top of a worker: the only place that turns any exception into a log line and a status."""
    run = message["run"]
    try:
        spawner.workers[run](spawner.config, fds, message)
    except SQLiteClusterError as error:
        log.error("%s failed: %s", run, error.message, extra={"code": error.code})
        return error.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception:
        log.exception("%s failed", run, extra={"code": "Internal"})
        return 1
    return 0
