"""What one node is told: frozen values with their defaults, units and consequences.

The YAML keys are the camelCase forms of the field names; ``config.load`` reads and
checks them, ``docs/configuration.md`` lists them. Imports nothing, so that every
process may know it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Addresses as ``host:port``; an empty text switches a listener off."""

    peers: str = "0.0.0.0:20202"
    """Streams of transactions for other nodes."""
    metrics: str = "0.0.0.0:20203"
    """Health, information and metrics; no data."""
    api: str = "127.0.0.1:20204"
    """The local API: events, import, export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long LTX files are kept on the node."""

    age_s: float = 600.0
    """Seconds; older files are removed unless a connected replica still needs them."""
    size_bytes: int = 4 << 30
    """Bytes of all LTX files of one database; beyond it the oldest go first."""
    interval_s: float = 60.0
    """Seconds between two looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node."""

    name: str
    """Shown to others: ``.primary``, events, metrics."""
    data_dir: Path
    """Where databases, LTX files and the log are. Must not contain the mount point, nor lie in it."""
    mount_dir: Path
    """Where programs open their databases."""
    role: str = "primary"
    """``primary`` or ``replica`` (a static assignment)."""
    primary_url: str = ""
    """Peers address of the primary, ``http://host:20202``; needed on a replica."""
    primary_name: str = ""
    """Name of the primary shown in ``.primary``; learned from the primary when empty."""
    listen: Listen = field(default_factory=Listen)
    retention: Retention = field(default_factory=Retention)
    runtime_dir: Path | None = None
    """On tmpfs: shared-memory files of databases. Default: a folder of its own in ``/dev/shm``."""
    replica_writes: str = "Busy"
    """``Busy``: "database is locked" on a replica; ``ReadOnly``: "attempt to write a readonly database"."""
    other_files: str = "Local"
    """Files that are no databases: ``Local`` keeps them on this node, ``Refuse`` refuses them."""
    delete_policy: str = "Trash"
    """Deleting a database: ``Trash`` keeps its files for the retention, ``Refuse`` refuses."""
    verify: str = "Background"
    """``Background``, ``EveryTransaction`` or ``Off``: comparing images with page checksums."""
    reserve_bytes: int = 0
    """Disk kept for capture; 0 means max(64 MiB, 2 % of the disk)."""
    park_s: float = 20.0
    """Seconds a request may wait for capture before it is answered EIO."""
    wal_threshold_bytes: int = 16 << 20
    """A replica's WAL beyond this is written back into the database."""
    resend: bool = True
    """Let a successor of the mount process take over the live connection (kernel 6.9 and newer)."""
    hold_cpus_awake: bool = True
    """While programs write, keep idle CPUs polling instead of halting (``/dev/cpu_dma_latency``)."""
    allow_other: bool = True
    """Other users of the machine may use the mount, within file permissions."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""
    log_format: str = "text"
    """``text`` or ``json``."""
