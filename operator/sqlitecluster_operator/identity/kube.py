"""``Calls`` over the operator's own API client."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from sqlitecluster_operator.identity.calls import Conflict, Object, Unreachable
from sqlitecluster_operator.runtime import api, kinds
from sqlitecluster_operator.runtime.kinds import Kind

SECRET: Final = Kind("v1", "Secret", "secrets")
TOKEN_REVIEW: Final = Kind("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False)
_KINDS: Final = {kind.name: kind for kind in (SECRET, kinds.CONFIG_MAP, kinds.POD, kinds.STATEFUL_SET, kinds.CLUSTER)}


class KubeCalls:
    """The calls that identity makes, as requests."""

    def __init__(self, client: api.API) -> None:
        self._client = client

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object, None when there is none."""
        try:
            return await _understood(self._client.get(_KINDS[kind], namespace, name))
        except api.NotFound:
            return None

    async def create(self, kind: str, body: Object) -> Object:
        """Make it."""
        return await _understood(self._client.create(_KINDS[kind], body["metadata"]["namespace"], body))

    async def replace(self, kind: str, body: Object) -> Object:
        """Replace it."""
        return await _understood(self._client.replace(_KINDS[kind], body))

    async def review(self, token: str, audience: str) -> Object:
        """Ask whose token it is."""
        body = {
            "apiVersion": TOKEN_REVIEW.api_version,
            "kind": TOKEN_REVIEW.name,
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await _understood(self._client.create(TOKEN_REVIEW, "", body))
        return dict(answer.get("status") or {})


async def _understood(call: Awaitable[Object]) -> Object:
    try:
        return await call
    except api.Conflict as error:
        raise Conflict(str(error)) from error
    except api.Unavailable as error:
        raise Unreachable(str(error)) from error
