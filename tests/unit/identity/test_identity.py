"""A pod's identity over real connections: who is let in, how certificates follow each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sqlitecluster.config.model import Identity as Settings
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.identity import certificates, identity
from sqlitecluster.identity.context import client_context
from sqlitecluster.identity.identity import Identity
from sqlitecluster.replicator.services import ProblemBook
from support.signing import Signing
from support.two_nodes import eventually


class Echo:
    """A listener with a node's identity; it greets each connection that gets through."""

    def __init__(self, node: Identity) -> None:
        self.node = node
        self.greeted: list[str | None] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", 0, ssl=self.node.server_context())
        self.port = self._server.sockets[0].getsockname()[1]

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.greeted.append(self.node.peer_name(writer.transport))
        writer.write(b"hello\n")
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()


def config(folder: Path, pod: str, cluster: str = "notes", **more: Any) -> NodeConfig:
    settings = {"directory": folder / "projected", "cluster": f"default/{cluster}", **more}
    return NodeConfig(name=pod, data_dir=folder / "data", mount_dir=folder / "mnt", identity=Settings(**settings))


async def make(signing: Signing, folder: Path, pod: str, cluster: str = "notes", **more: Any) -> Identity:
    signing.project(folder / pod / "projected", cluster, pod)
    made = Identity(config(folder / pod, pod, cluster, **more), ProblemBook())
    await made.start()
    return made


async def dial(port: int, context: ssl.SSLContext | None, name: str = "notes-0") -> tuple[bytes, Any]:
    """What a connection gets, and its writer."""
    host = f"{name}.notes-pods.default.svc" if context else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
    async with asyncio.timeout(10):
        line = await reader.readline()
    return line, (reader, writer)


@contextlib.asynccontextmanager
async def scene(folder: Path, **tls: str) -> AsyncIterator[tuple[Signing, Identity, Echo, Identity]]:
    """A signer, a listening pod notes-0 and another pod notes-1."""
    async with Signing.running() as signing:
        await signing.cluster("notes", **tls)
        await signing.cluster("other")
        one, two = await make(signing, folder, "notes-0"), await make(signing, folder, "notes-1")
        echo = Echo(one)
        await echo.start()
        try:
            yield signing, one, echo, two
        finally:
            await echo.stop()
            await one.stop()
            await two.stop()


def test_pods_of_a_cluster_talk_and_know_each_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path) as (_signing, one, echo, two):
            line, (_, writer) = await dial(echo.port, two.client_context())
            assert line == b"hello\n" and echo.greeted == ["notes-1"]
            assert two.peer_name(writer.transport) == "notes-0"
            ends = two.ends(writer.transport)
            assert ends is not None and abs(ends - min(one.not_after_s, two.not_after_s)) < 1
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.close()

    asyncio.run(test())


def test_the_key_is_on_the_pods_volume_and_nobody_elses_to_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path):
            kept = tmp_path / "notes-0" / "data" / "identity" / "pod.pem"
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
            assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
            assert os.listdir(kept.parent) == ["pod.pem"]

    asyncio.run(test())


def static(files: tuple[Path, Path]) -> ssl.SSLContext:
    """A client made by hand: own certificate, trusts what it is told, checks no names."""
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(files[0])
    return context


def nobody() -> ssl.SSLContext:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


