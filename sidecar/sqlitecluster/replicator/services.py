"""What the parts of the replicator share: one ``NodeServices`` per process.

Made by ``replicator.node``; handed to capture (thread ``capture``), apply (thread
``apply``) and the asyncio parts. Everything in it may be used from any thread.

Rules:
    1. Nothing here blocks for longer than one small system call.
    2. ``on_transaction`` is called by the thread that captured or applied, after the
       position is published; whoever listens hands over to its own loop at once.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlitecluster import failpoints
from sqlitecluster.replicator.quorum import QuorumView
from sqlitecluster.replicator.writers import Writers
from sqlitecluster.replicator.zones import Zones
from sqlitecluster.units import encode_name

if TYPE_CHECKING:
    import ssl

    from sqlitecluster.config.model import NodeConfig
    from sqlitecluster.ltx import Header
    from sqlitecluster.replication.position import Position
    from sqlitecluster.replicator.walsession import WalSession
    from sqlitecluster.shared import Bell, State
    from sqlitecluster.store.database import DatabaseStore
    from sqlitecluster.store.node import NodeStore

log = logging.getLogger(__name__)

_MAX_DATAGRAM: Final = 60_000
_MAX_PROBLEMS: Final = 200


@dataclass(frozen=True, slots=True)
class Bells:
    """Both eventfds: ``mount`` is rung by us, ``replicator`` is our own."""

    mount: Bell
    replicator: Bell


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an operator should know; shown in ``/info`` and ``/metrics``."""

    code: str
    """Stable CamelCase text, as in docs/errors.md."""
    database: str
    """Name of the database; empty for the whole node."""
    message: str
    since_ms: int
    """Wall clock of the first report in ms."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A reader that keeps a write-ahead log from being written back."""

    pid: int
    """0: not known here, as for a process of another container."""
    pages: int
    """Pages of the log that wait for it."""


class ProblemBook:
    """The problems of this node, by (code, database). A later report replaces the text."""

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], Problem] = {}
        self.on_change: Callable[[Problem, bool], None] | None = None
        """Called with (problem, is_new) outside the lock, by the reporting thread."""

    def report(self, code: str, message: str, database: str = "") -> None:
        """Add or refresh a problem; logs it the first time or when its text changes."""
        key = (code, database)
        with self._lock:
            known = self._entries.get(key)
            since = known.since_ms if known else self._clock_ms()
            problem = Problem(code, database, message, since)
            self._entries[key] = problem
            if len(self._entries) > _MAX_PROBLEMS:
                del self._entries[min(self._entries, key=lambda k: self._entries[k].since_ms)]
        if known is None or known.message != message:
            log.warning("%s%s", f"{database}: " if database else "", message, extra={"code": code})
            if self.on_change is not None:
                self.on_change(problem, known is None)

    def clear(self, code: str, database: str = "") -> None:
        """Forget a problem that is over; harmless when it is unknown."""
        with self._lock:
            gone = self._entries.pop((code, database), None)
        if gone is not None:
            log.info("%sover: %s", f"{database}: " if database else "", gone.message, extra={"code": code})

    def has(self, code: str) -> bool:
        """Whether a problem of the whole node is open."""
        return (code, "") in self._entries

    def all(self) -> list[Problem]:
        """Every open problem, oldest first."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda p: (p.since_ms, p.code, p.database))


class SupervisorLink:
    """The replicator's end of the supervisor socket: SEQPACKET, JSON datagrams, descriptors.

    ``kept`` holds descriptors the supervisor kept for us while no replicator ran (lock
    descriptors); whoever adopts one takes it out of the dict.
    """

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.kept: dict[str, int] = {}

    @classmethod
    def from_fd(cls, fd: int) -> SupervisorLink:
        """Wrap the inherited descriptor."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd))

    @classmethod
    def none(cls) -> SupervisorLink:
        """A link to nobody, for tests and single processes: keeps nothing."""
        return cls(None)

    def receive_kept(self, timeout_s: float = 5.0) -> None:
        """At start: read the kept descriptors until ``kept-end``."""
        if self._sock is None:
            return
        self._sock.settimeout(timeout_s)
        try:
            while True:
                data, fds, _flags, _addr = socket.recv_fds(self._sock, _MAX_DATAGRAM, 4)
                if not data:
                    return
                message = json.loads(data)
                if message.get("op") == "kept-end":
                    return
                if message.get("op") == "kept" and fds:
                    os.set_inheritable(fds[0], False)
                    self.kept[str(message["key"])] = fds[0]
        except TimeoutError:
            log.warning("the supervisor sent no kept descriptors within %.0f s", timeout_s)
        finally:
            self._sock.settimeout(None)

    def keep(self, key: str, fd: int) -> None:
        """Let the supervisor hold a duplicate of ``fd``; the same key replaces."""
        self._send({"op": "keep", "key": key}, [fd])

    def drop(self, key: str) -> None:
        """Let the supervisor close its duplicate."""
        self._send({"op": "drop", "key": key})

    def ready(self) -> None:
        """The store is open and the listeners answer."""
        self._send({"op": "ready"})

    def state(self, text: str) -> None:
        """Tell how far this node is; ``in-sync`` makes ``local`` print ``ready``."""
        self._send({"op": "state", "text": text})

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if self._sock is None:
            return
        data = json.dumps(message, separators=(",", ":")).encode()
        try:
            with self._lock:
                socket.send_fds(self._sock, [data], fds or [])
        except OSError as error:
            # The life-line ends this process when the supervisor is gone; nothing more to do here.
            log.debug("supervisor is not reachable: %s", error)


