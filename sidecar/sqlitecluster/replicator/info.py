"""What ``/info`` and ``/metrics`` say about a node.

``NodeView`` knows where everything is; ``info`` and ``samples`` gather it. Both read
files and look at locks, so the HTTP handlers call them in an executor thread.

Rules:
    1. LiteFS's fields keep their names and meaning; ours are added beside them.
    2. A database's position is the one that programs can read here, not what was received.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from sqlitecluster.replication.position import ZERO, Position
from sqlitecluster.replicator import facts
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.events import timestamp
from sqlitecluster.replicator.lag import NEVER, LagMeter
from sqlitecluster.replicator.metrics import Sample
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.writers import OLD_SQLITE
from sqlitecluster.shared import KIND_OTHER, ROLE_NAMES, ROLE_PRIMARY, NodeWord, Word
from sqlitecluster.store import lostfound
from sqlitecluster.units import format_checksum, format_node_id, format_txid

if TYPE_CHECKING:
    from sqlitecluster.config.model import NodeConfig
    from sqlitecluster.replicator.elected import Elected
    from sqlitecluster.replicator.stream_server import ReplicaStream
    from sqlitecluster.store.database import DatabaseStore
    from sqlitecluster.store.verifier import Verifier

_PACKAGES: Final = ("pyfuse3", "aiohttp", "numpy", "lz4", "xxhash", "fastcrc")
_PREFIX: Final = "sqlitecluster_"


def version() -> str:
    """Version of this distribution."""
    try:
        return metadata.version("sqlitecluster")
    except metadata.PackageNotFoundError:
        return "0.1.0"


@dataclass(slots=True)
class NodeView:
    """Everything that is worth telling about this node."""

    node: NodeServices
    counters: Counters
    lag: LagMeter
    connected: Callable[[], bool]
    streams: Callable[[], list[ReplicaStream]]
    waiting_bytes: Callable[[], int]
    subscribers: Callable[[], int]
    primary_url: Callable[[], str] = str
    """Address of the primary that is followed; empty: none."""
    positions: Callable[[], dict[str, tuple[int, int, int]]] = dict
    election: Elected | None = None
    """Once this node takes part in one."""
    verifiers: dict[str, Verifier] = field(default_factory=dict)
    damaged: dict[str, set[int]] = field(default_factory=dict)
    """Pages that are damaged and could not be mended, by database."""
    _files: facts.LocalFiles | None = None

    @property
    def is_primary(self) -> bool:
        return int(self.node.state.node[NodeWord.ROLE]) == ROLE_PRIMARY

    @property
    def in_sync(self) -> bool:
        return self.is_primary or self.lag.in_sync

    def role(self) -> dict[str, Any]:
        """The data of ``init`` and ``primaryChange`` events."""
        name = self.node.state.primary_name()
        if self.is_primary or not name:
            return {"isPrimary": self.is_primary}
        return {"isPrimary": False, "hostname": name}

    def lag_ms(self) -> int:
        """Lag of a replica in ms, ``NEVER`` before the first sync; 0 on the primary."""
        if self.is_primary:
            return 0
        return self.lag.lag_ms(time.time_ns() // 1_000_000, self.waiting_bytes() > 0)

    def position(self, db: DatabaseStore) -> Position:
        """What programs can read of a database here."""
        slot = self.node.state.find(db.name)
        if slot is not None:
            txid, checksum, _ms, _pages = self.node.state.position(slot)
            if txid:
                return Position(txid, checksum)
        if self.is_primary:
            return db.position
        return db.position if db.applied >= db.position.txid else ZERO

    def databases(self) -> list[DatabaseStore]:
        """Databases that have a position."""
        found = (self.node.find(name) for name in self.node.store.names())
        return [db for db in found if db is not None and not db.position.is_zero]

    # -- /info -----------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """The object of ``/info``."""
        node, config = self.node, self.node.config
        count, names = self._local_only()
        cluster = node.store.cluster_id()
        value: dict[str, Any] = {"clusterID": cluster} if cluster else {}
        value |= {"isPrimary": self.is_primary, "candidate": _is_candidate(config), "path": str(config.data_dir)}
        if not self.is_primary:
            value["primary"] = {"hostname": node.state.primary_name(), "url": self.primary_url()}
        lag = self.lag_ms()
        words = node.state.node
        value |= {
            "nodeID": format_node_id(node.store.node_id),
            "name": config.name,
            "role": ROLE_NAMES[min(int(words[NodeWord.ROLE]), len(ROLE_NAMES) - 1)],
            "epoch": int(words[NodeWord.EPOCH]),
            "inSync": self.in_sync,
            "connected": self.is_primary or self.connected(),
            "lagMs": None if lag == NEVER else lag,
            "mountDir": str(config.mount_dir),
            "mountTakeOver": "resend" if words[NodeWord.RESENDING] else "remount",
            "mountGeneration": int(words[NodeWord.MOUNT_GENERATION]),
            "remounts": int(words[NodeWord.REMOUNTS]),
            "writesRefused": int(words[NodeWord.WRITES_REFUSED]),
            "replicaWrites": config.replica_writes,
            "positions": {name: list(position) for name, position in self.positions().items()},
            "databases": [self._database(db) for db in self.databases()],
            "localOnlyFiles": {"count": count, "paths": names},
            "replication": self._replication(),
            "replicas": [self._replica(stream) for stream in self.streams()],
            "problems": [_problem(p.code, p.database, p.message, p.since_ms) for p in node.problems.all()],
            "notices": self._notices(),
            "pids": facts.pids(config.data_dir),
            "versions": _versions(),
        }
        return value if self.election is None else {**value, "election": self.election.info()}

    def _replication(self) -> dict[str, Any]:
        """What a commit waits for."""
        config, quorum = self.node.config.replication, self.node.quorum
        value: dict[str, Any] = {"mode": config.mode, "localDurability": config.local_durability}
        if config.is_quorum:
            value |= {"acks": config.acks, "ackTimeoutMs": round(config.ack_timeout_s * 1000)}
        if config.is_quorum and self.is_primary:
            holders = sorted(quorum.in_sync(members_only=True))
            value |= {"holders": [format_node_id(holder) for holder in holders], "degraded": quorum.is_degraded}
        return value

    def _database(self, db: DatabaseStore) -> dict[str, Any]:
        config = self.node.config
        mode = facts.journal_mode(config.data_dir, db.name)
        position = self.position(db)
        value: dict[str, Any] = {
            "name": db.name,
            "kind": "dropped" if db.commit == 0 else "database",
            "position": str(position),
            "txID": format_txid(position.txid),
            "checksum": format_checksum(position.checksum),
            "received": str(db.position),
            "pageSize": db.page_size,
            "pages": db.commit,
            "journalMode": mode,
            "timestamp": timestamp(db.timestamp_ms),
            "ltxFiles": len(db.files.files),
            "ltxBytes": db.files.size,
            "writeTransaction": None,
            "wal": self._wal(db.name),
        }
        if self.is_primary:
            pid = facts.write_transaction(config.mount_dir, db.name, mode == "wal")
            value["writeTransaction"] = {"pid": pid} if pid is not None else None
            value["sqliteVersion"] = self.node.writers.text(db.name)
        else:
            value["behind"] = max(0, db.position.txid - position.txid)
        return value

    def _notices(self) -> list[dict[str, str]]:
        """What is worth knowing, and nothing to be woken for."""
        if not self.is_primary:
            return []
        said = ((db.name, self.node.writers.notice(db.name)) for db in self.databases() if db.commit)
        return [{"code": OLD_SQLITE, "db": name, "message": text} for name, text in said if text]

    def _wal(self, name: str) -> dict[str, Any] | None:
        """Its write-ahead log; null while there is none."""
        config, pin = self.node.config, self.node.pins.get(name)
        size = facts.wal_bytes(config.data_dir, name)
        if not size:
            return None
        frames, done = facts.read_index(config.mount_dir, name) or (0, 0)
        value: dict[str, Any] = {"pages": frames, "writtenBack": done, "bytes": size, "pinnedBy": None}
        if pin is not None:
            value["pinnedBy"] = {"pid": pin.pid or None, "pages": pin.pages}
        return value

    def _local_only(self) -> tuple[int, list[str]]:
        """Files of this node only: what has no database's name, and what has one but other content."""
        state = self.node.state
        other = [state.name(i) for i in range(state.count) if state.slot(i)[Word.KIND] == KIND_OTHER]
        if self._files is None:
            self._files = facts.LocalFiles(self.node.config.data_dir)
        count, names = self._files.look()
        return len(other) + count, (sorted(other) + names)[: facts.MAX_LISTED]

    def _replica(self, stream: ReplicaStream) -> dict[str, Any]:
        return {
            "name": stream.peer.name,
            "nodeID": format_node_id(stream.peer.node_id),
            "address": stream.address,
            "connectedSince": timestamp(stream.connected_ms),
            "ready": stream.ready,
            "bytesSent": stream.bytes,
            "behind": self._behind(stream),
            "positions": {name: str(lane.acked) for name, lane in stream.lanes.items()},
        }

    def _behind(self, stream: ReplicaStream) -> int:
        behind = 0
        for name, lane in list(stream.lanes.items()):
            db = self.node.find(name)
            if db is not None:
                behind += max(0, db.position.txid - lane.acked.txid)
        return behind

    # -- /metrics --------------------------------------------------------------------

    def samples(self) -> list[Sample]:
        """Every metric of this node."""
        elected = self.election.facts.samples() if self.election is not None else []
        own = self._node_samples() + self._stream_samples() + self._database_samples()
        return own + elected + self._process_samples()

    def _node_samples(self) -> list[Sample]:
        node, words = self.node, self.node.state.node
        labels = {
            "version": version(),
            "node": node.config.name,
            "node_id": format_node_id(node.store.node_id),
            "cluster_id": node.store.cluster_id() or "",
        }
        lag = self.lag_ms()
        samples: list[Sample] = [(f"{_PREFIX}info", labels, 1)]
        plain = {
            "is_primary": self.is_primary,
            "in_sync": self.in_sync,
            "connected": self.is_primary or self.connected(),
            "corrupt_files_total": node.store.corrupt_files,
            "local_only_files": self._local_only()[0],
            "event_subscribers": self.subscribers(),
            "apply_queue_bytes": self.waiting_bytes(),
            "writes_refused_total": words[NodeWord.WRITES_REFUSED],
            "mount_requests_total": words[NodeWord.REQUESTS],
            "mount_parked": words[NodeWord.PARKED],
            "mount_generation": words[NodeWord.MOUNT_GENERATION],
            "remounts_total": words[NodeWord.REMOUNTS],
            "no_space_total": words[NodeWord.NO_SPACE],
        }
        samples += [(f"{_PREFIX}{name}", {}, float(value)) for name, value in plain.items()]
        if lag != NEVER:
            samples.append((f"{_PREFIX}lag_seconds", {}, lag / 1000))
        if node.identity is not None:
            samples.append((f"{_PREFIX}certificate_end_seconds", {}, node.identity.not_after_s))
        codes: dict[str, int] = {}
        for problem in node.problems.all():
            codes[problem.code] = codes.get(problem.code, 0) + 1
        return samples + [(f"{_PREFIX}problems", {"code": code}, count) for code, count in sorted(codes.items())]

    def _stream_samples(self) -> list[Sample]:
        counters, streams = self.counters, self.streams()
        plain = {
            "streams": len(streams),
            "stream_bytes_sent_total": counters.bytes_sent,
            "stream_bytes_received_total": counters.bytes_received,
            "stream_connects_total": counters.connects,
            "stream_refused_total": counters.refused_streams,
            "snapshots_sent_total": counters.snapshots_sent,
            "snapshots_received_total": counters.snapshots_received,
        }
        samples: list[Sample] = [(f"{_PREFIX}{name}", {}, value) for name, value in plain.items()]
        for direction, table in (("sent", counters.frames_sent), ("received", counters.frames_received)):
            name = f"{_PREFIX}stream_frames_{direction}_total"
            samples += [(name, {"type": kind}, count) for kind, count in sorted(table.items())]
        behind = {stream.peer.name: self._behind(stream) for stream in streams}
        name = f"{_PREFIX}stream_behind_transactions"
        samples += [(name, {"replica": replica}, count) for replica, count in sorted(behind.items())]
        return samples + self._quorum_samples()

    def _quorum_samples(self) -> list[Sample]:
        quorum = self.node.quorum
        if not quorum.holds:
            return []
        samples: list[Sample] = [
            (f"{_PREFIX}commits_waiting", {}, quorum.waiting),
            (f"{_PREFIX}acknowledging_replicas", {}, len(quorum.in_sync(members_only=True))),
        ]
        name = f"{_PREFIX}held_commits_total"
        return samples + [(name, {"result": result}, count) for result, count in quorum.results.items()]

    def _database_samples(self) -> list[Sample]:
        databases = self.databases()
        samples: list[Sample] = [(f"{_PREFIX}databases", {}, len(databases))]
        for db in databases:
            values = {
                "txid": self.position(db).txid,
                "pages": db.commit,
                "page_size_bytes": db.page_size,
                "timestamp_seconds": db.timestamp_ms / 1000,
                "ltx_files": len(db.files.files),
                "ltx_bytes": db.files.size,
                "transactions_total": self.counters.transactions.get(db.name, 0),
            }
            if wal := self._wal(db.name):
                values |= {"wal_pages": wal["pages"] - wal["writtenBack"], "wal_bytes": wal["bytes"]}
            if pin := self.node.pins.get(db.name):
                values |= {"wal_pinned_pages": pin.pages, "wal_pinned_pid": pin.pid}
            samples += [(f"{_PREFIX}db_{key}", {"db": db.name}, value) for key, value in values.items()]
            if self.is_primary and (version := self.node.writers.version(db.name)):
                samples.append((f"{_PREFIX}db_sqlite_version", {"db": db.name}, version))
        samples.append((f"{_PREFIX}notices", {"code": OLD_SQLITE}, len(self._notices())))
        return samples + self._damage_samples()

    def _damage_samples(self) -> list[Sample]:
        book, samples = self.node.store.damage, list[Sample]()
        for name, verifier in sorted(self.verifiers.items()):
            samples.append((f"{_PREFIX}verified_pages_total", {"db": name}, verifier.verified))
            samples.append((f"{_PREFIX}verified_rounds_total", {"db": name}, verifier.rounds))
            samples.append((f"{_PREFIX}damaged_pages", {"db": name}, len(self.damaged.get(name, ()))))
        for metric, table in (("damage_found_total", book.found), ("damage_repaired_total", book.repaired)):
            for (kind, name), count in sorted(table.copy().items()):
                samples.append((f"{_PREFIX}{metric}", {"db": name, "kind": kind}, count))
        return [*samples, (f"{_PREFIX}lost_found_entries", {}, lostfound.count(self.node.config.data_dir))]

    def _process_samples(self) -> list[Sample]:
        samples: list[Sample] = []
        for process, pid in facts.pids(self.node.config.data_dir).items():
            size = facts.resident_bytes(pid) if isinstance(pid, int) else None
            if size is not None:
                samples.append((f"{_PREFIX}process_resident_bytes", {"process": process}, size))
        return samples


def _is_candidate(config: NodeConfig) -> bool:
    if config.role == "elected":
        return config.election is None or config.election.candidate
    return config.role == "primary"


def _problem(code: str, database: str, message: str, since_ms: int) -> dict[str, str]:
    value = {"code": code, "message": message, "since": timestamp(since_ms)}
    return {**value, "db": database} if database else value


def _versions() -> dict[str, str]:
    found = {"sqlitecluster": version(), "python": platform.python_version(), "kernel": platform.release()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
