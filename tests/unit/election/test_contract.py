"""``kubeapi`` against an API server: the test double always, the real one when it runs.

The same tests for both, so the double cannot behave as the real one does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sqlitecluster.election.record import LeaseRecord
from sqlitecluster.kubeapi import APIUnavailable, Conflict, Credentials, KubeAPI, NotFound
from support.leaseserver import LeaseServer

ROOT = Path(__file__).resolve().parents[3]
KUBECTL = ROOT / ".cluster" / "bin" / "kubectl"
NAME = "notes"


@dataclass
class Server:
    """An API server with a namespace of our own, and a hand in it beside the client."""

    url: str
    namespace: str
    by_hand: Callable[[str, str, dict[str, Any]], Any]

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[KubeAPI]:
        api = KubeAPI(Credentials(self.url, None), self.namespace, 5.0)
        try:
            yield api
        finally:
            await api.close()


def double() -> Iterator[Server]:
    with LeaseServer() as server:
        calls = {"create": server.objects.create, "delete": server.objects.delete}

        def by_hand(verb: str, kind: str, value: dict[str, Any]) -> Any:
            argument = value["metadata"]["name"] if verb == "delete" else value
            return server.call(calls[verb], kind, "default", argument)

        yield Server(server.url, "default", by_hand)


def real() -> Iterator[Server]:
    """The local cluster through ``kubectl proxy``."""
    env = {**os.environ, "KUBECONFIG": str(ROOT / ".cluster" / "kubeconfig")}
    probe = subprocess.run([KUBECTL, "get", "--raw", "/readyz"], env=env, capture_output=True, timeout=20)
    if probe.returncode:
        pytest.skip("the local cluster does not run")
    namespace = f"contract-{uuid.uuid4().hex[:8]}"
    proxy = subprocess.Popen([KUBECTL, "proxy", "--port=0"], env=env, stdout=subprocess.PIPE, text=True)
    assert proxy.stdout is not None
    url = "http://" + proxy.stdout.readline().strip().rpartition(" ")[2]

    def kubectl(*arguments: str, value: dict[str, Any] | None = None) -> None:
        text = json.dumps(value) if value else None
        subprocess.run([KUBECTL, *arguments], env=env, input=text, text=True, check=True, capture_output=True)

    def by_hand(verb: str, kind: str, value: dict[str, Any]) -> None:
        if verb == "create":
            kubectl("-n", namespace, "create", "-f", "-", value=value)
        else:
            kubectl("-n", namespace, "delete", kind, value["metadata"]["name"], "--grace-period=0", "--force")

    kubectl("create", "namespace", namespace)
    try:
        yield Server(url, namespace, by_hand)
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")
        proxy.terminate()
        proxy.wait(10)


@pytest.fixture(params=["double", "real"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "real" and not KUBECTL.exists():
        pytest.skip("there is no local cluster")
    yield from (real() if request.param == "real" else double())


@pytest.fixture
def lease(server: Server) -> Iterator[dict[str, Any]]:
    value = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": {}}
    server.by_hand("create", "leases", value)
    yield value
    with contextlib.suppress(Exception):
        server.by_hand("delete", "leases", value)


def run(server: Server, body: Callable[[KubeAPI], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), server.client() as api:
            await body(api)

    asyncio.run(main())


@pytest.mark.usefixtures("lease")
def test_a_put_over_the_version_that_was_read_is_stored_with_the_next(server: Server) -> None:
    async def body(api: KubeAPI) -> None:
        before = LeaseRecord.from_object(await api.get_lease(NAME))
        changed = LeaseRecord(**{**values(before), "holder": "notes-0_u", "epoch": 3}).renewed(1_800_000_000 * 10**9)
        after = LeaseRecord.from_object(await api.put_lease(NAME, changed.to_object()))
        assert (after.holder, after.epoch, after.uid) == ("notes-0_u", 3, before.uid)
        assert after.renew_real_ns == 1_800_000_000 * 10**9
        assert int(after.resource_version) > int(before.resource_version)

    run(server, body)


@pytest.mark.usefixtures("lease")
def test_a_put_over_an_older_version_is_refused(server: Server) -> None:
    async def body(api: KubeAPI) -> None:
        before = LeaseRecord.from_object(await api.get_lease(NAME))
        await api.put_lease(NAME, before.renewed(10**18).to_object())
        with pytest.raises(Conflict):
            await api.put_lease(NAME, before.renewed(2 * 10**18).to_object())

    run(server, body)


@pytest.mark.usefixtures("lease")
def test_a_put_over_another_lease_of_the_same_name_is_refused(server: Server) -> None:
    async def body(api: KubeAPI) -> None:
        value = await api.get_lease(NAME)
        value["metadata"]["uid"] = "1d1d8d1c-0000-4000-8000-000000000000"
        with pytest.raises(Conflict):
            await api.put_lease(NAME, value)

    run(server, body)


def test_a_put_never_makes_a_lease_that_was_deleted(server: Server, lease: dict[str, Any]) -> None:
    """The real server makes a Lease by PUT when its uid is not told, and the caller may create."""

    async def body(api: KubeAPI) -> None:
        record = LeaseRecord.from_object(await api.get_lease(NAME)).renewed(10**18)
        await asyncio.to_thread(server.by_hand, "delete", "leases", lease)
        with pytest.raises((NotFound, Conflict)):
            await api.put_lease(NAME, record.to_object())
        with pytest.raises(NotFound):
            await api.get_lease(NAME)

    run(server, body)


def test_a_put_without_a_version_never_leaves(server: Server) -> None:
    async def body(api: KubeAPI) -> None:
        with pytest.raises(ValueError, match="version"):
            await api.put_lease(NAME, {"metadata": {"name": NAME}})

    run(server, body)


def test_a_watch_tells_what_is_there_then_changes_then_the_end(server: Server, lease: dict[str, Any]) -> None:
    async def body(api: KubeAPI) -> None:
        events = api.watch_lease(NAME)
        first = await anext(events)
        assert first is not None
        await api.put_lease(NAME, LeaseRecord.from_object(first).renewed(10**18).to_object())
        second = await anext(events)
        assert second is not None
        assert LeaseRecord.from_object(second).renew_real_ns == 10**18
        await asyncio.to_thread(server.by_hand, "delete", "leases", lease)
        assert await anext(events) is None
        await events.aclose()  # type: ignore[attr-defined]

    run(server, body)


def test_pods_are_listed_by_label_and_labelled(server: Server) -> None:
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "notes-0", "labels": {"sqlitecluster.dev/cluster": "notes"}},
        "spec": {"containers": [{"name": "a", "image": "none.invalid/none"}], "nodeName": "no-such-node"},
    }
    server.by_hand("create", "pods", value)

    async def body(api: KubeAPI) -> None:
        await api.patch_pod_labels("notes-0", {"sqlitecluster.dev/role": "primary"})
        found = await api.list_pods({"sqlitecluster.dev/cluster": "notes"})
        assert [pod.name for pod in found] == ["notes-0"]
        assert found[0].labels["sqlitecluster.dev/role"] == "primary"
        assert await api.list_pods({"sqlitecluster.dev/cluster": "other"}) == []
        with pytest.raises(NotFound):
            await api.patch_pod_labels("notes-9", {"a": "b"})

    try:
        run(server, body)
    finally:
        server.by_hand("delete", "pods", value)


def test_a_frozen_server_ends_in_a_time_out_and_may_have_written() -> None:
    with LeaseServer() as server:
        server.call(server.objects.create, "leases", "default", {"metadata": {"name": NAME}, "spec": {}})

        async def main() -> None:
            api = KubeAPI(Credentials(server.url, None), "default", 0.3)
            record = LeaseRecord.from_object(await api.get_lease(NAME)).renewed(10**18)
            server.freeze()
            with pytest.raises(APIUnavailable, match="no answer in time"):
                await api.put_lease(NAME, record.to_object())
            await api.close()

        asyncio.run(main())
        server.thaw()
        late = server.wait("default", NAME, lambda v: "renewTime" in v["spec"], 10)
        assert late is not None


def test_a_token_that_was_refused_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old\n")
    credentials = Credentials("http://x", tmp_path)
    assert credentials.token() == "old"
    (tmp_path / "token").write_text("new\n")
    assert credentials.token() == "old"
    credentials.refused()
    assert credentials.token() == "new"


def values(record: LeaseRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in LeaseRecord.__dataclass_fields__}
