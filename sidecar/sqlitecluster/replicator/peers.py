"""Mutual TLS where streams begin: how a peer is dialled, that it is who it says, until when.

Used by both ends of a stream. All of it is nothing when the node has no identity (plain HTTP).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from sqlitecluster.errors import ClusterMismatch

if TYPE_CHECKING:
    from sqlitecluster.replicator.services import PeerIdentity

NEVER: Final = float("inf")
_EARLY: Final = 0.8
_EARLY_MIN_S: Final = 5.0


def dial(identity: PeerIdentity | None, name: str, server_name: str, host: str) -> dict[str, Any]:
    """Arguments for ``create_connection`` to a peer, whose certificate must be for that name."""
    if identity is None:
        return {}
    return {"ssl": identity.client_context(), "server_hostname": server_name or identity.server_name(name, host)}


def check_name(identity: PeerIdentity | None, transport: asyncio.BaseTransport | None, name: str) -> None:
    """The peer calls itself what its certificate says.

    Raises:
        ClusterMismatch: it presents itself as another pod.
    """
    pod = identity.peer_name(transport) if identity is not None else None
    if pod is not None and pod != name:
        raise ClusterMismatch(f"a peer with the certificate of {pod!r} says that it is {name!r}")


def ends_at(identity: PeerIdentity | None, transport: asyncio.BaseTransport | None) -> float:
    """Wall clock in seconds at which the certificates of a connection end."""
    end = identity.ends(transport) if identity is not None else None
    return NEVER if end is None else end


def renew_at(identity: PeerIdentity | None, transport: asyncio.BaseTransport | None) -> float:
    """Wall clock in seconds at which a connection is made anew: well before its certificates end, so
    that there is time for another try; when both are the old ones still, again a little later."""
    end = ends_at(identity, transport)
    if end == NEVER:
        return NEVER
    left = end - time.time()
    return time.time() + max(left * _EARLY, min(left, _EARLY_MIN_S), 1.0)
