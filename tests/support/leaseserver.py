"""A small API server for Leases and Pods: resourceVersion, watch, merge patch; in memory.

What it answers is compared with the real one (``tests/unit/election/test_contract.py``).
``LeaseServer`` runs in a thread of its own, so that lanes can freeze it and look into it.

    freeze   requests are accepted and not answered; what was sent meanwhile is carried out
             at the thaw, as it is with a stopped process
    cut      the same for those alone who came through one of the ``door``s
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Self

from aiohttp import web

Object = dict[str, Any]
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases"
PODS = "/api/v1/namespaces/{ns}/pods"
_NAMES = {"leases": "leases.coordination.k8s.io", "pods": "pods"}


class Refused(Exception):
    """A Status object instead of an answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Objects:
    """All objects, by (kind, namespace, name); every change gets the next resourceVersion."""

    def __init__(self) -> None:
        self.version = 1000
        self.items: dict[tuple[str, str, str], Object] = {}
        self.watchers: dict[asyncio.Queue[tuple[str, Object]], tuple[str, str]] = {}

    def get(self, kind: str, ns: str, name: str) -> Object:
        found = self.items.get((kind, ns, name))
        if found is None:
            raise Refused(404, "NotFound", f'{_NAMES[kind]} "{name}" not found')
        return found

    def create(self, kind: str, ns: str, value: Object) -> Object:
        name = str(value.get("metadata", {}).get("name", ""))
        if (kind, ns, name) in self.items:
            raise Refused(409, "AlreadyExists", f'{_NAMES[kind]} "{name}" already exists')
        value = copy.deepcopy(value)
        value["metadata"] |= {"namespace": ns, "uid": value["metadata"].get("uid") or str(uuid.uuid4())}
        value["metadata"]["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._store("ADDED", kind, ns, name, value)

    def put(self, kind: str, ns: str, name: str, value: Object) -> Object:
        have, value = self.get(kind, ns, name), copy.deepcopy(value)
        meta = value.setdefault("metadata", {})
        if not meta.get("resourceVersion"):
            raise Refused(422, "Invalid", f'{_NAMES[kind]} "{name}" is invalid: metadata.resourceVersion: must be set')
        changed = "the object has been modified; please apply your changes to the latest version and try again"
        if meta["resourceVersion"] != have["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {_NAMES[kind]} "{name}": {changed}')
        if meta.get("uid", have["metadata"]["uid"]) != have["metadata"]["uid"]:
            raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {_NAMES[kind]} "{name}": UID mismatch')
        for key in ("uid", "namespace", "name", "creationTimestamp"):
            meta[key] = have["metadata"][key]
        return have if value == have else self._store("MODIFIED", kind, ns, name, value)

    def patch(self, kind: str, ns: str, name: str, change: Object) -> Object:
        have = self.get(kind, ns, name)
        value = _merge(copy.deepcopy(have), change)
        return have if value == have else self._store("MODIFIED", kind, ns, name, value)

    def delete(self, kind: str, ns: str, name: str) -> Object:
        value = self.get(kind, ns, name)
        del self.items[kind, ns, name]
        self.version += 1
        self._tell("DELETED", kind, ns, value)
        return value

    def _store(self, event: str, kind: str, ns: str, name: str, value: Object) -> Object:
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        self.items[kind, ns, name] = value
        self._tell(event, kind, ns, value)
        return value

    def _tell(self, event: str, kind: str, ns: str, value: Object) -> None:
        for queue, wanted in self.watchers.items():
            if wanted == (kind, ns):
                queue.put_nowait((event, value))


class LeaseServer:
    """The server; a context manager."""

    def __init__(self, port: int = 0) -> None:
        self.objects = Objects()
        self.url = ""
        self.requests = 0
        self._port = port
        self._thawed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="leaseserver", daemon=True)
        self._ready = threading.Event()
        self._runner: web.AppRunner | None = None
        self._doors: dict[str, int] = {}
        self._open: dict[int, asyncio.Event] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        for name in self._doors:
            self.mend(name)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    # -- for tests -------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run something in the server's thread."""

        async def run() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def freeze(self) -> None:
        """Answer nothing."""
        self._loop.call_soon_threadsafe(self._thawed.clear)

    def thaw(self) -> None:
        """Go on."""
        self._loop.call_soon_threadsafe(self._thawed.set)

    def door(self, name: str) -> str:
        """An address of one client's own."""
        port = asyncio.run_coroutine_threadsafe(self._listen(0), self._loop).result(30)
        self._doors[name] = port
        self._open[port] = asyncio.Event()
        self.mend(name)
        return f"http://127.0.0.1:{port}"

    def cut(self, name: str) -> None:
        """Answer nothing through a door."""
        self._loop.call_soon_threadsafe(self._open[self._doors[name]].clear)

    def mend(self, name: str) -> None:
        """Go on."""
        self._loop.call_soon_threadsafe(self._open[self._doors[name]].set)

    def lease(self, ns: str, name: str) -> Object | None:
        """The Lease as it is now."""
        found = self.objects.items.get(("leases", ns, name))
        return copy.deepcopy(found) if found is not None else None

    def wait(self, ns: str, name: str, look: Callable[[Object], bool], limit_s: float) -> Object | None:
        """Wait for a state of the Lease."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            value = self.lease(ns, name)
            if value is not None and look(value):
                return value
            time.sleep(0.02)
        return None

    # -- server ----------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _start(self) -> None:
        self._thawed.set()
        app = web.Application(middlewares=[self._around])
        for kind, base in (("leases", LEASES), ("pods", PODS)):
            app.router.add_get(base, self._list(kind))
            app.router.add_post(base, self._change(kind, "create"))
            app.router.add_get(base + "/{name}", self._change(kind, "get"))
            app.router.add_put(base + "/{name}", self._change(kind, "put"))
            app.router.add_patch(base + "/{name}", self._change(kind, "patch"))
            app.router.add_delete(base + "/{name}", self._change(kind, "delete"))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        self.url = f"http://127.0.0.1:{await self._listen(self._port)}"

    async def _listen(self, port: int) -> int:
        assert self._runner is not None
        before = {address[1] for address in self._runner.addresses}
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        return int(next(address[1] for address in self._runner.addresses if address[1] not in before))

    async def _answers(self, request: web.Request) -> None:
        """Wait until this client may have an answer."""
        await self._thawed.wait()
        name = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if name is not None and name[1] in self._open:
            await self._open[name[1]].wait()

    async def _stop(self) -> None:
        for queue in list(self.objects.watchers):
            queue.put_nowait(("END", {}))
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _around(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests += 1
        await request.read()
        await self._answers(request)
        try:
            return await handler(request)
        except Refused as error:
            value = {"kind": "Status", "status": "Failure", "reason": error.reason, "code": error.status}
            return web.json_response({**value, "message": str(error)}, status=error.status)

    def _change(self, kind: str, verb: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            ns = request.match_info["ns"]
            arguments: list[Any] = [kind, ns]
            if verb != "create":
                arguments.append(request.match_info["name"])
            if verb in ("create", "put", "patch"):
                arguments.append(json.loads(await request.read()))
            value = getattr(self.objects, verb)(*arguments)
            return web.json_response(value, status=201 if verb == "create" else 200)

        return handle

    def _list(self, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            ns = request.match_info["ns"]
            chosen = _selector(request)
            if request.query.get("watch") == "true":
                return await self._watch(request, kind, ns, chosen)
            items = [v for (k, n, _), v in self.objects.items.items() if (k, n) == (kind, ns) and chosen(v)]
            return web.json_response({"items": items, "metadata": {"resourceVersion": str(self.objects.version)}})

        return handle

    async def _watch(
        self, request: web.Request, kind: str, ns: str, chosen: Callable[[Object], bool]
    ) -> web.StreamResponse:
        queue: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        for (k, n, _), value in self.objects.items.items():
            if (k, n) == (kind, ns):
                queue.put_nowait(("ADDED", value))
        self.objects.watchers[queue] = (kind, ns)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", "300"))):
                while True:
                    event, value = await queue.get()
                    if event == "END":
                        break
                    await self._answers(request)
                    if chosen(value):
                        await response.write(json.dumps({"type": event, "object": value}).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
        finally:
            del self.objects.watchers[queue]
        return response


def _selector(request: web.Request) -> Callable[[Object], bool]:
    labels = dict(part.split("=", 1) for part in request.query.get("labelSelector", "").split(",") if part)
    field = request.query.get("fieldSelector", "")
    name = field.removeprefix("metadata.name=") if field else ""

    def chosen(value: Object) -> bool:
        meta = value["metadata"]
        have = meta.get("labels") or {}
        return (not name or meta["name"] == name) and all(have.get(k) == v for k, v in labels.items())

    return chosen


def _merge(value: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    found = dict(value) if isinstance(value, dict) else {}
    for key, part in change.items():
        if part is None:
            found.pop(key, None)
        else:
            found[key] = _merge(found.get(key), part)
    return found
