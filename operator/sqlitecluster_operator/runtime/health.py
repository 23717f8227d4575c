"""Health and metrics of the operator over HTTP.

``/healthz`` fails when the operator is deaf: an object was changed in the API, and its event
did not arrive. The leader finds that out by comparing a list with what the watches brought;
who does not lead has no watches. Readiness does not depend on leadership, or a rolling update
of two operators would never end. It needs the listener for certificates: the Service sends pods there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

DEAF_AFTER_S: Final = 90.0

TABLE: Final = {
    "sqlitecluster_operator_leader": ("gauge", "1 on the operator that works, 0 on one that stands by."),
    "sqlitecluster_operator_clusters": ("gauge", "SQLiteClusters that this operator sees."),
    "sqlitecluster_operator_reconciles_total": ("counter", "Rounds through one cluster, by outcome."),
    "sqlitecluster_operator_reconcile_seconds_total": ("counter", "Time spent in them."),
    "sqlitecluster_operator_api_requests_total": ("counter", "Requests to the API server, by verb and resource."),
    "sqlitecluster_operator_silent_seconds": ("gauge", "Since when nothing proves that events arrive."),
}
"""All metrics: name -> (type, help)."""


class Liveness:
    """Whether events arrive. Pure; times come in."""

    def __init__(self, started: float) -> None:
        self._heard = started
        self._started = started

    def heard(self, now: float) -> None:
        """A list agreed with what the watches brought."""
        self._heard = now

    def silent_s(self, now: float) -> float:
        """Since when nothing proves that events arrive."""
        return now - self._heard

    def alive(self, now: float, *, leads: bool) -> bool:
        """Whether this process is worth keeping."""
        return not leads or self.silent_s(now) < DEAF_AFTER_S


def render(values: Mapping[str, Mapping[str, float] | float]) -> str:
    """Metrics as Prometheus reads them; a value, or values by label text, for each name of ``TABLE``."""
    lines: list[str] = []
    for name, (kind, text) in TABLE.items():
        value = values[name]
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        rows = value if isinstance(value, Mapping) else {"": value}
        lines += [f"{name}{labels} {number:.15g}" for labels, number in rows.items()]
    return "\n".join(lines) + "\n"


class HealthServer:
    """Serves ``/healthz``, ``/readyz`` and ``/metrics``."""

    def __init__(self, alive: Callable[[], bool], ready: Callable[[], bool], metrics: Callable[[], str]) -> None:
        self._alive = alive
        self._ready = ready
        self._metrics = metrics
        self._runners: list[web.AppRunner] = []

    async def start(self, *addresses: str) -> None:
        """Listen on each ``[host]:port``; empty ones are left out."""
        for address in {one for one in addresses if one}:
            app = web.Application()
            app.add_routes(
                [
                    web.get("/healthz", self._healthz),
                    web.get("/readyz", self._readyz),
                    web.get("/metrics", self._serve_metrics),
                ]
            )
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            host, port = split_address(address)
            await web.TCPSite(runner, host, port).start()
            self._runners.append(runner)

    async def stop(self) -> None:
        """Close the listeners."""
        for runner in self._runners:
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        if self._alive():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="no event came from the API although objects changed\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the listener for certificates is not up; the log says why\n")

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._metrics(), content_type="text/plain")


def split_address(address: str) -> tuple[str | None, int]:
    """Host (None: all) and port of ``[host]:port``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or None, int(port)
