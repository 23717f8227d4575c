"""Requests to the API of Kubernetes, through the ``kubernetes`` client's configuration and connections.

The client blocks, so requests run in a small pool of threads; each has a time-out. Answers are
plain dicts. Failures become one of the errors below, by one table; who calls decides what follows.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlencode

import kubernetes.client
import kubernetes.config
import urllib3

from sqlitecluster_operator import names
from sqlitecluster_operator.runtime.kinds import Kind

log = logging.getLogger(__name__)

Object = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
THREADS: Final = 8
TIMEOUT_S: Final = 15.0
PAGE: Final = 100
REVIEW: Final = Kind("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False)


class APIError(Exception):
    """A request that did not succeed.

    NotFound
    Conflict        the object is newer than what was sent, or exists already
    Forbidden       not allowed; the text is the API server's
    Refused         not accepted as it is: an admission rule, a field; the text is the API server's
    Unavailable     no answer, or one that asks to come again later
    """

    def __init__(self, message: str, status: int = 0, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.progressed = False
        """Something was done before this happened: another try need not wait long."""


class NotFound(APIError):
    """There is no such object."""


class Conflict(APIError):
    """The object is newer than what was sent, another manager has the field, or it exists already."""

    old_news = True
    """Worth another try at once: the next look sees the newer object."""


class Forbidden(APIError):
    """The operator, or the object, is not allowed here."""


class Refused(APIError):
    """The object is not accepted as it is."""


class Unavailable(APIError):
    """No answer, or one that asks to come again later."""


_ERRORS: Final[Mapping[int, type[APIError]]] = {
    400: Refused,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Refused,
    415: Refused,
    422: Refused,
}


class API:
    """Objects of one API server."""

    def __init__(self, client: kubernetes.client.ApiClient, threads: int = THREADS) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self.calls: Counter[str] = Counter()
        """How many requests were sent, by verb and kind."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object."""
        return await self._request("get", "GET", kind, kind.path(namespace, name))

    async def list(self, kind: Kind, namespace: str = "", **query: str) -> tuple[list[Object], int]:
        """The objects of a namespace (or of all), and the resourceVersion of the list.

        ``query``: labelSelector, fieldSelector.
        """
        parameters, version = {"limit": str(PAGE), **query}, 0
        found: list[Object] = []
        while True:
            page = await self._request("list", "GET", kind, kind.path(namespace), parameters)
            meta = page.get("metadata") or {}
            version = version or int(meta.get("resourceVersion") or 0)
            found += page.get("items") or ()
            if not meta.get("continue"):
                return found, version
            parameters["continue"] = meta["continue"]

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Make an object; it must not exist."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._request("create", "POST", kind, kind.path(namespace), query, body)

    async def apply(self, kind: Kind, body: Object) -> Object:
        """Server-side apply: our fields become what ``body`` says, all others stay."""
        meta = body["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        path = kind.path(meta.get("namespace", ""), meta["name"])
        return await self._request("apply", "PATCH", kind, path, query, body, APPLY)

    async def patch(self, kind: Kind, namespace: str, name: str, body: Object, subresource: str = "") -> Object:
        """Merge patch. With metadata.resourceVersion or metadata.uid in ``body`` it is conditional."""
        query = {"fieldManager": names.FIELD_MANAGER}
        path = kind.path(namespace, name, subresource)
        return await self._request("patch", "PATCH", kind, path, query, body, MERGE)

    async def replace(self, kind: Kind, body: Object) -> Object:
        """Replace an object; conditional on its resourceVersion."""
        meta = body["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER}
        path = kind.path(meta.get("namespace", ""), meta["name"])
        return await self._request("update", "PUT", kind, path, query, body)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, grace_s: int | None = None) -> Object:
        """Delete the object with this uid, and no later one of the same name; returns what is left of it."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        return await self._request("delete", "DELETE", kind, kind.path(namespace, name), {}, body)

    async def review(self, token: str, audience: str) -> Object:
        """``status`` of a TokenReview."""
        body = {
            "apiVersion": REVIEW.api_version,
            "kind": REVIEW.name,
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._request("create", "POST", REVIEW, REVIEW.path(), {}, body)
        return dict(answer.get("status") or {})

    def close(self) -> None:
        """Begin nothing new; requests that are under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _request(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        self.calls[f"{verb} {kind.plural}"] += 1
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._send, method, path, query or {}, body, content_type)

    def _send(self, method: str, path: str, query: Mapping[str, str], body: Object | None, content_type: str) -> Object:
        headers = {"Accept": "application/json", "User-Agent": names.FIELD_MANAGER}
        if body is not None:
            headers["Content-Type"] = content_type
        bearer = self._client.configuration.auth_settings().get("BearerToken")  # renewed from its file when due
        if bearer:
            headers["Authorization"] = str(bearer["value"])
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self._client.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=json.dumps(body).encode() if body is not None else None,
                timeout=urllib3.Timeout(connect=5.0, read=TIMEOUT_S),
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"{method} {path}: {error}") from error
        return _understand(method, path, answer.status, answer.data, answer.headers.get("Retry-After"))


def configuration(kubeconfig: str | None) -> kubernetes.client.Configuration:
    """How to reach the API: by a kubeconfig; without one from inside the cluster, else the default kubeconfig."""
    made = kubernetes.client.Configuration()
    if kubeconfig:
        kubernetes.config.load_kube_config(kubeconfig, client_configuration=made)  # type: ignore[no-untyped-call]
    else:
        try:
            kubernetes.config.load_incluster_config(made)  # type: ignore[no-untyped-call]
        except kubernetes.config.ConfigException:
            kubernetes.config.load_kube_config(client_configuration=made)  # type: ignore[no-untyped-call]
    made.connection_pool_maxsize = THREADS
    return made


def connect(configured: kubernetes.client.Configuration) -> API:
    """The API of a configuration."""
    return API(kubernetes.client.ApiClient(configured))


def error_from(status: int, message: str, reason: str = "", retry_after: str | None = None) -> APIError:
    """The error behind an HTTP status."""
    kind = _ERRORS.get(status, Unavailable)
    wait = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return kind(message, status, reason, wait)


def _understand(method: str, path: str, status: int, data: bytes, retry_after: str | None) -> Object:
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        answer = {"message": data[:200].decode(errors="replace")}
    if status < 300 and isinstance(answer, dict):
        return answer
    known = answer if isinstance(answer, dict) else {}
    message = str(known.get("message") or f"{method} {path}: HTTP {status}")
    log.debug("%s %s: HTTP %d: %s", method, path, status, message)
    raise error_from(status, message, str(known.get("reason") or ""), retry_after)
