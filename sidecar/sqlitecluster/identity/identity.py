"""Who this node is, and whom it talks to: certificates kept fresh, contexts that follow them.

Made by the replicator when the configuration has ``identity``; ``NodeServices.identity`` is
how listeners, the stream client and the election's queries find it (None: plain HTTP).

Rules:
    1. A certificate is renewed after 2/7 of its life, with jitter; when nobody signs, the
       present one is used until it ends, and asking goes on.
    2. ``start`` never fails for want of a signer: a node with its old certificate works, one
       without any refuses and is refused until it gets one.
    3. The projected trust bundle alone says who is trusted. A certificate that it does not
       cover is renewed at once: the authority was made anew.
    4. A connection ends when the first of both certificates that it began with ends:
       ``ends`` tells when, whoever owns the connection makes a new one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Final, Protocol

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.errors import IdentityError
from sqlitecluster.identity import certificates, signer
from sqlitecluster.identity.certificates import Held
from sqlitecluster.identity.context import LiveContext
from sqlitecluster.identity.files import Kept, Projected, read
from sqlitecluster.identity.peers import Members, PeerContext

log = logging.getLogger(__name__)

FIRST_S: Final = 12.0
"""So long a start waits for the first certificate."""
LOOK_S: Final = 1.0
_RETRY_MAX_S: Final = 300.0
_PATIENCE_S: Final = (5.0, 10.0)
"""Between two certificates that the trust bundle does not cover: kubelet is a little behind."""
_CODE: Final = "NoCertificate"


class Problems(Protocol):
    """Where an operator reads what is wrong."""

    def report(self, code: str, message: str, database: str = "") -> None: ...
    def clear(self, code: str, database: str = "") -> None: ...


class Identity:
    """The identity of one node."""

    def __init__(self, config: NodeConfig, problems: Problems, now: Callable[[], float] = time.time) -> None:
        assert config.identity is not None
        self._settings = config.identity
        self._problems, self._now = problems, now
        self._projected = Projected(self._settings.directory, self._settings.operator_url)
        self._kept = Kept(config.data_dir)
        self.members = Members.of(config)
        self._server = LiveContext(ssl.PROTOCOL_TLS_SERVER)
        self._client = LiveContext(ssl.PROTOCOL_TLS_CLIENT)
        self._held: Held | None = None
        self._trust = b""
        self._planned_s = self._renew_s = 0.0
        self._failures = 0
        self._obtained_s = 0.0
        self._said = ""
        self._task: asyncio.Task[None] | None = None
        self.renewals = 0
        """Certificates obtained by this process."""

    # -- for others ------------------------------------------------------------------

    def server_context(self) -> ssl.SSLContext:
        """For the peers' listener; stays right for the listener's whole life."""
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """For connections to peers; stays right."""
        return self._client

    def peer_name(self, transport: asyncio.BaseTransport | None) -> str | None:
        """The pod at the other end of a connection; None without TLS, or when certificates name no pods."""
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        pod = certificates.pod_of_peer(certificate) if certificate else None
        return pod[2] if pod else None

    def ends(self, transport: asyncio.BaseTransport | None) -> float | None:
        """Seconds since the epoch until which a connection may live: the end of the first certificate."""
        if transport is None or (certificate := transport.get_extra_info("peercert")) is None:
            return None
        context = transport.get_extra_info("ssl_object").context
        own = context.ends_s if isinstance(context, PeerContext) else self._now()
        return min(own, float(ssl.cert_time_to_seconds(certificate["notAfter"])))

    def server_name(self, pod: str, host: str) -> str:
        """The name that a pod's certificate must bear; its host name when certificates name no pods."""
        return self.members.server_name(pod) or host

    @property
    def not_after_s(self) -> float:
        """End of the present certificate; 0 without one."""
        return self._held.end_s if self._held else 0.0

    # -- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Use what is kept; without it, ask for a certificate for a while."""
        if not self._is_static and (pem := self._kept.load()) is not None:
            self._take_kept(pem)
        deadline = time.monotonic() + FIRST_S
        self._follow()  # with a certificate that is still good nobody waits for the next one
        while not self._usable() and time.monotonic() < deadline:
            await self._look()
            await asyncio.sleep(0 if self._usable() else LOOK_S / 4)
        self._task = asyncio.create_task(self._run(), name="identity")

    async def stop(self) -> None:
        """No more renewals."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception:
                log.exception("identity: the look failed; the next one follows")

    async def _look(self) -> None:
        """Follow the files; renew when it is time."""
        self._follow()
        if not self._is_static and self._now() >= self._renew_s:
            await self._renew()
        if self._usable() and not self._failures:
            self._problems.clear(_CODE)

    def _follow(self) -> None:
        """Use what the files say now."""
        held, trust = self._held, self._trust
        try:
            trust = self._read_trust()
            held = self._read_static() if self._is_static else held
        except IdentityError as error:
            self._report(str(error))
        if (held, trust) != (self._held, self._trust):
            self._use(held, trust)

    async def _renew(self) -> None:
        cluster, lifetime_s = "/".join(self.members.cluster or ("", "")), self._settings.lifetime_s
        try:
            held = await signer.obtain(self._projected, self._kept, cluster, self.members.pod, lifetime_s)
            await asyncio.to_thread(self._kept.save, held.pem)
        except (IdentityError, OSError) as error:
            self._failures += 1
            self._renew_s = self._now() + self._pause()
            self._report(str(error))
            return
        self._failures, self._said = 0, ""
        self.renewals += 1
        self._obtained_s = self._now()
        self._use(held, self._trust)

    # -- parts -----------------------------------------------------------------------

    @property
    def _is_static(self) -> bool:
        return self._settings.cert_file is not None

    def _usable(self) -> bool:
        return self._held is not None and bool(self._trust) and self._now() < self._held.end_s

    def _take_kept(self, pem: bytes) -> None:
        try:
            held = certificates.read_held(pem, self._kept.path)
        except IdentityError as error:
            log.warning("the kept certificate is not used: %s", error)
            return
        if held.pod == (*(self.members.cluster or ()), self.members.pod):
            self._use(held, self._trust)
        else:
            log.warning("the kept certificate is of %s, not of this pod; it is not used", held.pod)

    def _read_trust(self) -> bytes:
        file = self._settings.ca_file
        return read(file) if file is not None else self._projected.trust()

    def _read_static(self) -> Held:
        assert self._settings.cert_file is not None
        pem = read(self._settings.cert_file)
        key = self._settings.key_file
        text = (read(key) if key is not None else b"") + pem
        return certificates.read_held(text, self._settings.cert_file, key)

    def _use(self, held: Held | None, trust: bytes) -> None:
        """New connections use these."""
        try:
            if held is not None and trust:
                self._server.use(PeerContext.server(held, trust, self.members))
                self._client.use(PeerContext.client(held, trust, self.members))
        except (ssl.SSLError, ValueError) as error:
            self._report(f"certificate or trust bundle cannot be used: {error}")
            return
        before, self._held, self._trust = self._held, held, trust
        if held is None:
            return
        self._planned_s = self._renew_s = self._plan(held)
        if held != before:
            log.info("certificate until %s", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(held.end_s)))

    def _plan(self, held: Held) -> float:
        """When to renew: in time, or soon when nobody would trust the certificate."""
        at = held.renew_s(self._settings.lifetime_s)
        if self._trust and not certificates.is_issued_by(held, self._trust):
            log.warning("the trust bundle does not cover this node's certificate; asking for another")
            return max(self._now(), self._obtained_s + random.uniform(*_PATIENCE_S))
        return at + random.uniform(0.0, 0.05) * (held.end_s - at)

    def _pause(self) -> float:
        """Between two tries: longer each time, but short against what is left of the certificate."""
        left = max(0.0, self.not_after_s - self._now())
        longest = min(_RETRY_MAX_S, left / 10) if left else 10.0
        return min(2.0 ** min(self._failures, 10), max(longest, 1.0)) * random.uniform(0.7, 1.3)

    def _report(self, why: str) -> None:
        """A problem for people when nobody is let in, or when a fifth of the time left for it has passed."""
        late_s = self._now() - self._planned_s
        if not self._usable():
            self._problems.report(_CODE, f"this node has no valid certificate, peers refuse it: {why}")
        elif late_s > (self.not_after_s - self._planned_s) / 5:
            text = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.not_after_s))
            self._problems.report(_CODE, f"the certificate is not renewed; it is good until {text}: {why}")
        elif why != self._said:
            log.warning("identity: %s", why)
        self._said = why
