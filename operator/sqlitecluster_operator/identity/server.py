"""``POST /v1/certificates``: a pod's token and signing request in, its certificate out.

    request   Authorization: Bearer <token for audience sqlitecluster.dev>
              {"csr": PEM, "cluster": "namespace/name", "lifetimeSeconds"?: number}
    answer    {"certificate": PEM, "ca": PEM bundle, "notAfter": RFC 3339}
    refusal   {"code", "message"} with 400, 401, 403, 404, 413, 429 or 503

Made and stopped by the operator's main. TLS 1.3 only; the caller proves itself by its token.

Rules:
    1. Cheap checks come first: rate by address, body, token's form; then the TokenReview,
       then the objects, then the signature.
    2. A token is never logged, stored or passed to anybody but the API server.
    3. An API server that does not answer is 503: nothing is decided without it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from sqlitecluster_operator.identity import ca, claims
from sqlitecluster_operator.identity.ca import Authority
from sqlitecluster_operator.identity.calls import Calls, Unreachable
from sqlitecluster_operator.identity.claims import Caller, Refused, Request
from sqlitecluster_operator.identity.limits import Buckets
from sqlitecluster_operator.identity.secrets import Cluster, from_secret
from sqlitecluster_operator.identity.serving import Serving

log = logging.getLogger(__name__)

_BODY_S: Final = 10.0
_REVIEW_S: Final = 10.0
_REVIEWS: Final = 16
"""TokenReviews at the same time; more callers wait, and give up after ``_REVIEW_S``."""
_BY_ADDRESS: Final = (60, 0.5)
_BY_POD: Final = (10, 5.0)


def utcnow() -> dt.datetime:
    """The time, with its zone."""
    return dt.datetime.now(dt.UTC)


class IdentityServer:
    """The endpoint."""

    def __init__(self, api: Calls, serving: Serving, now: Callable[[], dt.datetime] = utcnow) -> None:
        self._api, self._serving, self._now = api, serving, now
        self._reviews = asyncio.Semaphore(_REVIEWS)
        self._addresses = Buckets(*_BY_ADDRESS)
        self._pods = Buckets(*_BY_POD)
        self._runner: web.AppRunner | None = None
        self.issued: dict[str, int] = {}
        """Certificates by ``namespace/cluster``, for metrics."""
        self.refused: dict[str, int] = {}
        """Refusals by code, for metrics."""

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (0 asks for any)."""
        self._runner = web.AppRunner(
            self.application(), access_log=None, handler_cancellation=True, shutdown_timeout=5.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._serving.context)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=claims.MAX_BODY, middlewares=[_errors_as_json])
        app.router.add_post("/v1/certificates", self.certificates)
        return app

    async def certificates(self, request: web.Request) -> web.Response:
        """Sign for one pod."""
        try:
            return await self._certificates(request)
        except Refused as error:
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            log.warning("no certificate for %s: %s", request.remote, error.message, extra={"code": error.code})
            return refusal(error)

    async def _certificates(self, http: web.Request) -> web.Response:
        _limit(self._addresses, http.remote or "")
        token = claims.read_token(http.headers.get("Authorization"))
        request = claims.read_body(await _body(http))
        try:
            key = ca.read_request(request.csr)
        except ca.BadRequest as error:
            raise Refused(400, "InvalidRequest", str(error)) from error
        try:
            async with asyncio.timeout(_REVIEW_S):
                caller, cluster = await self._caller(token, request)
                authority = await self._authority(request)
        except (Unreachable, TimeoutError) as error:
            raise Refused(503, "Unavailable", "the API server does not answer; try again", 5) from error
        now = self._now()
        names = ca.pod_names(request.namespace, request.cluster, caller.pod)
        pem, end = ca.sign(authority, key, names, now, claims.lifetime_of(request, cluster.lifetime))
        title = f"{request.namespace}/{request.cluster}"
        self.issued[title] = self.issued.get(title, 0) + 1
        log.info("certificate for pod %s of %s until %s", caller.pod, title, end.isoformat())
        answer = {"certificate": pem.decode(), "ca": authority.bundle().decode(), "notAfter": end.isoformat()}
        return web.json_response(answer)

    async def _caller(self, token: str, request: Request) -> tuple[Caller, Cluster]:
        """The pod that asks, and its cluster; token, request and objects agree about them."""
        async with self._reviews:
            caller = claims.read_review(await self._api.review(token, claims.AUDIENCE))
        claims.check_cluster(caller, request)
        _limit(self._pods, caller.uid)
        namespace, name = request.namespace, request.cluster
        cluster = await self._api.get("SQLiteCluster", namespace, name)
        owner = await self._api.get("StatefulSet", namespace, name)
        pod = await self._api.get("Pod", namespace, caller.pod)
        if pod is None:
            raise Refused(403, "Forbidden", f"there is no pod {caller.pod}")
        return caller, Cluster.of(claims.check_objects(caller, request, cluster, owner, pod))

    async def _authority(self, request: Request) -> Authority:
        body = await self._api.get("Secret", request.namespace, f"{request.cluster}-ca")
        if body is None:
            raise Refused(503, "Unavailable", f"{request.cluster} has no certificate authority yet; try again", 2)
        try:
            return from_secret(body)
        except ValueError as error:
            raise Refused(503, "Unavailable", str(error), 30) from error


def refusal(error: Refused) -> web.Response:
    """The answer for a refusal."""
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    return web.json_response({"code": error.code, "message": error.message}, status=error.status, headers=headers)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[misc, no-any-return]
    except web.HTTPException as error:
        return web.json_response({"code": "NotFound", "message": error.reason}, status=error.status)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return web.json_response({"code": "Internal", "message": "see the operator's log"}, status=500)


def _limit(buckets: Buckets, key: str) -> None:
    wait = buckets.take(key, time.monotonic())
    if wait:
        raise Refused(429, "TooManyRequests", f"too many requests; the next in {wait} s", wait)


async def _body(http: web.Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_S):
            return await http.read()
    except TimeoutError as error:
        raise Refused(408, "TooSlow", f"the body did not come within {_BODY_S:g} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused(413, "LimitExceeded", f"the body is larger than {claims.MAX_BODY} bytes") from error


__all__ = ["IdentityServer", "refusal", "utcnow"]
