"""The store of one node: its identity, its databases, its log.

Opened by the replicator (with the housekeeper running) and, for a moment, by
``recovery.prepare_node``. The supervisor's lock on the data directory makes sure that
only one process at a time does.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from sqlitecluster.errors import BadName, ClusterMismatch, CorruptStore
from sqlitecluster.store import cutter, lostfound
from sqlitecluster.store.damage import LOG, Damage
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.log import SEGMENT_SIZE, Logged, NodeLog
from sqlitecluster.store.tail import RING_BYTES, Ring
from sqlitecluster.units import check_database_name, decode_name, format_node_id, parse_node_id

log = logging.getLogger(__name__)

_CLUSTER_ID: Final = re.compile(r"LFSC[0-9A-F]{16}")


class Clock(Protocol):
    """The two clocks the store reads."""

    def now_ms(self) -> int:
        """Wall clock in ms since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall clock in ms since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        return time.monotonic()


class NodeStore:
    """Everything under the data directory that the replicator owns."""

    def __init__(
        self,
        data_dir: Path,
        reserve: int = 0,
        clock: Clock | None = None,
        disk: Disk | None = None,
        *,
        segment_size: int = SEGMENT_SIZE,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self.data_dir = data_dir
        self.reserve = reserve
        """Bytes of the disk that are kept for capture."""
        self.clock = clock or SystemClock()
        self.disk = disk or Disk()
        self.ring = Ring(ring_bytes)
        self.epoch = 0
        """Of what this node captures: the primary's; 0 while it is none."""
        self.damage = Damage()
        self.corrupt_files = 0
        """Damaged files that were moved to lost+found since the start."""
        self.wake = threading.Event()
        """Set by the first append while ``sleeping`` [housekeeper]."""
        self.sleeping = False
        (data_dir / "dbs").mkdir(parents=True, exist_ok=True)
        self.disk.fsync_dir(data_dir)  # a killed process may have renamed files without getting further
        self.node_id = self._load_node_id()
        self._databases: dict[str, DatabaseStore] = {}
        self._lock = threading.Lock()
        self.log = NodeLog(data_dir / "log", self.disk, self._keep_segment, segment_size)
        self._recovered = _group(self.log)

    def cluster_id(self) -> str | None:
        """``LFSC`` and 16 upper-case hex digits; None before the node joined a cluster."""
        try:
            text = (self.data_dir / "cluster-id").read_text().strip()
        except FileNotFoundError:
            return None
        if not _CLUSTER_ID.fullmatch(text):
            raise CorruptStore(f"{self.data_dir / 'cluster-id'}: {text[:64]!r} is not a cluster id")
        return text

    def set_cluster_id(self, cluster_id: str) -> None:
        """Join a cluster, or another one.

        Raises:
            ClusterMismatch: the text is not a cluster id.
        """
        if not _CLUSTER_ID.fullmatch(cluster_id):
            raise ClusterMismatch(f"{cluster_id[:64]!r} is not a cluster id: LFSC and 16 upper-case hex digits")
        self.disk.write_file(self.data_dir / "cluster-id", (f"{cluster_id}\n".encode(),))

    def names(self) -> list[str]:
        """Names of all databases that have a folder, sorted."""
        found = []
        for entry in os.scandir(self.data_dir / "dbs"):
            try:
                found.append(decode_name(entry.name))
            except BadName:
                log.warning("%s is not a database's folder; it is left alone", entry.path)
        return sorted(found)

    def open(self, name: str) -> DatabaseStore:
        """The store of a database; made when there is none.

        Raises:
            BadName: not a database name.
        """
        found = self._databases.get(name)
        if found is not None:
            return found
        with self._lock:
            found = self._databases.get(name)
            if found is None:
                found = DatabaseStore(self, check_database_name(name))
                self._databases[name] = found
        return found

    def opened(self) -> list[DatabaseStore]:
        """Databases that are open, in no order."""
        with self._lock:
            return list(self._databases.values())

    def take_recovered(self, name: str) -> list[Logged]:
        """Blobs of a database that an earlier process left in the log; given out once."""
        return self._recovered.pop(name, [])

    def open_recovered(self) -> None:
        """Open every database that still has something in the log, so that it is cut."""
        for name in list(self._recovered):
            try:
                self.open(name)
            except BadName:
                log.error("the log holds transactions of %r, which is no database name; they are ignored", name)
                for place in self.take_recovered(name):
                    self.log.release(place.segment)

    def appended(self) -> None:
        """Wake the housekeeper if it sleeps."""
        if self.sleeping:
            self.sleeping = False
            self.wake.set()

    def cut(self, database: DatabaseStore) -> int:
        """Write what a database has in the log into LTX files; returns the number of files."""
        return cutter.cut(database, self.log)

    def keep(self, name: str, reason: str, paths: Sequence[Path], blobs: Sequence[tuple[str, bytes]]) -> Path:
        """Move files and bytes of a database to lost+found."""
        known = self._databases.get(name)
        at = str(known.position) if known is not None and not known.position.is_zero else ""
        return lostfound.keep(self.data_dir, self.disk, self.clock.now_ms(), name, reason, paths, blobs, at)

    def close(self) -> None:
        """Close databases and log; the housekeeper was stopped before."""
        self.log.sync()  # before words say that everything is in order
        for database in self.opened():
            database.close()
        self.log.close()

    def _keep_segment(self, path: Path, reason: str) -> None:
        self.damage.note_found(LOG, "")
        lostfound.copy(self.data_dir, self.disk, self.clock.now_ms(), "log", reason, path)

    def _load_node_id(self) -> int:
        path = self.data_dir / "node-id"
        try:
            return parse_node_id(path.read_text().strip())
        except FileNotFoundError:
            node_id = int.from_bytes(os.urandom(8), "big") or 1
            self.disk.write_file(path, (f"{format_node_id(node_id)}\n".encode(),))
            return node_id


def _group(node_log: NodeLog) -> dict[str, list[Logged]]:
    groups: dict[str, list[Logged]] = {}
    for name, place in node_log.recovered:
        groups.setdefault(name, []).append(place)
    node_log.recovered = []
    return groups
