"""What electing nodes ask and tell each other, beside the streams: both ends of it.

    GET  /election[?epoch=N]  where a node stands; with an epoch as a promise: it is durable
                              there before the answer, and nothing older is taken afterwards
    POST /lease-ready         "the Lease names you now", with the Lease as the server stored it

Used by ``elected``; served on the peers port.

Rules:
    1. Every question is bounded by the retry period; who does not answer is not there.
    2. Addresses come from the API's list of pods, never from a peer.
    3. ``/lease-ready`` is believed only as far as the compare-and-swap that follows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from sqlitecluster.election import Elector, Holder, Instant, LeaseRecord
from sqlitecluster.election.instants import MILLISECOND
from sqlitecluster.election.messages import HandOffReady, NodeState
from sqlitecluster.errors import FormatError, Unavailable
from sqlitecluster.kubeapi import KubeAPI, KubeError, Pod
from sqlitecluster.replicator.services import PrimaryAddress
from sqlitecluster.units import format_node_id, parse_node_id

if TYPE_CHECKING:
    from sqlitecluster.replicator.election_hold import Holds
    from sqlitecluster.replicator.node import Replicator

log = logging.getLogger(__name__)

CLUSTER_LABEL: Final = "sqlitecluster.dev/cluster"
_LIST_S: Final = 10.0
_ANSWER_MAX: Final = 4 << 20
_LEASE_MAX: Final = 256 << 10
_TELL_TRIES: Final = 3


class Peers:
    """The other pods of the cluster."""

    def __init__(
        self, replicator: Replicator, api: KubeAPI, elector: Elector, told: Callable[[HandOffReady], None]
    ) -> None:
        assert replicator.services.config.election is not None
        self._config = replicator.services.config.election
        self._replicator = replicator
        self._api = api
        self._elector = elector
        self._told = told
        self._port = replicator.services.config.listen.peers.rpartition(":")[2]
        self._pods: list[Pod] = []
        self._is_fresh = False
        self.holds: Holds | None = None
        """Set by ``elected``."""
        self._session: aiohttp.ClientSession | None = None

    @property
    def me(self) -> str:
        """This pod's name."""
        return self._elector.me.pod

    @property
    def pods(self) -> list[Pod]:
        """As the API listed them last."""
        return self._pods

    def existing(self) -> frozenset[str]:
        """All pods with their uid; empty while the API does not list them."""
        return frozenset(str(Holder(pod.name, pod.uid)) for pod in self._pods) if self._is_fresh else frozenset()

    async def run(self) -> None:
        """Know the pods before they are needed."""
        while True:
            await self._refreshed()
            await asyncio.sleep(_LIST_S)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def refresh(self) -> list[Pod]:
        """The pods as the API lists them now.

        Raises:
            KubeError: it does not.
        """
        self._pods = await self._api.list_pods({CLUSTER_LABEL: self._config.cluster})
        self._replicator.services.zones.seen(self._pods)
        return self._pods

    # -- asking ----------------------------------------------------------------------

    async def ask(self, epoch: int) -> tuple[tuple[NodeState, ...], int]:
        """Those that answered, and how many others there are."""
        if not self._pods or epoch:
            await self._refreshed()
        answers, known = await self._ask_all(epoch)
        if not epoch and len(answers) < max(known, 1):
            await self._refreshed()  # pods can be younger than the list
            answers, known = await self._ask_all(epoch)
        return answers, known

    async def _refreshed(self) -> None:
        self._is_fresh = False
        with contextlib.suppress(KubeError):
            await self.refresh()
            self._is_fresh = True

    async def _ask_all(self, epoch: int) -> tuple[tuple[NodeState, ...], int]:
        others = [pod for pod in self._pods if pod.name != self.me]
        answers = await asyncio.gather(*(self._ask_one(pod, epoch) for pod in others if pod.ip))
        return tuple(answer for answer in answers if answer is not None), len(others)

    async def _ask_one(self, pod: Pod, epoch: int) -> NodeState | None:
        query = f"?epoch={epoch}" if epoch else ""
        try:
            async with asyncio.timeout(self._config.lease.retry_period_s):
                async with self._open().get(self._url(pod, f"/election{query}"), **self._tls(pod)) as answer:
                    if answer.status != 200:
                        return None
                    state = node_state(json.loads(await _body(answer)))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, FormatError) as error:
            log.debug("%s does not answer: %r", pod.name, error)
            return None
        return state if state.pod == pod.name and state.uid == pod.uid else None

    async def tell(self, pod_name: str, record: LeaseRecord, drained_at: Instant, started_at: Instant) -> None:
        """POST /lease-ready, more than once if need be; the target's own watch is the fallback."""
        pod = next((p for p in self._pods if p.name == pod_name), None)
        if pod is None:
            return
        for _ in range(_TELL_TRIES):
            boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            value = {
                "lease": record.origin,
                "gapMillis": (boot - drained_at.boot_ns) // MILLISECOND,
                "totalMillis": (boot - started_at.boot_ns) // MILLISECOND,
            }
            try:
                async with asyncio.timeout(self._config.lease.retry_period_s):
                    url = self._url(pod, "/lease-ready")
                    async with self._open().post(url, json=value, **self._tls(pod)) as answer:
                        if answer.status == 200:
                            return
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.info("%s could not be told of the hand-off: %r", pod_name, error)
            await asyncio.sleep(0.05)

    async def send(self, pod: Pod, path: str, value: object) -> object:
        """POST; None when there is no good answer."""
        try:
            async with asyncio.timeout(self._config.lease.retry_period_s):
                async with self._open().post(self._url(pod, path), json=value, **self._tls(pod)) as answer:
                    return json.loads(await _body(answer)) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, FormatError) as error:
            log.debug("%s does not answer: %r", pod.name, error)
            return None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, connector=aiohttp.TCPConnector(limit=16))
        return self._session

    def address(self, pod_name: str) -> PrimaryAddress | None:
        """Where a pod of the cluster answers; None: the API does not list it."""
        pod = next((pod for pod in self._pods if pod.name == pod_name and pod.ip), None)
        identity = self._replicator.services.identity
        if pod is None:
            return None
        name = identity.server_name(pod.name, pod.ip) if identity is not None else ""
        return PrimaryAddress(pod.name, self._url(pod, ""), name)

    def _url(self, pod: Pod, path: str) -> str:
        scheme = "http" if self._replicator.services.identity is None else "https"
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        return f"{scheme}://{host}:{self._port}{path}"

    def _tls(self, pod: Pod) -> dict[str, Any]:
        identity = self._replicator.services.identity
        if identity is None:
            return {"allow_redirects": False}
        name = identity.server_name(pod.name, pod.ip)
        return {"allow_redirects": False, "ssl": identity.client_context(), "server_hostname": name}

    # -- answering -------------------------------------------------------------------

    async def pledge(self, request: web.Request) -> web.Response:
        """POST /pledge; see ``election_hold``."""
        if self.holds is None:
            raise Unavailable("this node does not take part in an election yet")
        return await self.holds.pledge(request)

    def routes(self) -> list[web.RouteDef]:
        """For the peers port."""
        return [web.get("/election", self.election), web.post("/lease-ready", self.lease_ready)]

    def local(self) -> NodeState:
        """Where this node stands."""
        replicator, settings = self._replicator, self._elector.settings
        now, pledge = Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()), self._elector.pledge
        return NodeState(
            pod=settings.me.pod,
            uid=settings.me.uid,
            epoch=replicator.epoch,
            candidate=settings.candidate and not self._elector.is_stopping,
            cluster_id=replicator.services.store.cluster_id() or "",
            positions={name: (epoch, txid) for name, (epoch, txid, _sum) in replicator.positions().items()},
            fence_ms=self._elector.fence_ms(now),
            address=settings.address,
            store=replicator.services.store.node_id,
            never_leads=not settings.candidate,
            pledged_to=pledge.holder if pledge is not None else "",
            pledged_ms=-(-pledge.left_ns(now) // MILLISECOND) if pledge is not None else 0,
        )

    async def election(self, request: web.Request) -> web.Response:
        """GET /election."""
        text = request.query.get("epoch", "0")
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise FormatError("epoch", text[:32], "expected a number")
        if int(text) > self._replicator.epoch:
            await self._replicator.promise(int(text))
        return web.json_response(to_json(self.local()))

    async def lease_ready(self, request: web.Request) -> web.Response:
        """POST /lease-ready."""
        raw = await request.content.read(_LEASE_MAX)
        try:
            value = json.loads(raw)
            record = LeaseRecord.from_object(value["lease"])
            gap, total = int(value["gapMillis"]), int(value["totalMillis"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FormatError("body", "", 'expected {"lease": …, "gapMillis": …, "totalMillis": …}') from None
        now = Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
        self._told(HandOffReady(record, gap, total, now))
        return web.json_response({"ok": True})


def to_json(state: NodeState) -> dict[str, Any]:
    """The answer to GET /election."""
    return {
        "pod": state.pod,
        "uid": state.uid,
        "epoch": state.epoch,
        "candidate": state.candidate,
        "clusterID": state.cluster_id,
        "positions": {name: list(position) for name, position in state.positions.items()},
        "fenceMs": state.fence_ms,
        "address": state.address,
        "storeID": format_node_id(state.store),
        "neverLeads": state.never_leads,
        "pledgedTo": state.pledged_to,
        "pledgedMs": state.pledged_ms,
    }


def node_state(value: Mapping[str, Any]) -> NodeState:
    """Read an answer of GET /election.

    Raises:
        FormatError: it is none.
    """
    try:
        return NodeState(
            pod=str(value["pod"]),
            uid=str(value["uid"]),
            epoch=int(value["epoch"]),
            candidate=value["candidate"] is True,
            cluster_id=str(value["clusterID"]),
            positions={str(name): (int(p[0]), int(p[1])) for name, p in value["positions"].items()},
            fence_ms=max(0, int(value["fenceMs"])),
            address=str(value["address"]),
            store=parse_node_id(str(value.get("storeID", "0" * 16))),
            never_leads=value.get("neverLeads") is True,
            pledged_to=str(value.get("pledgedTo", "")),
            pledged_ms=max(0, int(value.get("pledgedMs", 0))),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise FormatError("election", "", "the answer of a peer is not legal") from error


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > _ANSWER_MAX:
            raise FormatError("election", size, "the answer of a peer is too large")
        parts.append(part)
    return b"".join(parts)
