"""Who belongs to this node's cluster, and TLS contexts that let nobody else in.

Used by ``identity``. A certificate of the cluster's authority is not enough: it has to name a
pod of this very cluster (a static configuration that names none trusts its authority alone).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.identity.certificates import Held, pod_of_peer
from sqlitecluster.identity.context import Check, checked_by


@dataclass(frozen=True, slots=True)
class Members:
    """The pods of one cluster."""

    pod: str
    """This node's own."""
    cluster: tuple[str, str] | None
    """(namespace, name); None when certificates name no pods."""
    domain: str = ""
    """Server name of pod P is P.<domain>."""

    @classmethod
    def of(cls, config: NodeConfig) -> Members:
        """From the configuration: ``identity.cluster``, or what the election says."""
        assert config.identity is not None
        namespace, _, name = config.identity.cluster.partition("/")
        domain = ""
        if config.election is not None:
            namespace, name = namespace or config.election.namespace, name or config.election.cluster
            domain = config.election.peer_domain
        if not name:
            return cls(config.name, None)
        return cls(config.name, (namespace, name), domain or f"{name}-pods.{namespace}.svc")

    def server_name(self, pod: str) -> str:
        """The name in a pod's certificate; empty when certificates name no pods, or the pod is unknown."""
        return f"{pod}.{self.domain}" if self.cluster and pod else ""

    def check(self, certificate: Mapping[str, Any]) -> None:
        """Called within each handshake with the verified peer's certificate.

        Raises:
            ssl.SSLCertVerificationError: it is no pod of this cluster.
        """
        if self.cluster is None:
            return
        pod = pod_of_peer(certificate)
        if pod is None or pod[:2] != self.cluster:
            names = [value for _, value in certificate.get("subjectAltName", ())][:4]
            raise ssl.SSLCertVerificationError(f"the peer {names} is no pod of {'/'.join(self.cluster)}")


class PeerContext(ssl.SSLContext):
    """A context with one certificate; it never changes, a newer one takes its place."""

    ends_s: float = 0.0
    """End of its certificate, in seconds since the epoch."""

    @classmethod
    def server(cls, held: Held, trust: bytes, members: Members) -> Self:
        """Clients must bring a certificate of a member."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        context._load(held, trust, members.check)
        return context

    @classmethod
    def client(cls, held: Held, trust: bytes, members: Members) -> Self:
        """The server must be a member, and the one whose name was dialled."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._load(held, trust, members.check)
        return context

    def _load(self, held: Held, trust: bytes, check: Check) -> None:
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.sslobject_class = checked_by(check)
        self.load_verify_locations(cadata=trust.decode("ascii", "replace"))
        self.load_cert_chain(held.certificate, held.key)
        self.ends_s = held.end_s
