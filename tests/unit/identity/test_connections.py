"""Connections between nodes: until when they live, when they are made anew, and by what name a peer goes."""

from __future__ import annotations

import asyncio
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sqlitecluster.config.model import Election, NodeConfig
from sqlitecluster.config.model import Identity as Settings
from sqlitecluster.errors import ClusterMismatch
from sqlitecluster.identity.peers import Members
from sqlitecluster.replicator import metrics, peers
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.events import EventHub
from sqlitecluster.replicator.http_api import Api, listen
from sqlitecluster.replicator.info import NodeView
from sqlitecluster.replicator.lag import LagMeter
from sqlitecluster.replicator.snapshot_send import read_pages
from support.two_nodes import make_services


class Fake:
    """An identity whose connections end when it says so."""

    def __init__(self, ends_in_s: float | None = None, pod: str | None = None) -> None:
        self.at = None if ends_in_s is None else time.time() + ends_in_s
        self.pod = pod
        self.context = ssl.create_default_context()

    @property
    def not_after_s(self) -> float:
        return self.at or 0.0

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    def server_context(self) -> ssl.SSLContext:
        return self.context

    def client_context(self) -> ssl.SSLContext:
        return self.context

    def server_name(self, pod: str, host: str) -> str:
        return f"{pod}.domain" if pod else host

    def peer_name(self, _transport: Any) -> str | None:
        return self.pod

    def ends(self, _transport: Any) -> float | None:
        return self.at


@pytest.mark.parametrize(
    ("left_s", "after_s"), [(604800, 483840), (60, 48), (15, 12), (6, 5), (3, 3), (1, 1), (0, 1), (-5, 1)]
)
def test_a_stream_is_made_anew_before_its_certificates_end(
    left_s: float, after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert peers.renew_at(Fake(left_s), None) == pytest.approx(1000.0 + after_s)


def test_without_certificates_nothing_ends() -> None:
    for identity in (None, Fake()):
        assert peers.renew_at(identity, None) == peers.ends_at(identity, None) == peers.NEVER
    assert peers.dial(None, "notes-0", "", "10.0.0.1") == {}


@pytest.mark.parametrize(
    ("name", "server_name", "expected"),
    [("notes-0", "", "notes-0.domain"), ("", "", "10.0.0.1"), ("notes-0", "said.so", "said.so")],
)
def test_the_name_that_a_primary_must_prove(name: str, server_name: str, expected: str) -> None:
    assert peers.dial(Fake(), name, server_name, "10.0.0.1")["server_hostname"] == expected


def test_a_peer_goes_by_the_name_in_its_certificate() -> None:
    peers.check_name(Fake(pod="notes-1"), None, "notes-1")
    peers.check_name(Fake(pod=None), None, "whoever")  # plain, or certificates that name no pods
    with pytest.raises(ClusterMismatch, match=r"notes-1.*notes-2"):
        peers.check_name(Fake(pod="notes-1"), None, "notes-2")


def config(**more: Any) -> NodeConfig:
    return NodeConfig(name="notes-0", data_dir=Path("d"), mount_dir=Path("m"), **more)


ELECTION = Election(cluster="notes", namespace="prod", pod_uid="u", address="10.0.0.1")


@pytest.mark.parametrize(
    ("settings", "election", "cluster", "server_name"),
    [
        (Settings(), ELECTION, ("prod", "notes"), "notes-2.notes-pods.prod.svc"),
        (Settings(cluster="a/b"), None, ("a", "b"), "notes-2.b-pods.a.svc"),
        (Settings(cert_file=Path("x")), None, None, ""),
    ],
)
def test_whose_pods_are_let_in(settings: Settings, election: Any, cluster: Any, server_name: str) -> None:
    members = Members.of(config(identity=settings, election=election))
    assert (members.cluster, members.server_name("notes-2")) == (cluster, server_name)


def test_a_connection_that_is_kept_open_ends_with_its_certificates(tmp_path: Path) -> None:
    async def no_stream(_request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def run() -> None:
        node = make_services(tmp_path, "n1")
        identity = node.identity = Fake(3600)
        view = NodeView(node, Counters(), LagMeter(), lambda: True, list, lambda: 0, lambda: 0)
        api = Api(view, EventHub(view.role), ThreadPoolExecutor(1), read_pages, None, no_stream, lambda: None)
        runner = await listen(api.peers(), "127.0.0.1:0")
        assert runner is not None
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/healthz"
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                assert response.status == 200
            assert f"sqlitecluster_certificate_end_seconds {identity.at:.15g}\n" in metrics.render(view.samples())
            identity.at = time.time() - 1
            async with session.get(url) as response:
                assert (response.status, (await response.json())["code"]) == (409, "ClusterMismatch")
        await runner.cleanup()

    asyncio.run(run())
