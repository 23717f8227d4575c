"""The HTTP servers of a node: local API, metrics, peers.

    api      GET /info /metrics /healthz /events /export /wait /verify /cluster-id, POST /import /cluster-id
    metrics  GET /metrics /healthz /info
    peers    POST /stream, GET /info /healthz /pages /ltx

Rules:
    1. Every error is ``{"code", "message"}`` with the status of ``errors``.
    2. What reads disks, locks or large files runs in an executor thread.
    3. A body is never held in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from aiohttp import web

from sqlitecluster.errors import (
    BadName,
    ClusterMismatch,
    FormatError,
    NoSuchDatabase,
    NotADatabase,
    NotPrimary,
    PositionMismatch,
    PreflightError,
    SQLiteClusterError,
    Unavailable,
    WaitTimeout,
)
from sqlitecluster.replication.lineage import check_cluster_id
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import metrics, peers
from sqlitecluster.replicator.copy import Copy, copy_database
from sqlitecluster.replicator.events import EventHub
from sqlitecluster.replicator.info import NodeView
from sqlitecluster.replicator.snapshot_send import Pages
from sqlitecluster.units import check_database_name

if TYPE_CHECKING:
    import ssl

    from sqlitecluster.replicator.dispatch import Committed
    from sqlitecluster.replicator.peer_pages import PeerPages
    from sqlitecluster.replicator.role_api import RoleApi
    from sqlitecluster.replicator.verify_api import VerifyApi
    from sqlitecluster.store.database import DatabaseStore

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAGIC: Final = b"SQLite format 3\0"
_COPY_BYTES: Final = 1 << 20
_WAIT_S: Final = 30.0
_MAX_WAIT_S: Final = 3600.0
_imports = itertools.count()


@dataclass(slots=True)
class Api:
    """Handlers, and what they need."""

    view: NodeView
    events: EventHub
    executor: Executor
    read_pages: Callable[[DatabaseStore], Pages]
    import_image: Callable[[str, Path], Position] | None
    """Only on a primary."""
    stream: Handler
    adopted: Callable[[], None]
    """Called when the cluster id was changed by hand."""
    roles: RoleApi | None = None
    """Routes about roles."""
    copies: PeerPages | None = None
    """Good pages and transactions for other nodes."""
    verifying: VerifyApi | None = None
    """Verifying on demand."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # -- applications ----------------------------------------------------------------

    def local(self) -> web.Application:
        """The local API."""
        app = _application()
        app.router.add_get("/info", self.info)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/events", self.event_stream)
        app.router.add_get("/export", self.export)
        app.router.add_get("/wait", self.wait)
        app.router.add_get("/cluster-id", self.cluster_id)
        app.router.add_post("/cluster-id", self.adopt)
        app.router.add_post("/import", self.import_database)
        if self.verifying is not None:
            app.router.add_routes(self.verifying.routes())
        if self.roles is not None:
            self.roles.add_local(app)
        return app

    def monitoring(self) -> web.Application:
        """Health and metrics."""
        app = _application()
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/info", self.info)
        if self.roles is not None:
            self.roles.add_monitoring(app)
        return app

    def peers(self) -> web.Application:
        """What other nodes ask."""
        app = _application()
        app.middlewares.append(self._while_certified)
        app.router.add_post("/stream", self.stream)
        app.router.add_get("/info", self.info)
        app.router.add_get("/healthz", self.healthz)
        if self.copies is not None:
            app.router.add_routes(self.copies.routes())
        if self.roles is not None:
            self.roles.add_peers(app)
        return app

    @web.middleware
    async def _while_certified(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A connection that is kept open is worth no more than the certificates that it began with."""
        if time.time() >= peers.ends_at(self.view.node.identity, request.transport):
            raise ClusterMismatch("a certificate of this connection ended; connect again")
        return await handler(request)

    # -- handlers --------------------------------------------------------------------

    async def info(self, _request: web.Request) -> web.Response:
        """GET /info."""
        value = await self._run(self.view.info)
        return web.Response(text=json.dumps(value, indent=2) + "\n", content_type="application/json")

    async def metrics(self, _request: web.Request) -> web.Response:
        """GET /metrics."""
        text = metrics.render(await self._run(self.view.samples))
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthz(self, request: web.Request) -> web.Response:
        """GET /healthz; with ``?inSync=1`` only a node in sync is healthy."""
        if request.query.get("inSync") == "1" and not self.view.in_sync:
            raise Unavailable("this node is not in sync with its primary yet")
        return web.json_response({"ok": True, **self.view.role(), "inSync": self.view.in_sync})

    async def event_stream(self, request: web.Request) -> web.StreamResponse:
        """GET /events: NDJSON until the reader goes away or is too slow."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        subscriber = self.events.subscribe()
        try:
            async for lines in subscriber.lines():
                await response.write(lines)
            await response.write_eof()
        except ConnectionError:
            log.debug("an /events reader went away")
        finally:
            self.events.unsubscribe(subscriber)
        return response

    async def cluster_id(self, _request: web.Request) -> web.Response:
        """GET /cluster-id."""
        return web.json_response({"clusterID": self.view.node.store.cluster_id()})

    async def adopt(self, request: web.Request) -> web.Response:
        """POST /cluster-id {"clusterID": …}: join another cluster on purpose."""
        try:
            value = json.loads(await request.content.read(4096))
            text = check_cluster_id(str(value["clusterID"]))
        except (ValueError, KeyError, TypeError):
            raise FormatError("body", "", 'expected {"clusterID": "LFSC…"}') from None
        before = self.view.node.store.cluster_id()
        await self._run(self.view.node.store.set_cluster_id, text)
        log.warning("cluster id changed by hand from %s to %s", before, text)
        self.adopted()
        return web.json_response({"clusterID": text, "before": before})

    async def wait(self, request: web.Request) -> web.Response:
        """GET /wait: until a position can be read here."""
        db = self._database(request)
        wanted = Position.parse(_text(request, "position"))
        timeout = _seconds(request)
        try:
            async with asyncio.timeout(timeout):
                have = await self._reached(db, wanted)
        except TimeoutError:
            have = self.view.position(db)
            raise WaitTimeout(f"{db.name} is at {have}, {wanted} was not reached within {timeout:g} s") from None
        return web.json_response({"name": db.name, "position": str(have)})

    async def export(self, request: web.Request) -> web.StreamResponse:
        """GET /export: the database as it is at one position."""
        db = self._database(request)
        folder = self.view.node.config.data_dir / "staging"
        copy: Copy = await self._run(copy_database, db, folder, self.read_pages)
        with open(copy.path, "rb") as file:
            copy.path.unlink()  # the open file is enough, and nothing is left behind whatever happens
            return await self._send_file(request, copy, file)

    async def import_database(self, request: web.Request) -> web.Response:
        """POST /import: replace a database by the body, as one transaction."""
        name = check_database_name(_text(request, "name"))
        if self.import_image is None:
            raise NotPrimary(f"import on the primary {self.view.node.state.primary_name()!r}; this node is a replica")
        folder = self.view.node.config.data_dir / "staging"
        path = folder / f"import-{next(_imports)}"
        try:
            await self._receive(request, path)
            position = await self._run(self.import_image, name, path)
        finally:
            path.unlink(missing_ok=True)
        return web.json_response({"name": name, "position": str(position)})

    def transactions(self, _batch: list[Committed]) -> None:
        """Dispatcher listener: wake everyone in ``wait``."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- helpers ---------------------------------------------------------------------

    async def _reached(self, db: DatabaseStore, wanted: Position) -> Position:
        while True:
            changed = self._changed
            have = self.view.position(db)
            if have.txid > wanted.txid or have == wanted:
                return have
            if have.txid == wanted.txid:
                raise PositionMismatch(have, wanted)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await changed.wait()

    async def _receive(self, request: web.Request, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        head = b""
        with open(path, "wb") as file:
            async for data in request.content.iter_chunked(_COPY_BYTES):
                if len(head) < len(MAGIC):
                    head += data[: len(MAGIC)]
                    if not MAGIC.startswith(head[: len(MAGIC)]) and not head.startswith(MAGIC):
                        raise NotADatabase("header", head[:16], "the body is not a SQLite database")
                await self._run(file.write, data)
        if not head.startswith(MAGIC):
            raise NotADatabase("header", head[:16], "the body is not a SQLite database")

    async def _send_file(self, request: web.Request, copy: Copy, file: BinaryIO) -> web.StreamResponse:
        headers = {"Sqlitecluster-Position": str(copy.position), "Content-Type": "application/vnd.sqlite3"}
        response = web.StreamResponse(headers=headers)
        response.content_length = os.fstat(file.fileno()).st_size
        await response.prepare(request)
        while data := await self._run(file.read, _COPY_BYTES):
            await response.write(data)
        await response.write_eof()
        return response

    def _database(self, request: web.Request) -> DatabaseStore:
        name = check_database_name(_text(request, "name"))
        db = self.view.node.find(name)
        if db is None:
            raise NoSuchDatabase(f"there is no database {name!r} here")
        return db

    async def _run(self, call: Callable[..., Any], *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.executor, call, *args)


async def listen(app: web.Application, address: str, tls: ssl.SSLContext | None = None) -> web.AppRunner | None:
    """Serve an application, in the clear unless there is a TLS context; None when the address is empty.

    Raises:
        PreflightError: the address is not legal or taken.
    """
    if not address:
        return None
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        name = host.strip("[]") or None
        await web.TCPSite(runner, name, int(port), reuse_address=True, ssl_context=tls).start()
    except (OSError, ValueError) as error:
        await runner.cleanup()
        raise PreflightError(f"cannot listen on {address}: {error}") from error
    return runner


def _application() -> web.Application:
    return web.Application(middlewares=[_errors], client_max_size=1 << 20)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except SQLiteClusterError as error:
        return web.json_response(error.to_wire(), status=error.http_status)
    except web.HTTPException as error:
        value = {"code": f"HTTP{error.status}", "message": f"{request.method} {request.path}: {error.reason}"}
        return web.json_response(value, status=error.status)


def _text(request: web.Request, key: str) -> str:
    value = request.query.get(key, "")
    if not value:
        raise (BadName if key == "name" else functools.partial(FormatError, key, ""))(f"the parameter {key} is missing")
    return value


def _seconds(request: web.Request) -> float:
    text = request.query.get("timeout", str(_WAIT_S))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_WAIT_S:
        raise FormatError("timeout", text, f"expected 0 to {_MAX_WAIT_S:g} seconds")
    return value
