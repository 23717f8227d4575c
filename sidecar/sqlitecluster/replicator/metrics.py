"""Prometheus text of one node. ``TABLE`` is the only list of metrics; docs/metrics.md shows the same.

``NodeView`` (``info``) gathers the samples, ``render`` writes them.

Rules:
    1. A metric that is not in ``TABLE`` cannot be rendered.
    2. No label has values that grow without bound: databases, replicas, codes, frame types.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Sample = tuple[str, dict[str, str], float]
"""(metric, labels, value)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    kind: str
    """``gauge``, ``counter`` or ``histogram`` (whose samples are ``_bucket``, ``_sum`` and ``_count``)."""
    labels: tuple[str, ...]
    help: str


_ROWS: Final = (
    ("info", "gauge", ("version", "node", "node_id", "cluster_id"), "Always 1; who this node is."),
    ("is_primary", "gauge", (), "1 on the primary."),
    ("in_sync", "gauge", (), "1 once every database of the primary was applied here (always 1 on the primary)."),
    ("connected", "gauge", (), "1 while a replica's stream to its primary is open (always 1 on the primary)."),
    ("lag_seconds", "gauge", (), "Delay of a replica behind its primary, by the primary's clock; absent before sync."),
    ("databases", "gauge", (), "Databases that have a position."),
    ("db_txid", "gauge", ("db",), "Newest transaction of a database."),
    ("db_pages", "gauge", ("db",), "Pages of a database."),
    ("db_page_size_bytes", "gauge", ("db",), "Page size of a database."),
    ("db_timestamp_seconds", "gauge", ("db",), "Wall clock of the newest transaction, by the primary."),
    ("db_ltx_files", "gauge", ("db",), "LTX files stored on this node."),
    ("db_ltx_bytes", "gauge", ("db",), "Bytes of LTX files stored on this node."),
    ("db_transactions_total", "counter", ("db",), "LTX files captured (primary) or applied (replica)."),
    (
        "db_sqlite_version",
        "gauge",
        ("db",),
        "SQLite that wrote page 1 last; 3051003 is 3.51.3. On the primary only.",
    ),
    ("db_wal_pages", "gauge", ("db",), "Pages of the write-ahead log that are not in the database file yet."),
    ("db_wal_bytes", "gauge", ("db",), "Length of the write-ahead log's file, which does not shrink by itself."),
    ("db_wal_pinned_pages", "gauge", ("db",), "Of these, pages that a reader keeps from being written back."),
    ("db_wal_pinned_pid", "gauge", ("db",), "The process that does; 0: one that this node cannot see."),
    ("corrupt_files_total", "counter", (), "Damaged LTX files that were moved to lost+found."),
    ("verified_pages_total", "counter", ("db",), "Pages that the verifier read from the disk and found right."),
    ("verified_rounds_total", "counter", ("db",), "Complete walks of the verifier over a database."),
    ("damaged_pages", "gauge", ("db",), "Damaged pages that could not be mended yet."),
    ("damage_found_total", "counter", ("db", "kind"), "Bit rot found; kinds: page, ltx, log, checksums, state."),
    ("damage_repaired_total", "counter", ("db", "kind"), "Of these, what was mended or is not needed any more."),
    ("lost_found_entries", "gauge", (), "Folders in lost+found, which nobody but you removes."),
    ("commits_waiting", "gauge", (), "Commits that wait for acknowledgements, or for this node's disk, now."),
    ("held_commits_total", "counter", ("result",), "Commits that waited: committed, taken_back, refused."),
    ("acknowledging_replicas", "gauge", (), "Replicas that hold everything and whose acknowledgements count."),
    ("streams", "gauge", (), "Replicas connected to this primary."),
    ("stream_behind_transactions", "gauge", ("replica",), "Transactions a connected replica has not acknowledged."),
    ("stream_bytes_sent_total", "counter", (), "Bytes of frames sent to replicas."),
    ("stream_bytes_received_total", "counter", (), "Bytes of frames received from the primary."),
    ("stream_frames_sent_total", "counter", ("type",), "Frames sent to replicas."),
    ("stream_frames_received_total", "counter", ("type",), "Frames received from the primary."),
    ("stream_connects_total", "counter", (), "Streams that this replica opened."),
    ("stream_refused_total", "counter", (), "Streams of other nodes that this node refused."),
    ("snapshots_sent_total", "counter", (), "Snapshots sent to replicas."),
    ("snapshots_received_total", "counter", (), "Snapshots received from the primary."),
    ("apply_queue_bytes", "gauge", (), "Transactions received and not yet applied."),
    ("event_subscribers", "gauge", (), "Readers of /events."),
    ("problems", "gauge", ("code",), "Open problems; /info has their texts."),
    ("notices", "gauge", ("code",), "What is worth knowing and no problem; /info has the texts."),
    ("certificate_end_seconds", "gauge", (), "When the certificate ends, in Unix time; 0 without one."),
    (
        "local_only_files",
        "gauge",
        (),
        "Files below the mount that are no databases and are not replicated, counted up to 10,000.",
    ),
    ("writes_refused_total", "counter", (), "Writes that reached a node that may not write."),
    ("mount_requests_total", "counter", (), "Requests that the mount answered."),
    ("mount_parked", "gauge", (), "Requests that wait in the mount now."),
    ("mount_generation", "gauge", (), "Mount processes since the node started."),
    ("remounts_total", "counter", (), "Connections that had to be aborted, so that programs had to reopen."),
    ("no_space_total", "counter", (), "Requests refused because only the disk reserve was left."),
    ("time_to_fence_seconds", "gauge", (), "How long an elected primary may write without renewing; 0 on replicas."),
    ("leader_transitions_total", "counter", (), "How often this node became, or stopped being, the elected primary."),
    ("lease_failures_total", "counter", (), "Requests for the Lease without a usable answer."),
    ("lease_renew_seconds", "histogram", (), "How long writing the Lease took."),
    ("process_resident_bytes", "gauge", ("process",), "Resident memory of this node's processes."),
)
TABLE: Final = {
    f"sqlitecluster_{name}": Metric(f"sqlitecluster_{name}", kind, labels, text) for name, kind, labels, text in _ROWS
}


def render(samples: Iterable[Sample]) -> str:
    """Prometheus text format 0.0.4, in the table's order.

    Raises:
        KeyError: a sample of a metric, or with labels, that the table does not have.
    """
    found: dict[str, list[str]] = {}
    for name, labels, value in samples:
        metric = TABLE.get(name) or _histogram(name)
        wanted = (*metric.labels, "le") if name.endswith("_bucket") else metric.labels
        if tuple(labels) != wanted:
            raise KeyError(f"{name} has labels {wanted}, not {tuple(labels)}")
        text = ",".join(f'{key}="{_escape(labels[key])}"' for key in wanted)
        found.setdefault(metric.name, []).append(f"{name}{{{text}}} {value:.15g}" if text else f"{name} {value:.15g}")
    lines: list[str] = []
    for metric in TABLE.values():
        if metric.name in found:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += found[metric.name]
    return "\n".join(lines) + "\n"


def _histogram(name: str) -> Metric:
    """The histogram that a sample is a part of."""
    metric = TABLE[name.rpartition("_")[0]]
    if metric.kind != "histogram":
        raise KeyError(name)
    return metric


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