def _ignore_transaction(_name: str, _header: Header, _position: Position) -> None:
    """Default listener: nobody."""


@dataclass(frozen=True, slots=True)
class PrimaryAddress:
    """Whom a replica follows."""

    name: str
    """Empty: learned from the primary itself."""
    url: str
    """``http://host:port``, or ``https://…``."""
    server_name: str = ""
    """What its certificate must say; empty: made from the name."""


class PeerIdentity(Protocol):
    """Certificates of this node, and who others are (``sqlitecluster.identity``)."""

    @property
    def not_after_s(self) -> float: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def server_context(self) -> ssl.SSLContext: ...
    def client_context(self) -> ssl.SSLContext: ...
    def server_name(self, pod: str, host: str) -> str: ...
    def peer_name(self, transport: Any) -> str | None: ...
    def ends(self, transport: Any) -> float | None: ...


@dataclass(slots=True)
class NodeServices:
    """Everything one replicator works with."""

    config: NodeConfig
    store: NodeStore
    state: State
    bells: Bells
    mount_dir: Path
    supervisor: SupervisorLink = field(default_factory=SupervisorLink.none)
    problems: ProblemBook = field(default_factory=ProblemBook)
    identity: PeerIdentity | None = None
    """None: peers talk plain HTTP."""
    held: dict[str, WalSession] = field(default_factory=dict)
    """Databases of programs whose role locks we hold already while they are still being captured."""
    on_transaction: Callable[[str, Header, Position], None] = _ignore_transaction
    """(name, header, position) after a capture or an apply; any thread."""
    pins: dict[str, Pin] = field(default_factory=dict)
    """Databases whose log a reader keeps from being written back; one writer thread."""
    zones: Zones = field(default_factory=Zones)
    writers: Writers = field(default_factory=Writers)
    """Which SQLite writes here."""
    quorum: QuorumView = field(init=False)
    """What commits of this node wait for."""
    failpoint: Callable[[str], None] = failpoints.hit

    def __post_init__(self) -> None:
        self.quorum = QuorumView(self)

    def find(self, name: str) -> DatabaseStore | None:
        """The store of a database that has one; makes nothing."""
        if (self.store.data_dir / "dbs" / encode_name(name)).is_dir():
            return self.store.open(name)
        return None
