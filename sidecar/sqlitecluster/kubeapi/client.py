"""Requests to the Kubernetes API: get, put and watch one Lease; list and label pods.

Rules:
    1. Every request has a time-out; a watch has one for silence and is asked anew.
    2. A write is a PUT with the resourceVersion that was read: the server refuses it when
       somebody wrote meanwhile (``Conflict``).
    3. Answers are limited in size; redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp

from sqlitecluster.kubeapi.credentials import Credentials
from sqlitecluster.kubeapi.errors import APIUnavailable, KubeError, Unauthorized, error_of

log = logging.getLogger(__name__)

ZONE: Final = "sqlitecluster.dev/zone"
_ANSWER_MAX: Final = 8 << 20
_WATCH_S: Final = 240
_SILENCE_S: Final = 300.0
_MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Pod:
    """What a list of pods tells about one."""

    name: str
    uid: str
    ip: str
    labels: Mapping[str, str]
    node: str = ""
    is_terminating: bool = False
    zone: str | None = None
    """Value of its annotation ``sqlitecluster.dev/zone``; None: it has none."""


class KubeAPI:
    """One namespace of one API server, asked by one pod."""

    def __init__(self, credentials: Credentials, namespace: str, timeout_s: float) -> None:
        self._credentials = credentials
        self._namespace = quote(namespace, safe="")
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get_lease(self, name: str) -> dict[str, Any]:
        """The Lease object.

        Raises:
            NotFound, Unauthorized, APIUnavailable.
        """
        return await self._request("GET", self._lease(name))

    async def put_lease(self, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the Lease; ``metadata.resourceVersion`` must be the one that was read.

        Raises:
            Conflict, NotFound, Unauthorized, APIUnavailable (it may have been written).
        """
        if not value.get("metadata", {}).get("resourceVersion"):
            raise ValueError("a Lease is only written over a version that was read")
        return await self._request("PUT", self._lease(name), value)

    async def watch_lease(self, name: str) -> AsyncIterator[dict[str, Any] | None]:
        """Each new state of the Lease as it comes, None when it is deleted; ends by itself now and then.

        Raises:
            Unauthorized, APIUnavailable.
        """
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": str(_WATCH_S)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=_SILENCE_S)
        url = f"{self._leases()}?{urlencode(query)}"
        try:
            async with self._open().get(url, headers=self._headers(), timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    self._refuse(answer.status, "watch of the Lease", answer.reason or "")
                while line := await answer.content.readline():
                    event = json.loads(line)
                    kind, value = event.get("type"), event.get("object", {})
                    if kind in ("ADDED", "MODIFIED"):
                        yield value
                    elif kind == "DELETED":
                        yield None
                    elif kind == "ERROR":
                        raise APIUnavailable(f"watch of the Lease: {value.get('message', 'ended')}", 410)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise APIUnavailable(f"watch of the Lease: {_text(error)}") from error

    async def list_pods(self, labels: Mapping[str, str]) -> list[Pod]:
        """Pods with these labels.

        Raises:
            Unauthorized, APIUnavailable.
        """
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        answer = await self._request("GET", f"{self._pods()}?{urlencode({'labelSelector': selector})}")
        return [_pod(item) for item in answer.get("items") or []]

    async def patch_pod_labels(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Set labels of a pod; None removes one.

        Raises:
            NotFound, Unauthorized, APIUnavailable.
        """
        value = {"metadata": {"labels": dict(labels)}}
        await self._request("PATCH", f"{self._pods()}/{quote(name, safe='')}", value, _MERGE_PATCH)

    # -- requests --------------------------------------------------------------------

    def _leases(self) -> str:
        return f"{self._credentials.base_url}/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"

    def _lease(self, name: str) -> str:
        return f"{self._leases()}/{quote(name, safe='')}"

    def _pods(self) -> str:
        return f"{self._credentials.base_url}/api/v1/namespaces/{self._namespace}/pods"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._credentials.ssl(), limit=8, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session

    def _headers(self) -> dict[str, str]:
        token = self._credentials.token()
        return {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    async def _request(
        self, method: str, url: str, value: Mapping[str, Any] | None = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        what = f"{method} {url.removeprefix(self._credentials.base_url).partition('?')[0]}"
        headers = self._headers()
        if value is not None:
            headers["Content-Type"] = kind
        data = json.dumps(value).encode() if value is not None else None
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._open().request(
                    method, url, data=data, headers=headers, allow_redirects=False
                ) as answer:
                    body = await _body(answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise APIUnavailable(f"{what}: {_text(error)}") from error
        if answer.status not in (200, 201):
            self._refuse(answer.status, what, _reason(body))
        try:
            found = json.loads(body)
        except ValueError as error:
            raise APIUnavailable(f"{what}: the answer is no JSON") from error
        if not isinstance(found, dict):
            raise APIUnavailable(f"{what}: the answer is no object")
        return found

    def _refuse(self, status: int, what: str, reason: str) -> None:
        error: KubeError = error_of(status, what, reason)
        if isinstance(error, Unauthorized):
            self._credentials.refused()
        raise error


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > _ANSWER_MAX:
            raise aiohttp.ClientPayloadError(f"the answer is larger than {_ANSWER_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


def _pod(item: Mapping[str, Any]) -> Pod:
    metadata, status, spec = item.get("metadata") or {}, item.get("status") or {}, item.get("spec") or {}
    return Pod(
        str(metadata.get("name", "")),
        str(metadata.get("uid", "")),
        str(status.get("podIP") or ""),
        dict(metadata.get("labels") or {}),
        str(spec.get("nodeName") or ""),
        bool(metadata.get("deletionTimestamp")),
        (metadata.get("annotations") or {}).get(ZONE),
    )


def _reason(body: bytes) -> str:
    try:
        value = json.loads(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")
    return str(value.get("message", "")) if isinstance(value, dict) else ""


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
