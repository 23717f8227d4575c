"""Identity as one part of the operator: its endpoint, its own authority, the step of the reconcile.

Made by the operator's main, in every replica of it (the endpoint needs no leader); the leader
calls ``ensure`` for each cluster.

Rules:
    1. ``start`` waits for the operator's authority: without it nobody could call the endpoint.
    2. Later failures of the API are tried again; the endpoint goes on with what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from sqlitecluster_operator.identity import secrets
from sqlitecluster_operator.identity.ca import Authority
from sqlitecluster_operator.identity.calls import Calls, Conflict, Object, Unreachable
from sqlitecluster_operator.identity.secrets import Cluster, Ensured
from sqlitecluster_operator.identity.server import IdentityServer, utcnow
from sqlitecluster_operator.identity.serving import Serving

log = logging.getLogger(__name__)

_RETRY_S: Final = 2.0
_LOOK_S: Final = 60.0


class IdentityService:
    """Everything about identity that the operator runs."""

    def __init__(self, api: Calls, namespace: str, url: str) -> None:
        self._api, self._namespace, self._url = api, namespace, url
        self._serving = Serving(url)
        self._authority: Authority | None = None
        self._task: asyncio.Task[None] | None = None
        self.server = IdentityServer(api, self._serving)
        self.listening = False
        """Whether pods can be served."""

    async def start(self, host: str, port: int) -> int:
        """Listen, as soon as there is an authority; returns the port."""
        while self._authority is None:
            await self._look()
            if self._authority is None:
                await asyncio.sleep(_RETRY_S)
        bound = await self.server.start(host, port)
        self.listening = True
        self._task = asyncio.create_task(self._run(), name="identity")
        return bound

    async def stop(self) -> None:
        """Stop listening."""
        self.listening = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.server.stop()

    async def ensure(self, body: Object) -> Ensured:
        """Secret and ConfigMap of one SQLiteCluster, as they have to be now.

        Raises:
            NotOurs, Conflict, Unreachable, or ValueError for a damaged Secret.
        """
        if self._authority is None:
            raise Unreachable("the operator's own certificate authority is not known yet")
        return await secrets.ensure(self._api, Cluster.of(body), self._authority, self._url, utcnow())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._look()

    async def _look(self) -> None:
        try:
            self._authority = await secrets.ensure_operator(self._api, self._namespace, utcnow())
            self._serving.renew(self._authority, utcnow())
        except (Conflict, Unreachable, ValueError) as error:
            log.warning("the operator's certificate authority: %s", error)
        except Exception:
            log.exception("the operator's certificate authority cannot be read or made")
