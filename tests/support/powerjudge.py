"""What must hold between two nodes after a power cut, beyond what one database shows.

Rules:
    1. Images are compared as SQLite settles them, not with the product's code; the position's
       checksum is computed from the primary's image.
    2. What a replica had and the primary has not any more is either part of the primary's
       history now (the chain goes through it), or in the replica's lost+found. Never nowhere.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from sqlitecluster.sqlitefmt.dbheader import DatabaseHeader
from support import images
from support.cluster import Cluster, SyncError
from support.node import Node
from support.powerwriter import read_state
from support.replica import image_checksum

ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """What a replica had of one database when its primary lost power."""

    newest: int
    position: tuple[str, str]
    kept: frozenset[str]
    """Folders in lost+found that were there already."""


def look(replica: Node) -> dict[str, Seen]:
    """What a replica has, once it has applied all that it got."""
    before: object = None
    for _ in range(100):
        now = {str(d["name"]): d["position"] for d in (replica.info() or {}).get("databases", [])}
        if now and now == before:
            break
        before = now
        time.sleep(0.05)
    found = {}
    for name in now:
        at = replica.position(name)
        if at is not None:
            found[name] = Seen(read_state(replica.mount / name, check=False).newest, at, kept(replica, name))
    return found


def kept(node: Node, name: str) -> frozenset[str]:
    """Folders of lost+found that belong to a database."""
    reasons = (node.data / "lost+found").glob("*/reason.json")
    return frozenset(r.parent.name for r in reasons if json.loads(r.read_text()).get("database") == name)


def accounted(cluster: Cluster, seen: dict[str, Seen]) -> list[str]:
    """Transactions of the replica that vanished without a trace; the nodes are in sync now."""
    problems = []
    for name, had in seen.items():
        newest = read_state(cluster.replica.mount / name, check=False).newest
        if newest >= had.newest or kept(cluster.replica, name) > had.kept or passes(cluster.replica, name, had):
            continue
        problems.append(
            f"{name}: the replica had shown {had.newest} at {'/'.join(had.position)}, now it shows {newest}, "
            "and neither its chain nor its lost+found has the rest"
        )
    return problems


def was_sent_whole(node: Node, name: str) -> bool:
    """Whether a node got a snapshot of a database: older files of its chain then stay without a successor."""
    return f"{name}: receiving a snapshot" in node.log.read_text(errors="replace")


def damaged_files(node: Node) -> list[str]:
    """What the product's own command finds wrong with the stored files of a node that is stopped."""
    done = node.cli("ltx", "verify", "--config", str(node.config_file), "-o", "json")
    try:
        errors = json.loads(done.stdout)["errors"]
    except (ValueError, KeyError):
        return [f"{node.name}: ltx verify: {done.stdout[-400:]}{done.stderr[-400:]}"]
    return [
        f"{node.name}: ltx verify: {error}"
        for error in errors
        if "are missing" not in error["message"] or not was_sent_whole(node, error["database"])
    ]


def passes(node: Node, name: str, had: Seen) -> bool:
    """Whether the node's history still goes through a position: the primary undid it in the open."""
    at = node.position(name)
    return at is not None and int(at[0], 16) > int(had.position[0], 16) and not kept(node, name) > had.kept


def compare(cluster: Cluster, names: list[str], scratch: Path) -> list[str]:
    """How primary and replica differ, in their databases or from their positions."""
    try:
        cluster.wait_synced(*names)
    except SyncError as error:
        return [str(error)]
    found: dict[str, str] = dict.fromkeys(names, "never compared")
    for _ in range(ATTEMPTS):  # a node may write its WAL back while it is copied
        found = {name: wrong for name in found if (wrong := _difference(cluster, name, scratch))}
        if not found:
            break
        time.sleep(0.3)
    return [f"{name}: {wrong}" for name, wrong in found.items()]


def _newest(node: Node, name: str) -> int | str:
    """The newest transaction that programs see, or why they see nothing."""
    try:
        return read_state(node.mount / name, check=False).newest
    except sqlite3.Error as error:
        return str(error)


def _difference(cluster: Cluster, name: str, scratch: Path) -> str:
    try:
        left = images.settled(cluster.primary, name, scratch)
        right = images.settled(cluster.replica, name, scratch)
        at = cluster.primary.position(name)
        image = left.read_bytes()
    except (sqlite3.DatabaseError, OSError) as error:
        return f"cannot be read: {error}"
    differs = images.first_difference(left, right)
    if differs:
        shown = {n.name: (n.position(name), _newest(n, name)) for n in cluster.nodes}
        return f"primary and replica differ: {differs}; position and newest transaction, as programs see it: {shown}"
    checksum = f"{image_checksum(image, DatabaseHeader.parse(image).page_size):016x}"
    if at is None or at[1] != checksum:
        return f"position {at}, but the checksum of the image is {checksum}"
    return ""
