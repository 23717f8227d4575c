"""Who may talk to whom: cluster ids, node ids and epochs.

A cluster id is ``LFSC`` and 16 upper-case hex digits, made by the first primary, sent
by both sides of every stream. A node without one adopts the primary's.

Rules:
    1. Two different cluster ids never exchange a byte of data.
    2. A node never streams from itself.
    3. A replica takes nothing from an epoch older than the newest it has seen.
    4. Two versions talk when their ranges of protocols meet, in the newest one that both
       speak; what is optional inside a protocol is a capability, used only when both name it.
       Fields and capabilities that are not known are ignored, so that a version and the one
       before it always replicate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from sqlitecluster.errors import ClusterMismatch, FormatError, StreamError, WireError
from sqlitecluster.replication.wire import OLDEST_PROTOCOL, PROTOCOL
from sqlitecluster.units import format_node_id, parse_node_id

CAPABILITIES: Final[tuple[str, ...]] = ("resume", "lz4-pages", "epochs", "quorum", "checkpoints")
"""This version's: a broken transaction goes on inside; pages of snapshots may be compressed; databases
have an epoch, and acknowledgements can be asked for; a transaction is acknowledged when it is on disk,
and shown when it is committed; the primary tells how far it wrote its log back."""
MAX_CAPABILITIES: Final = 64
_CLUSTER_ID: Final = re.compile(r"LFSC[0-9A-F]{16}")


@dataclass(frozen=True, slots=True)
class Hello:
    """How a node presents itself: the first frame of a stream, and request headers."""

    cluster_id: str
    """Empty while the node belongs to no cluster yet."""
    node_id: int
    name: str
    epoch: int
    version: str = ""
    protocol: int = PROTOCOL
    """The newest that it speaks."""
    oldest_protocol: int = OLDEST_PROTOCOL
    """The oldest that it speaks."""
    capabilities: tuple[str, ...] = CAPABILITIES
    """What it can do beyond the protocol."""
    port: int = 0
    """Where its peers find it; 0: it does not say."""
    holds: bool = False
    """A primary: transactions are sent before they are committed; COMMITTED says what may be shown."""
    zone: str = ""
    """Where it stands, as its own configuration says."""

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of a HELLO frame."""
        return {
            "protocol": self.oldest_protocol,  # all that nodes of the first version look at
            "newestProtocol": self.protocol,
            "capabilities": list(self.capabilities),
            "clusterID": self.cluster_id,
            "nodeID": format_node_id(self.node_id),
            "name": self.name,
            "epoch": self.epoch,
            "version": self.version,
            "holds": self.holds,
            "zone": self.zone,
            "port": self.port,
        }

    @classmethod
    def from_wire(cls, value: dict[str, Any]) -> Hello:
        """Read a HELLO object.

        Raises:
            WireError: no protocol in common, or a field of the wrong kind.
        """
        oldest, newest = value.get("protocol"), value.get("newestProtocol", value.get("protocol"))
        if not _is_number(oldest) or not _is_number(newest) or negotiate(oldest, newest) is None:
            spoken = f"{OLDEST_PROTOCOL} to {PROTOCOL}" if OLDEST_PROTOCOL != PROTOCOL else str(PROTOCOL)
            raise WireError("protocol", f"{oldest} to {newest}", f"this node speaks protocol {spoken}")
        texts = [value.get(key, "") for key in ("clusterID", "nodeID", "name", "version", "zone")]
        epoch = value.get("epoch", 0)
        if not all(isinstance(t, str) and len(t) <= 256 for t in texts) or not isinstance(epoch, int):
            raise WireError("hello", sorted(value)[:8], "a field is missing or of the wrong kind")
        try:
            node_id = parse_node_id(texts[1])
            if texts[0]:
                check_cluster_id(texts[0])
        except FormatError as error:
            raise WireError("hello", texts[:2], str(error)) from error
        capabilities = _capabilities(value.get("capabilities", []))
        port = value.get("port", 0)
        port = port if _is_number(port) and 0 < port < 1 << 16 else 0
        return cls(
            texts[0],
            node_id,
            texts[2],
            epoch,
            texts[3],
            newest,
            oldest,
            capabilities,
            port,
            value.get("holds") is True,
            texts[4],
        )

    def spoken(self) -> int:
        """The protocol of a stream with this peer."""
        found = negotiate(self.oldest_protocol, self.protocol)
        assert found is not None, "from_wire lets no other peer in"
        return found


def negotiate(oldest: int, newest: int, own: tuple[int, int] = (OLDEST_PROTOCOL, PROTOCOL)) -> int | None:
    """The newest protocol that is in both ranges; None when they do not meet."""
    common = min(newest, own[1])
    return common if common >= max(oldest, own[0]) else None


def _capabilities(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_CAPABILITIES:
        raise WireError("capabilities", str(value)[:64], f"expected a list of at most {MAX_CAPABILITIES}")
    if not all(isinstance(text, str) and 0 < len(text) <= 64 for text in value):
        raise WireError("capabilities", str(value)[:64], "expected short texts")
    return tuple(value)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def make_cluster_id(random_bytes: bytes) -> str:
    """A new cluster id from eight random bytes."""
    return f"LFSC{int.from_bytes(random_bytes[:8], 'big'):016X}"


def check_cluster_id(text: str) -> str:
    """Return the text.

    Raises:
        FormatError: not ``LFSC`` and 16 upper-case hex digits.
    """
    if _CLUSTER_ID.fullmatch(text) is None:
        raise FormatError("cluster id", text[:64], "expected LFSC and 16 upper-case hex digits")
    return text


def meet(own: Hello, other: Hello) -> str | None:
    """Check the peer of a stream; returns the cluster id to adopt, or None.

    Raises:
        StreamError: the peer is this node itself, or of an older epoch.
        ClusterMismatch: both have a cluster id and they differ.
    """
    if own.node_id == other.node_id:
        raise StreamError(
            f"node {other.name!r} has this node's own id {format_node_id(own.node_id)}: "
            "the address points back here, or a data directory was copied"
        )
    if own.cluster_id and other.cluster_id and own.cluster_id != other.cluster_id:
        raise ClusterMismatch(
            f"node {other.name!r} belongs to cluster {other.cluster_id}, this node to {own.cluster_id}; "
            "nothing was changed. `sqlitecluster cluster-id adopt` joins this node to the other cluster on purpose"
        )
    if not own.cluster_id and other.cluster_id:
        return other.cluster_id
    return None


def check_epoch(seen: int, other: Hello) -> int:
    """The newest epoch after meeting a primary.

    Raises:
        StreamError: the primary is of an older epoch than one already followed.
    """
    if other.epoch < seen:
        raise StreamError(f"primary {other.name!r} is of epoch {other.epoch}, this node has followed epoch {seen}")
    return other.epoch
