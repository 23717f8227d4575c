"""A proxy before the real API server that lets chosen requests fail.

Speaks plain HTTP to the operator and TLS with a client certificate to the API server.
Watches pass as streams. Each other request has a number; ``decide`` says what happens to it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

Decide = Callable[[int, str, str], str]
"""Number, method and path of a request → what happens to it: see ``FAULTS``; empty: nothing special."""

FAULTS = ("409", "429", "500", "503", "hang", "cut", "lost")
"""HTTP status; no answer; a closed connection; done, but the answer is lost."""
HANG_S = 20.0
_EXPIRED = "expired"
_GONE = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "reason": "Expired",
    "code": 410,
    "message": "too old resource version",
}
_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host", "keep-alive"}


@dataclass(slots=True)
class Seen:
    """What passed."""

    requests: int = 0
    faults: int = 0
    watches_cut: int = 0
    watches_expired: int = 0
    """Ended by an event that says 410."""
    watches_gone: int = 0
    """Refused with 410."""


class FaultProxy:
    """Runs in a thread of its own."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._upstream = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=self._upstream)  # type: ignore[no-untyped-call]
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._watches: dict[asyncio.Task[Any], str] = {}
        self._gone: set[str] = set()
        """Paths whose next watch from a known version is answered 410."""
        self.decide: Decide = lambda _number, _method, _path: ""
        self.seen = Seen()
        self.url = ""

    def start(self) -> Path:
        """Listen; returns a kubeconfig that leads through the proxy."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        path = self._folder / "proxy.kubeconfig"
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "users": [{"name": "proxy", "user": {}}],
        }
        path.write_text(yaml.safe_dump(text))
        return path

    def cut_watches(self) -> None:
        """Break the connections of all watches."""
        self._loop.call_soon_threadsafe(self._cut_watches)

    def expire_watches(self, *, answer: bool = False) -> None:
        """End all watches with 410 Gone; ``answer``: the next ones from a known version are answered so, too."""
        self._loop.call_soon_threadsafe(self._expire_watches, answer)

    def stop(self) -> None:
        """Stop listening."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        context = ssl.create_default_context(cafile=self._upstream.ssl_ca_cert)
        context.load_cert_chain(self._upstream.cert_file, self._upstream.key_file)
        self._session = ClientSession(
            connector=TCPConnector(ssl=context, limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        )
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.5)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        self._cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def _cut_watches(self) -> None:
        for task in self._watches:
            task.cancel()
            self.seen.watches_cut += 1

    def _expire_watches(self, answer: bool) -> None:
        for task, path in self._watches.items():
            task.cancel(_EXPIRED)
            if answer:
                self._gone.add(path)
            self.seen.watches_expired += 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        self.seen.requests += 1
        fault = self.decide(self.seen.requests, request.method, request.path)
        if fault:
            self.seen.faults += 1
        if fault == "hang":
            await asyncio.sleep(HANG_S)
            return _refuse(504)
        if fault == "cut":
            return _close(request)
        if fault.isdecimal():
            return _refuse(int(fault))
        status, body, headers = await self._forward(request)
        if fault == "lost":
            return _close(request)
        return web.Response(status=status, body=body, headers=headers)

    async def _forward(self, request: web.Request) -> tuple[int, bytes, dict[str, str]]:
        assert self._session is not None
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        headers["Accept-Encoding"] = "identity"
        data = await request.read() or None  # an empty body would get a content type of its own
        url = self._upstream.host + request.path_qs
        try:
            async with self._session.request(request.method, url, headers=headers, data=data) as answer:
                kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
                return answer.status, await answer.read(), kept
        except (ClientError, OSError) as error:
            return 503, json.dumps({"message": f"proxy: {error}"}).encode(), {"Content-Type": "application/json"}

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        if request.path in self._gone and request.query.get("resourceVersion"):
            self._gone.discard(request.path)
            self.seen.watches_gone += 1
            return web.json_response(_GONE, status=410)
        task = asyncio.current_task()
        assert task is not None
        self._watches[task] = request.path
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        response = web.StreamResponse()
        try:
            async with self._session.get(self._upstream.host + request.path_qs, headers=headers) as answer:
                response.set_status(answer.status)
                response.content_type = "application/json"
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
        except (ClientError, OSError, asyncio.CancelledError) as error:
            if error.args == (_EXPIRED,) and response.prepared:
                await response.write(json.dumps({"type": "ERROR", "object": _GONE}).encode() + b"\n")
                await response.write_eof()
            elif request.transport is not None:
                request.transport.close()
        finally:
            self._watches.pop(task, None)
        return response


def _refuse(status: int) -> web.Response:
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    words = {"kind": "Status", "code": status, "message": f"fault {status}", "reason": "Fault"}
    return web.json_response(words, status=status, headers=headers)


def _close(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)
