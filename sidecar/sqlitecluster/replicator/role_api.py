"""HTTP about roles: what other nodes ask before and during a hand-off, probes, and a role by hand.

    peers    GET /position, POST /handoff-ready, GET /election, POST /lease-ready
    metrics  GET /healthz/startup /healthz/ready
    api      POST /role /drain /resume /acknowledged   only with role ``elected`` and no election

``http_api`` adds these routes to its applications.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from sqlitecluster.errors import FormatError, NotCandidate, Unavailable
from sqlitecluster.replicator.health import Health
from sqlitecluster.replicator.info import NodeView
from sqlitecluster.replicator.rolechange import Roles
from sqlitecluster.replicator.services import PrimaryAddress
from sqlitecluster.replicator.stream_server import Positions, StreamHub
from sqlitecluster.units import format_node_id

if TYPE_CHECKING:
    from sqlitecluster.replicator.election_peers import Peers

MAX_BODY: Final = 4 << 20
MAX_EPOCH: Final = 10**18
_MAX_WAIT_S: Final = 600.0
_MAX_FENCE_S: Final = 10**6
_LOOK_S: Final = 0.005


@dataclass(slots=True)
class RoleApi:
    """Handlers, and what they need."""

    view: NodeView
    roles: Roles
    hub: StreamHub
    health: Health
    electing: Peers | None = None
    """Once this node takes part in an election."""

    def add_peers(self, app: web.Application) -> None:
        """Routes of the peers port."""
        app.router.add_get("/position", self.position)
        app.router.add_post("/handoff-ready", self.handoff_ready)
        app.router.add_get("/election", self.election)
        app.router.add_post("/lease-ready", self.lease_ready)
        app.router.add_post("/pledge", self.pledge)

    def add_monitoring(self, app: web.Application) -> None:
        """Routes of the metrics port."""
        app.router.add_get("/healthz/startup", self.startup)
        app.router.add_get("/healthz/ready", self.ready)

    def add_local(self, app: web.Application) -> None:
        """Routes of the local API."""
        self.add_monitoring(app)
        app.router.add_get("/position", self.position)
        app.router.add_post("/role", self.set_role)
        app.router.add_post("/drain", self.drain)
        app.router.add_post("/resume", self.resume)
        app.router.add_post("/acknowledged", self.acknowledged)

    # -- other nodes -------------------------------------------------------------------

    async def position(self, request: web.Request) -> web.Response:
        """GET /position; with ``?epoch=N`` a promise to take nothing of an older epoch any more."""
        text = request.query.get("epoch", "")
        if text and not (text.isdecimal() and int(text) < MAX_EPOCH):
            raise FormatError("epoch", text[:32], "expected a number")
        positions = await self.roles.promise(int(text)) if text else self.roles.positions()
        return web.json_response(self._who(positions))

    async def handoff_ready(self, request: web.Request) -> web.Response:
        """POST /handoff-ready: answers as soon as this node has these positions, durably."""
        body = await _body(request)
        wanted = _positions(body.get("positions"))
        deadline = time.monotonic() + _number(body, "timeoutMs", 5000.0, _MAX_WAIT_S * 1000) / 1000
        while not (ready := self._has(wanted)) and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
        if ready:
            await asyncio.to_thread(self.view.node.store.log.sync)
        return web.json_response({"ready": ready, **self._who(self.roles.positions())})

    async def election(self, request: web.Request) -> web.Response:
        """GET /election; see ``election_peers``."""
        return await self._electing().election(request)

    async def lease_ready(self, request: web.Request) -> web.Response:
        """POST /lease-ready; see ``election_peers``."""
        return await self._electing().lease_ready(request)

    async def pledge(self, request: web.Request) -> web.Response:
        """POST /pledge; see ``election_hold``."""
        return await self._electing().pledge(request)

    # -- probes --------------------------------------------------------------------------

    async def startup(self, _request: web.Request) -> web.Response:
        """GET /healthz/startup."""
        await asyncio.to_thread(self.health.startup)
        return web.json_response({"ok": True, **self.view.role()})

    async def ready(self, _request: web.Request) -> web.Response:
        """GET /healthz/ready."""
        self.health.ready()
        return web.json_response({"ok": True, **self.view.role()})

    # -- by hand -------------------------------------------------------------------------

    async def set_role(self, request: web.Request) -> web.Response:
        """POST /role {"role": "primary", "epoch": N, "fenceS": 60}, or {"role": "replica", "primary": {…} or null}."""
        self._check_manual()
        body = await _body(request)
        if body.get("role") == "primary":
            fence_s = _number(body, "fenceS", 0.0, float(_MAX_FENCE_S))
            self.roles.set_fence(*_from_now(fence_s))
            await self.roles.become_primary(int(_number(body, "epoch", 0.0, float(MAX_EPOCH))))
        elif body.get("role") == "replica":
            limit = _number(body, "limitS", -1.0, _MAX_WAIT_S)
            await self.roles.become_replica(_address(body.get("primary")), None if limit < 0 else limit)
        else:
            raise FormatError("role", str(body.get("role"))[:32], "expected primary or replica")
        return web.json_response(self._who(self.roles.positions()))

    async def drain(self, request: web.Request) -> web.Response:
        """POST /drain {"timeoutS": 5}."""
        self._check_manual()
        timeout = _number(await _body(request), "timeoutS", 5.0, _MAX_WAIT_S)
        return web.json_response(self._who(await self.roles.drain(time.monotonic() + timeout)))

    async def resume(self, _request: web.Request) -> web.Response:
        """POST /resume."""
        self._check_manual()
        await self.roles.resume()
        return web.json_response(self._who(self.roles.positions()))

    async def acknowledged(self, request: web.Request) -> web.Response:
        """POST /acknowledged {"name": …, "positions": …, "timeoutS": 5}: whether a replica has them."""
        self._check_manual()
        body = await _body(request)
        deadline = time.monotonic() + _number(body, "timeoutS", 5.0, _MAX_WAIT_S)
        wanted = _positions(body.get("positions"))
        done = await self.hub.wait_acknowledged(str(body.get("name")), wanted, deadline)
        return web.json_response({"acknowledged": done})

    # -- helpers -------------------------------------------------------------------------

    def _who(self, positions: Positions) -> dict[str, Any]:
        node = self.view.node
        return {
            "name": node.config.name,
            "nodeID": format_node_id(node.store.node_id),
            "clusterID": node.store.cluster_id() or "",
            "epoch": self.hub.hello().epoch,
            "role": self.roles.name,
            "draining": self.roles.is_draining,
            "positions": {name: list(position) for name, position in positions.items()},
        }

    def _has(self, wanted: Positions) -> bool:
        have = self.roles.positions()
        return all(name in have and have[name][1:] == position[1:] for name, position in wanted.items())

    def _electing(self) -> Peers:
        if self.electing is None:
            raise Unavailable("this node does not take part in an election, or not yet")
        return self.electing

    def _check_manual(self) -> None:
        config = self.view.node.config
        if config.role != "elected" or config.election is not None:
            raise NotCandidate("the role of this node is not given by hand: that needs role: elected without election")


def _from_now(seconds: float) -> tuple[int, int]:
    """A fence so many seconds ahead; none for 0."""
    if not seconds:
        return 0, 0
    left = int(seconds * 1e9)
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + left, time.time_ns() + left


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.content.read(MAX_BODY) or b"{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise FormatError("body", "", "expected a JSON object")
    return value


def _positions(value: object) -> Positions:
    try:
        assert isinstance(value, dict)
        return {str(name): (int(e), int(txid), int(checksum)) for name, (e, txid, checksum) in value.items()}
    except (AssertionError, TypeError, ValueError):
        raise FormatError("positions", str(value)[:64], "expected {database: [epoch, txid, checksum]}") from None


def _number(body: dict[str, Any], key: str, default: float, most: float) -> float:
    value = body.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not (value == default or 0 <= value <= most):
        raise FormatError(key, str(value)[:32], f"expected a number from 0 to {most:g}")
    return value


def _address(value: object) -> PrimaryAddress | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not str(value.get("url", "")).startswith(("http://", "https://")):
        raise FormatError("primary", str(value)[:64], 'expected {"name": …, "url": "http://host:20202"} or null')
    return PrimaryAddress(str(value.get("name", "")), str(value["url"]), str(value.get("serverName", "")))