STRANGERS: dict[str, Callable[[Signing, Path], ssl.SSLContext | None]] = {
    "another cluster's pod": lambda s, f: static(s.certificate("other", "other-0", f)),
    "an expired certificate": lambda s, f: static(s.certificate("notes", "notes-1", f, age_s=700)),
    "a certificate of tomorrow": lambda s, f: static(s.certificate("notes", "notes-1", f, age_s=-7200)),
    "no certificate": lambda _s, _f: nobody(),
    "plain text": lambda _s, _f: None,
}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_gets_no_byte(tmp_path: Path, who: str) -> None:
    async def test() -> None:
        async with scene(tmp_path) as (signing, _one, echo, _two):
            context = STRANGERS[who](signing, tmp_path / "stranger")
            got = b""
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", echo.port, ssl=context)
                writer.write(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(10):
                    got = await reader.read()
            assert not echo.greeted
            assert b"hello" not in got and (context is None or not got)

    asyncio.run(test())


def test_a_certificate_of_the_same_authority_for_another_cluster_is_refused(tmp_path: Path) -> None:
    """One authority for two clusters, as people with static files may have: the name in it decides."""

    async def test() -> None:
        async with scene(tmp_path) as (signing, _one, echo, _two):
            secrets = signing.api.objects
            secrets["Secret", "default", "other-ca"]["data"] = secrets["Secret", "default", "notes-ca"]["data"]
            context = static(signing.certificate("other", "other-0", tmp_path / "x"))
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                line, _ = await dial(echo.port, context)
                assert line
            assert not echo.greeted

    asyncio.run(test())


def test_a_client_talks_only_to_the_pod_that_it_dialled(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path) as (_signing, _one, echo, two):
            with pytest.raises(ssl.SSLCertVerificationError, match="notes-2"):
                await dial(echo.port, two.client_context(), name="notes-2")
            assert not echo.greeted

    asyncio.run(test())


def test_a_client_refuses_a_server_of_another_cluster(tmp_path: Path) -> None:
    async def test() -> None:
        async with scene(tmp_path) as (signing, _one, _echo, two):
            foreign = await make(signing, tmp_path, "other-0", "other")
            echo = Echo(foreign)
            await echo.start()
            with pytest.raises(ssl.SSLCertVerificationError):
                await dial(echo.port, two.client_context())
            await echo.stop()
            await foreign.stop()

    asyncio.run(test())


# -- a certificate's life --------------------------------------------------------------


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "LOOK_S", 0.05)
    monkeypatch.setattr(identity, "FIRST_S", 0.5)
    monkeypatch.setattr("sqlitecluster_operator.identity.claims.MIN_LIFETIME", __import__("datetime").timedelta(0))


def test_renewal_comes_after_two_sevenths_and_old_connections_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)

    async def test() -> None:
        async with scene(tmp_path, certificateLifetime="20s", caLifetime="1h") as (_signing, one, echo, two):
            first = two.not_after_s
            _, (reader, writer) = await dial(echo.port, two.client_context())
            while two.not_after_s == first:
                assert time.time() < first, "the certificate ended before it was renewed"
                await asyncio.sleep(0.02)
            assert first - time.time() <= 17, "renewed before its time"
            await eventually(lambda: one.renewals >= 2)
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
            ends = two.ends(writer.transport)
            assert ends is not None and abs(ends - first) < 1, "an old connection ends with its old certificate"
            _, (_, newer) = await dial(echo.port, two.client_context())
            assert (two.ends(newer.transport) or 0) > first
            writer.close()
            newer.close()

    asyncio.run(test())


def test_an_operator_that_is_gone_stops_nothing_until_the_certificate_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)

    async def test() -> None:
        async with scene(tmp_path, certificateLifetime="10s", caLifetime="1h") as (signing, one, echo, two):
            await signing.down()
            while time.time() < min(one.not_after_s, two.not_after_s) - 3:
                line, (_, writer) = await dial(echo.port, two.client_context())
                assert line == b"hello\n"
                writer.close()
                await asyncio.sleep(0.2)
            await signing.up()
            await eventually(lambda: two.not_after_s > time.time() + 3, seconds=30)
            await eventually(lambda: one.not_after_s > time.time() + 3, seconds=30)
            assert (await dial(echo.port, two.client_context()))[0] == b"hello\n"

    asyncio.run(test())


def test_a_restart_without_an_operator_uses_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def test() -> None:
        async with scene(tmp_path) as (signing, _one, echo, two):
            await signing.down()
            again = Identity(config(tmp_path / "notes-1", "notes-1"), ProblemBook())
            await again.start()
            assert (again.not_after_s, again.renewals) == (two.not_after_s, 0)
            assert (await dial(echo.port, again.client_context()))[0] == b"hello\n"
            await again.stop()
            await signing.up()

    asyncio.run(test())


def test_a_copied_volume_gives_nobody_another_pods_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def test() -> None:
        async with scene(tmp_path) as (signing, *_):
            (tmp_path / "notes-2").mkdir()
            os.rename(tmp_path / "notes-1" / "data", tmp_path / "notes-2" / "data")
            third = await make(signing, tmp_path, "notes-2")
            assert third.renewals == 1, "the certificate of notes-1 was used"
            await third.stop()

    asyncio.run(test())


