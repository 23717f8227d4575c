"""What one node is told: frozen values with their defaults, units and consequences.

The YAML keys are the camelCase forms of the field names; ``config.load`` reads and
checks them, ``docs/configuration.md`` lists them. Imports nothing, so that every
process may know it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args


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
class LeaseTimes:
    """How long one may be the primary without asking again."""

    duration_s: float = 12.0
    """Others may take over when the Lease was unchanged for so long."""
    renew_deadline_s: float = 7.0
    """The fence: after the last good renewal was sent, writes are refused from then on."""
    retry_period_s: float = 1.0
    """Between two renewals; also the time-out of each request."""
    margin_ms: int = 1000
    """Added to ``duration_s`` by whoever takes over without having been asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """The Lease that says who the primary is; a node of role ``elected`` without it is driven by hand."""

    cluster: str
    """Name of the SQLiteCluster, and of its Lease."""
    namespace: str
    """Where it is."""
    pod_uid: str
    """A pod that was made anew under the same name is another holder."""
    address: str
    """IP address under which other pods reach this one."""
    lease: LeaseTimes = field(default_factory=LeaseTimes)
    api_outage_policy: str = "Fence"
    """Without an API server: ``Fence`` ends writing, ``HoldIfPeersAgree`` goes on while every candidate agrees."""
    candidate: bool = True
    """Whether this node may become the primary."""
    failover_delay_s: float = 0.0
    """Seconds to wait before an unreachable primary is replaced."""
    switchover_timeout_s: float = 60.0
    """A hand-off that takes longer is given up; the primary goes on."""
    demote_delay_s: float = 10.0
    """Seconds that a running transaction has to end when the node stops being the primary."""
    api_server: str = ""
    """URL of the Kubernetes API; empty: the pod's own, from the environment."""
    credentials_dir: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """``token``, ``ca.crt`` and ``namespace`` for it."""
    peer_domain: str = ""
    """Server name of pod P is P.<peerDomain>; empty: ``<cluster>-pods.<namespace>.svc``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """When a commit is answered."""

    mode: str = "Async"
    """``Async``: once the log has it. ``Quorum``: once ``acks`` replicas hold it on disk."""
    acks: int = 1
    """Replicas that must hold a commit before its program is answered (``Quorum``)."""
    ack_timeout_s: float = 5.0
    """A commit that was not acknowledged by then fails with "disk I/O error"."""
    durability: str = "Required"
    """With too few replicas commits fail (``Required``), or go on with fewer acknowledgements (``Preferred``)."""
    local_durability: str = "SQLite"
    """``SQLite``: what ``synchronous`` says. ``Always``: every commit survives a power cut here."""
    checkpoint_pages: int = 1000
    """A write-ahead log with more pages than this is written back into its database, on every node."""
    zone: str = ""
    """Where this node stands: of one zone at most one acknowledgement counts. Empty: each node for itself."""

    @property
    def is_quorum(self) -> bool:
        return self.mode == "Quorum"

    @property
    def holds_back(self) -> bool:
        """Whether a commit waits for something before its last bytes are written."""
        return self.is_quorum or self.local_durability == "Always"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Certificates for mutual TLS between nodes."""

    directory: Path = Path("/var/run/sqlitecluster/identity")
    """``token``, ``ca.crt``, ``operator-ca.crt`` and ``operator-url``."""
    operator_url: str = ""
    """Who signs; empty: what ``operator-url`` in the directory says."""
    lifetime_s: float = 604800.0
    """Seconds that a certificate is asked for."""
    cluster: str = ""
    """``namespace/name`` of the cluster whose pods are let in; empty: what ``election`` says."""
    cert_file: Path | None = None
    """A certificate made by hand, instead of asking an operator; followed when it changes."""
    key_file: Path | None = None
    """Its key; absent: in ``certFile`` too."""
    ca_file: Path | None = None
    """Authorities that are trusted; absent: ``ca.crt`` in the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAs:
    """Who mount and replicator are; the supervisor stays what it is."""

    uid: int = 65532
    gid: int = 65532


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
    """``primary`` or ``replica`` (a static assignment), or ``elected``."""
    primary_url: str = ""
    """Peers address of the primary, ``http://host:20202``; needed on a replica."""
    primary_name: str = ""
    """Name of the primary shown in ``.primary``; learned from the primary when empty."""
    election: Election | None = None
    """Only with the role ``elected``; absent: the local API says who the primary is."""
    identity: Identity | None = None
    """Absent: nodes talk in plain HTTP."""
    run_as: RunAs | None = None
    """Absent: every process keeps the user that started the node."""
    run_on: str = "All"
    """``All``, or ``Primary``: ``/healthz/startup`` holds programs of replicas back."""
    replication: Replication = field(default_factory=Replication)
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
    compression: str = "LZ4"
    """Of new transactions, on disk and on the network: ``LZ4``, or ``None``: less work, more bytes."""
    verify: str = "Background"
    """``Background``, ``EveryTransaction`` or ``Off``: comparing images with page checksums."""
    verify_interval_s: float = 1.0
    """Seconds between two steps of the verifier, each of 1 MiB of one database."""
    scrub_interval_s: float = 3600.0
    """Seconds between two walks over all stored LTX files."""
    max_lag_s: float = 0.0
    """A replica further behind its primary is not ready (``/healthz/ready``); 0: however far."""
    reserve_bytes: int = 0
    """Disk kept for capture; 0 means max(64 MiB, 2 % of the disk)."""
    park_s: float = 20.0
    """Seconds a request may wait for capture before it is answered EIO."""
    resend: bool = True
    """Let a successor of the mount process take over the live connection (kernel 6.9 and newer)."""
    hold_cpus_awake: bool = True
    """While programs write, keep idle CPUs polling instead of halting (``/dev/cpu_dma_latency``)."""
    allow_other: bool = True
    """Other users of the machine may use the mount, within file permissions."""
    stack_mounts: bool = False
    """For containers: a new mount goes on top of a dead one, where running programs of other containers see it."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""
    log_format: str = "text"
    """``text`` or ``json``."""


def section_of(hint: Any) -> type | None:
    """The dataclass behind a field's type, also behind ``X | None``; None for plain values."""
    for kind in (hint, *get_args(hint)):
        if isinstance(kind, type) and is_dataclass(kind):
            return kind
    return None
