"""TLS contexts that change under a listener, and the check of the peer inside the handshake.

Used by ``identity`` for peers and by the operator for its endpoint. Imports nothing but the
standard library.

Rules:
    1. TLS 1.3 only, no session tickets: every connection proves itself anew.
    2. A ``LiveContext`` never changes what a connection has begun with; the next connection
       uses the newest keys and the newest trust. An authority that is no longer trusted can
       be left out this way, which no living ``SSLContext`` allows.
    3. A peer that ``check`` refuses is refused before the handshake counts as done: nothing
       above TLS ever sees it, and not one byte of a response is made.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Mapping[str, Any]], None]
"""Gets the peer's certificate as ``getpeercert`` gives it; raises ``ssl.SSLCertVerificationError``."""


class LiveContext(ssl.SSLContext):
    """Stands for a context that is replaced now and then."""

    _now: ssl.SSLContext | None = None

    def use(self, context: ssl.SSLContext) -> None:
        """From now on new connections use this one."""
        self._now = context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection (asyncio)."""
        return self._present().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Begin a connection (sockets)."""
        return self._present().wrap_socket(*args, **kwargs)

    def _present(self) -> ssl.SSLContext:
        if self._now is None:
            raise ssl.SSLError("this side has no certificate yet")
        return self._now


def server_context() -> ssl.SSLContext:
    """For a listener whose clients need no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    return context


def client_context() -> ssl.SSLContext:
    """For a connection without a certificate of one's own; the server's name is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a key and its certificates from memory; Python's interface knows only files."""
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def checked_by(check: Check) -> type[ssl.SSLObject]:
    """An ``SSLObject`` whose handshake ends only when ``check`` accepts the peer."""

    class CheckedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self.getpeercert() or {})

    return CheckedObject
