"""The local API over a real connection, on a node without a mount."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sqlitecluster.cli.main import main
from sqlitecluster.errors import PreflightError
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.dispatch import Dispatcher
from sqlitecluster.replicator.events import EventHub
from sqlitecluster.replicator.http_api import Api, listen
from sqlitecluster.replicator.info import NodeView
from sqlitecluster.replicator.lag import LagMeter
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.replicator.snapshot_send import read_pages
from sqlitecluster.shared import ROLE_PRIMARY, ROLE_REPLICA, NodeWord
from support.two_nodes import CLUSTER, Writer, make_services


@dataclass
class Scene:
    node: NodeServices
    session: aiohttp.ClientSession
    url: str
    imported: list[tuple[str, bytes]]

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == status
            return await response.json()

    async def post(self, path: str, body: bytes, status: int = 200) -> Any:
        async with self.session.post(self.url + path, data=body) as response:
            assert response.status == status
            return await response.json()


def play(tmp_path: Path, scene: Callable[[Scene], Awaitable[None]], role: int = ROLE_PRIMARY) -> None:
    async def run() -> None:
        node = make_services(tmp_path, "n1")
        node.store.set_cluster_id(CLUSTER)
        node.state.node[NodeWord.ROLE] = role
        imported: list[tuple[str, bytes]] = []

        def import_image(name: str, path: Path) -> Position:
            imported.append((name, path.read_bytes()))
            return Position(8, 9)

        view = NodeView(node, Counters(), LagMeter(), lambda: True, list, lambda: 0, lambda: 0)
        events = EventHub(view.role)
        importer = import_image if role == ROLE_PRIMARY else None
        api = Api(view, events, ThreadPoolExecutor(2), read_pages, importer, _no_stream, lambda: None)
        dispatcher = Dispatcher(asyncio.get_running_loop())
        dispatcher.listen(api.transactions)
        dispatcher.listen(events.transactions)
        node.on_transaction = dispatcher.transaction
        runner = await listen(api.local(), "127.0.0.1:0")
        assert runner is not None
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            await scene(Scene(node, session, f"http://127.0.0.1:{runner.addresses[0][1]}", imported))
        events.close()
        await runner.cleanup()

    asyncio.run(run())


async def _no_stream(_request: web.Request) -> web.StreamResponse:
    return web.Response()


def test_info_has_litefs_fields_and_ours(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        Writer(s.node, "app.db").commit({1: b"x", 2: b"y"})
        s.node.problems.report("WalPinned", "a reader stays", "app.db")
        info = await s.get("/info")
        assert (info["clusterID"], info["isPrimary"], info["candidate"]) == (CLUSTER, True, True)
        [database] = info["databases"]
        assert (database["name"], database["pages"], database["pageSize"]) == ("app.db", 2, 4096)
        assert database["position"] == str(s.node.store.open("app.db").position)
        assert database["writeTransaction"] is None
        assert info["problems"][0]["code"] == "WalPinned"
        assert info["mountTakeOver"] == "remount"

    play(tmp_path, scene)


def test_an_old_sqlite_is_a_notice_and_no_problem(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        Writer(s.node, "app.db").commit({1: b"x"})
        old = b"SQLite format 3\0\x10\0\2\2" + bytes(76) + (3_040_001).to_bytes(4, "big")
        s.node.writers.saw("app.db", old)
        info = await s.get("/info")
        [notice] = info["notices"]
        assert (notice["code"], notice["db"]) == ("OldSQLite", "app.db")
        assert "3.40.1" in notice["message"]
        assert (info["databases"][0]["sqliteVersion"], info["problems"]) == ("3.40.1", [])
        async with s.session.get(s.url + "/metrics") as response:
            text = await response.text()
        assert 'sqlitecluster_db_sqlite_version{db="app.db"} 3040001\n' in text
        assert 'sqlitecluster_notices{code="OldSQLite"} 1\n' in text
        assert "sqlitecluster_problems{" not in text

    play(tmp_path, scene)


def test_metrics_and_health(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        Writer(s.node, "app.db").commit({1: b"x"})
        async with s.session.get(s.url + "/metrics") as response:
            text = await response.text()
        assert 'sqlitecluster_db_txid{db="app.db"} 1\n' in text
        assert (await s.get("/healthz"))["ok"]

    play(tmp_path, scene)


def test_a_replica_is_not_in_sync_before_its_first_sync(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        assert (await s.get("/healthz?inSync=1", 503))["code"] == "Unavailable"
        assert (await s.get("/info"))["lagMs"] is None

    play(tmp_path, scene, ROLE_REPLICA)


def test_wait_answers_when_the_position_is_there(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        writer = Writer(s.node, "app.db")
        writer.commit({1: b"x"})
        waiting = asyncio.create_task(s.get(f"/wait?name=app.db&position={Position(2, 1 << 63)}&timeout=50", 409))
        await asyncio.sleep(0)
        writer.commit({1: b"y"})
        assert (await waiting)["code"] == "PositionMismatch"
        have = s.node.store.open("app.db").position
        assert (await s.get(f"/wait?name=app.db&position={have}"))["position"] == str(have)
        later = Position(9, 1 << 63)
        assert (await s.get(f"/wait?name=app.db&position={later}&timeout=0.01", 504))["code"] == "WaitTimeout"

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/export?name=no.db", 404, "NoSuchDatabase"),
        ("/export?name=../x", 400, "BadName"),
        ("/export", 400, "BadName"),
        ("/wait?name=app.db&position=1", 404, "NoSuchDatabase"),
        ("/nothing", 404, "HTTP404"),
    ],
)
def test_errors_are_json_with_a_code(tmp_path: Path, path: str, status: int, code: str) -> None:
    async def scene(s: Scene) -> None:
        value = await s.get(path, status)
        assert value["code"] == code
        assert value["message"]

    play(tmp_path, scene)


def test_export_gives_the_image_and_its_position(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        writer = Writer(s.node, "app.db")
        writer.commit({1: b"x", 2: b"y"})
        async with s.session.get(s.url + "/export?name=app.db") as response:
            assert response.headers["Sqlitecluster-Position"] == str(s.node.store.open("app.db").position)
            assert await response.read() == writer.image()
        assert list((s.node.config.data_dir / "staging").iterdir()) == []

    play(tmp_path, scene)


def test_import_hands_the_whole_body_over(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        body = b"SQLite format 3\0" + bytes(3_000_000)
        assert await s.post("/import?name=new.db", body) == {"name": "new.db", "position": str(Position(8, 9))}
        assert s.imported == [("new.db", body)]
        assert (await s.post("/import?name=new.db", b"PK\3\4" + bytes(100), 400))["code"] == "NotADatabase"
        assert (await s.post("/import?name=new.db", b"", 400))["code"] == "NotADatabase"

    play(tmp_path, scene)


def test_import_on_a_replica_is_refused(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        assert (await s.post("/import?name=new.db", b"SQLite format 3\0", 503))["code"] == "NotPrimary"

    play(tmp_path, scene, ROLE_REPLICA)


def test_a_cluster_is_adopted_only_by_a_legal_id(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        assert await s.get("/cluster-id") == {"clusterID": CLUSTER}
        bad = await s.post("/cluster-id", json.dumps({"clusterID": "x"}).encode(), 400)
        assert bad["code"] == "InvalidFormat"
        other = "LFSC" + "A" * 16
        assert (await s.post("/cluster-id", json.dumps({"clusterID": other}).encode()))["before"] == CLUSTER
        assert s.node.store.cluster_id() == other

    play(tmp_path, scene)


def test_events_begin_with_init_and_follow_commits(tmp_path: Path) -> None:
    async def scene(s: Scene) -> None:
        async with s.session.get(s.url + "/events") as response:
            first = json.loads(await response.content.readline())
            Writer(s.node, "app.db").commit({1: b"x"})
            second = json.loads(await response.content.readline())
        assert (first["type"], second["type"], second["db"]) == ("init", "tx", "app.db")

    play(tmp_path, scene)


def test_the_command_line_asks_the_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene(s: Scene) -> None:
        writer = Writer(s.node, "app.db")
        writer.commit({1: b"x"})
        have = str(s.node.store.open("app.db").position)
        out = str(tmp_path / "out.db")
        for command, code in (
            (["status"], 0),
            (["wait", "app.db", "--position", have], 0),
            (["export", "app.db", out], 0),
            (["export", "app.db", out], 4),
            (["import", "x.db", out], 6),
            (["cluster-id", "show"], 0),
            (["export", "no.db", out + "2"], 3),
        ):
            assert await asyncio.to_thread(main, [*command, "--url", s.url]) == code, command
        assert Path(out).read_bytes() == writer.image()
        output = capsys.readouterr()
        assert "app.db" in output.out
        assert "[DatabaseExists]" in output.err

    play(tmp_path, scene)


def test_nobody_at_the_address_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", "http://127.0.0.1:1"]) == 5
    assert "no node answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said() -> None:
    async def run() -> None:
        runner = await listen(web.Application(), "127.0.0.1:0")
        assert runner is not None
        port = runner.addresses[0][1]
        with pytest.raises(PreflightError, match=f"cannot listen on 127.0.0.1:{port}"):
            await listen(web.Application(), f"127.0.0.1:{port}")
        await runner.cleanup()
        assert await listen(web.Application(), "") is None

    asyncio.run(run())
