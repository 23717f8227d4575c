"""The certificate of the operator's own endpoint: made in memory, renewed in place.

Each operator replica makes its own, signed by the authority that all replicas share
(``secrets.ensure_operator``); pods trust that authority through ``<cluster>-trust``.
"""

from __future__ import annotations

import datetime as dt
import ssl
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from sqlitecluster.identity.context import LiveContext, load_chain, server_context
from sqlitecluster_operator.identity import ca
from sqlitecluster_operator.identity.ca import Authority, Names

LIFETIME: Final = dt.timedelta(days=7)


class Serving:
    """``context`` is what the listener uses; ``renew`` puts a new certificate into it when one is due."""

    def __init__(self, url: str) -> None:
        self.names = Names(hosts(url))
        self.context = LiveContext(ssl.PROTOCOL_TLS_SERVER)
        self._renew_at: dt.datetime | None = None
        self._signer = b""

    def renew(self, authority: Authority, now: dt.datetime) -> bool:
        """A new certificate when there is none, when a third of its life is left, or after a rotation."""
        signer = authority.current.certificate
        if self._renew_at is not None and now < self._renew_at and signer == self._signer:
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        pem, end = ca.sign(authority, key.public_key(), self.names, now, LIFETIME)
        context = server_context()
        load_chain(context, ca.private_pem(key) + pem)
        self.context.use(context)
        self._renew_at, self._signer = now + (end - now) * 2 / 3, signer
        return True


def hosts(url: str) -> tuple[str, ...]:
    """Names by which pods may call the endpoint: the URL's host, and the longer forms of a service name."""
    host = urlsplit(url).hostname or "localhost"
    found = [host]
    if host.endswith(".svc"):
        found.append(host + ".cluster.local")
    elif host.endswith(".svc.cluster.local"):
        found.append(host.removesuffix(".cluster.local"))
    return tuple(found)