def test_a_node_without_any_certificate_says_so_and_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def test() -> None:
        async with Signing.running() as signing:
            await signing.cluster("notes")
            signing.api.down = True
            book = ProblemBook()
            signing.project(tmp_path / "projected", "notes", "notes-0")
            node = Identity(config(tmp_path, "notes-0"), book)
            await node.start()
            assert [p.code for p in book.all()] == ["NoCertificate"] and "API server" in book.all()[0].message
            echo = Echo(node)
            await echo.start()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await dial(echo.port, nobody())
            signing.api.down = False
            await eventually(lambda: node.not_after_s > 0, seconds=30)
            await eventually(lambda: book.all(), [])
            await echo.stop()
            await node.stop()

    asyncio.run(test())


def test_a_rotation_of_the_authority_interrupts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both authorities overlap: at each moment each pod is let in by each other."""
    quick(monkeypatch)

    async def test() -> None:
        async with scene(tmp_path, certificateLifetime="8s", caLifetime="24s") as (signing, one, echo, two):
            signing.rotate("notes", "r1")
            first = signing.authority("notes").current.certificate
            sizes = set()
            deadline = time.time() + 60
            while time.time() < deadline:
                done = await signing.reconcile("notes")
                bundle = signing.authority("notes").bundle()
                sizes.add(bundle.count(b"BEGIN"))
                line, (_, writer) = await dial(echo.port, two.client_context())
                assert line == b"hello\n"
                writer.close()
                if signing.authority("notes").current.certificate != first and not done.rotating:
                    break
                await asyncio.sleep(0.05)
            assert first not in signing.authority("notes").bundle() and sizes >= {1, 2}
            assert one.renewals > 1

    asyncio.run(test())


def test_a_dropped_authority_is_trusted_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trust bundle is followed downwards too: what it lost is refused by the next connection."""
    quick(monkeypatch)

    async def test() -> None:
        async with scene(tmp_path) as (signing, one, echo, _two):
            old = static(signing.certificate("notes", "notes-2", tmp_path / "old"))
            assert (await dial(echo.port, old))[0] == b"hello\n"
            for kind, name in (("Secret", "notes-ca"), ("ConfigMap", "notes-trust")):
                del signing.api.objects[kind, "default", name]
            before = one.not_after_s
            await signing.reconcile("notes")
            await eventually(lambda: one.renewals, 2, seconds=30)  # the bundle does not cover it any more
            assert one.not_after_s >= before
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                line, _ = await dial(echo.port, old)
                assert line
            new = static(signing.certificate("notes", "notes-2", tmp_path / "new"))
            assert (await dial(echo.port, new))[0] == b"hello\n"

    asyncio.run(test())


# -- files made by hand ----------------------------------------------------------------


def test_static_files_are_used_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def test() -> None:
        async with Signing.running() as signing:
            await signing.cluster("notes")
            pem, bundle = signing.certificate("notes", "notes-0", tmp_path / "files", lifetime_s=60)
            settings = {"cert_file": pem, "ca_file": bundle}
            node = Identity(config(tmp_path, "notes-0", **settings), ProblemBook())
            await node.start()
            echo = Echo(node)
            await echo.start()
            client = static(signing.certificate("notes", "notes-1", tmp_path / "peer"))
            assert (await dial(echo.port, client))[0] == b"hello\n"
            before = node.not_after_s
            signing.certificate("notes", "notes-0", tmp_path / "files", lifetime_s=3600)
            await eventually(lambda: node.not_after_s > before + 1000)
            assert (await dial(echo.port, client))[0] == b"hello\n" and node.renewals == 0
            await echo.stop()
            await node.stop()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("lifetime_s", "asked_s", "at_s"),
    [(7 * 86400, 7 * 86400, 2 * 86400), (60, 60, 60 * 2 / 7), (3600, 7 * 86400, 3600 * 2 / 7)],
)
def test_when_a_certificate_is_renewed(lifetime_s: float, asked_s: float, at_s: float) -> None:
    held = certificates.Held(Path(), None, b"", 1000.0 - min(60, lifetime_s / 10), 1000.0 + lifetime_s, None)
    assert abs(held.renew_s(asked_s) - 1000.0 - at_s) <= 60
