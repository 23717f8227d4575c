"""The operator's process: what is started, in which order, and when it ends.

Health and identity are served by every replica. One leads: it watches and reconciles. Who
loses the leadership ends, and Kubernetes starts it again: nothing of a leader's memory survives.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from typing import Any, Final

import kubernetes.client

from sqlitecluster_operator import objects
from sqlitecluster_operator.identity.kube import KubeCalls
from sqlitecluster_operator.identity.service import IdentityService
from sqlitecluster_operator.options import Options
from sqlitecluster_operator.runtime import health, kinds, watches
from sqlitecluster_operator.runtime.api import API, APIError, Forbidden, connect
from sqlitecluster_operator.runtime.api import configuration as configure
from sqlitecluster_operator.runtime.audit import Audit
from sqlitecluster_operator.runtime.controller import Controller, Slots
from sqlitecluster_operator.runtime.identities import Authorities
from sqlitecluster_operator.runtime.leader import Elector
from sqlitecluster_operator.runtime.probes import InfoProbes
from sqlitecluster_operator.runtime.queue import WorkQueue
from sqlitecluster_operator.runtime.store import Key, Store

log = logging.getLogger(__name__)

AUDIT_EVERY: Final = 4
"""Resyncs between two comparisons of everything."""
RETRY_S: Final = 1.0
STOP_S: Final = 10.0


class Operator:
    """Everything that one process of the operator runs."""

    def __init__(self, options: Options, configured: kubernetes.client.Configuration | None = None) -> None:
        self._options = options
        self._configuration = configured or configure(options.kubeconfig or None)
        self.api: API = connect(self._configuration)
        self.store = Store()
        self._identity = IdentityService(KubeCalls(self.api), options.lease_namespace, options.identity_url)
        self._probes = InfoProbes()
        self.controller = Controller(
            self.api,
            self.store,
            objects.Settings(options.sidecar_image, options.sidecar_pull_policy),
            Slots(options.max_concurrent_cluster_updates),
            Authorities(self._identity, self.store),
            self._probes,
        )
        self._queue: WorkQueue[Key] = WorkQueue(self.controller.look)
        self._audit = Audit(self.api, self.store, self._queue.add, options.namespaces)
        self._elector = Elector(self.api, options.lease_namespace, options.lease_name, options.identity)
        self._liveness = health.Liveness(time.monotonic())
        self._health = health.HealthServer(self._alive, lambda: self._identity.listening, self.metrics)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Until a signal (0) or the loss of the leadership (1)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self._health.start(self._options.liveness, self._options.metrics)
        tasks = [asyncio.create_task(self._serve_identity(), name="identity")]
        try:
            return await self._lead_when_elected()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._elector.release()
            await self._probes.close()
            await self._health.stop()
            self.api.close()

    async def _lead_when_elected(self) -> int:
        campaign = asyncio.create_task(self._elector.campaign(), name="campaign")
        if not await self._first(campaign):
            return 0
        lead = asyncio.create_task(self._lead(), name="lead")
        keep = asyncio.create_task(self._elector.keep(), name="keep")
        await self._first(lead, keep)
        lost = keep.done()  # then at once: another operator may lead from now on
        self._stop.set()
        keep.cancel()
        if not lost:
            await asyncio.wait({lead}, timeout=STOP_S)
        failure = lead.exception() if lead.done() and not lead.cancelled() else None
        lead.cancel()
        if failure is not None:
            log.error("the operator cannot go on: %s", failure, exc_info=failure)
        return 1 if lost or failure is not None else 0

    async def _first(self, *tasks: asyncio.Task[None]) -> bool:
        """Wait for one of the tasks, or for the stop; whether it was a task."""
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if stop in done:
            for task in tasks:
                if task.get_name() == "campaign":
                    task.cancel()
        return stop not in done

    async def _lead(self) -> None:
        """Watch and work. Ends with the stop, also when kopf took the signal: it puts its own handlers in place."""
        watched = await self._watchable()
        self._liveness.heard(time.monotonic())
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(
                watches.run(self._seen, watched, self._options.namespaces, self._configuration, self._stop)
            )
            work = group.create_task(self._work())
            await asyncio.wait({watching, work}, return_when=asyncio.FIRST_COMPLETED)
            work.cancel()

    async def _work(self) -> None:
        await self._learn()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            group.create_task(self._queue.run())

    async def _learn(self) -> None:
        """Nothing is decided before everything that matters was listed once: no pods known is not no pods."""
        while True:
            try:
                await self._audit.run()
                return
            except APIError as error:
                log.warning("what is there cannot be listed yet: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _resync(self) -> None:
        """Look at every cluster now and then, and at whether the watches are alive."""
        rounds = 0
        while True:
            try:
                alive = await self._audit.clusters()
                if rounds % AUDIT_EVERY == AUDIT_EVERY - 1:
                    await self._audit.run()
                if alive:
                    self._liveness.heard(time.monotonic())
            except APIError as error:
                log.warning("resync: %s", error)
                if not isinstance(error, Forbidden):
                    self._liveness.heard(time.monotonic())  # nobody hears anything while the API is away
            for key in list(self.store.keys()):
                self._queue.add(key, leisurely=True)
            rounds += 1
            await asyncio.sleep(self._options.resync_s)

    async def _watchable(self) -> tuple[kinds.Kind, ...]:
        """All kinds; without rights on the whole cluster no nodes, and so no hand-off before a drain."""
        try:
            nodes, _ = await self.api.list(kinds.NODE)
        except Forbidden:
            log.warning("nodes cannot be read: no hand-off when a node is cordoned, no zones in the status")
            return tuple(kind for kind in kinds.WATCHED if kind is not kinds.NODE)
        except APIError as error:
            log.warning("nodes could not be read: %s", error)
            return kinds.WATCHED
        for node in nodes:
            self.store.observe(kinds.NODE, node)
        return kinds.WATCHED

    async def _serve_identity(self) -> None:
        host, port = health.split_address(self._options.listen_identity) if self._options.listen_identity else ("", 0)
        if not port and not self._options.listen_identity:
            host = "127.0.0.1"
        try:
            await self._identity.start(host or "0.0.0.0", port)
            await asyncio.Event().wait()
        finally:
            await self._identity.stop()

    def _seen(self, kind: kinds.Kind, raw: Mapping[str, Any], deleted: bool) -> None:
        if kind is kinds.CLUSTER:
            meta = raw["metadata"]
            key = Key(meta["namespace"], meta["name"])
            if deleted:
                self._audit.gone(key)
            else:
                self._audit.heard(key, int(meta["resourceVersion"]))
        for key in self.store.observe(kind, raw, deleted=deleted):
            self._queue.add(key)

    def _alive(self) -> bool:
        return self._liveness.alive(time.monotonic(), leads=self._elector.leads)

    def metrics(self) -> str:
        """Everything that is measured, as Prometheus reads it."""
        counts = {f'{{outcome="{outcome}"}}': float(count) for outcome, count in self.controller.counts.items()}
        calls = {}
        for what, count in self.api.calls.items():
            verb, _, resource = what.partition(" ")
            calls[f'{{verb="{verb}",resource="{resource}"}}'] = float(count)
        return health.render(
            {
                "sqlitecluster_operator_leader": float(self._elector.leads),
                "sqlitecluster_operator_clusters": float(len(list(self.store.keys()))),
                "sqlitecluster_operator_reconciles_total": counts,
                "sqlitecluster_operator_reconcile_seconds_total": self.controller.seconds,
                "sqlitecluster_operator_api_requests_total": calls,
                "sqlitecluster_operator_silent_seconds": self._liveness.silent_s(time.monotonic()),
            }
        )
