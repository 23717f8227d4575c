"""The endpoint over real TLS: what it answers, to whom, and how it refuses."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from sqlitecluster.identity import certificates
from sqlitecluster.identity.context import client_context
from sqlitecluster_operator.identity import server
from support.kubeobjects import review
from support.signing import Signing

CSR = certificates.make_request(certificates.make_key(), "x")
BODY = {"csr": CSR, "cluster": "default/notes"}


def trusting(signing: Signing) -> ssl.SSLContext:
    context = client_context()
    data = signing.api.objects["ConfigMap", "default", "notes-trust"]["data"]
    context.load_verify_locations(cadata=data["operator-ca.crt"])
    return context


async def post(
    signing: Signing, token: str | None = "token-notes-1", body: Any = BODY, path: str = "/v1/certificates", **more: Any
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(ssl=trusting(signing))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(signing.url + path, json=body, headers=headers, **more) as response,
    ):
        return response.status, await response.json()


async def with_cluster(signing: Signing) -> None:
    await signing.cluster("notes")
    await signing.cluster("other")


def run(test: Any) -> Any:
    async def body() -> Any:
        async with Signing.running() as signing:
            await with_cluster(signing)
            return await test(signing)

    return asyncio.run(body())


def test_a_pod_gets_its_certificate() -> None:
    async def test(signing: Signing) -> None:
        status, answer = await post(signing)
        assert status == 200, answer
        leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["sqlitecluster://default/notes/notes-1"]
        assert answer["notAfter"] == leaf.not_valid_after_utc.isoformat()
        assert answer["ca"].encode() == signing.authority("notes").bundle()
        assert signing.api.reviewed == [("token-notes-1", "sqlitecluster.dev")]
        assert signing.service.server.issued == {"default/notes": 1}

    run(test)


REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no token": ({"token": None}, 401, "NoToken"),
    "a token nobody knows": ({"token": "made-up"}, 401, "InvalidToken"),
    "another cluster's pod": ({"token": "token-other-0"}, 403, "Forbidden"),
    "another cluster asked for": ({"body": {**BODY, "cluster": "default/other"}}, 403, "Forbidden"),
    "another namespace asked for": ({"body": {**BODY, "cluster": "kube-system/notes"}}, 403, "Forbidden"),
    "a cluster that is not there": ({"token": "token-ghost-0", "body": {**BODY, "cluster": "default/ghost"}}, 404, ""),
    "no request in it": ({"body": {**BODY, "csr": "hello"}}, 400, "InvalidRequest"),
    "no JSON object": ({"body": ["x"]}, 400, "InvalidRequest"),
    "too large": ({"body": {**BODY, "csr": CSR * 60}}, 413, "LimitExceeded"),
    "a pod that was deleted": ({"token": "token-gone"}, 403, "Forbidden"),
    "an earlier pod of the name": ({"token": "token-earlier"}, 403, "Forbidden"),
    "the API server's audience": ({"token": "token-api"}, 401, "WrongAudience"),
    "another path": ({"path": "/v1/other"}, 404, "NotFound"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_it_refuses(what: str) -> None:
    arguments, status, code = REFUSALS[what]

    async def test(signing: Signing) -> None:
        tokens = signing.api.tokens
        tokens["token-gone"] = review("default", "notes", "notes-9", "uid-9")
        tokens["token-earlier"] = review("default", "notes", "notes-1", "uid-of-before")
        tokens["token-api"] = review("default", "notes", "notes-1", "uid-default-notes-1", "https://kubernetes")
        tokens["token-ghost-0"] = review("default", "ghost", "ghost-0", "u")
        signing.api.put("Pod", "default", "ghost-0", "u")
        seen, answer = await post(signing, **arguments)
        assert (seen, answer["code"]) == (status, code or answer["code"]), answer
        assert answer["message"] and not signing.service.server.issued

    run(test)


def test_it_decides_nothing_without_the_api_server() -> None:
    async def test(signing: Signing) -> None:
        signing.api.down = True
        status, answer = await post(signing)
        assert (status, answer["code"]) == (503, "Unavailable")
        signing.api.down = False
        assert (await post(signing))[0] == 200

    run(test)


def test_a_pod_that_asks_without_end_is_slowed_down() -> None:
    async def test(signing: Signing) -> None:
        seen = [(await post(signing))[0] for _ in range(14)]
        assert seen.count(200) <= 11 and seen[-1] == 429
        assert (await post(signing, token="token-notes-2"))[0] == 200, "one pod must not silence another"

    run(test)


def test_a_slow_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BODY_S", 0.2)

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(30)

    async def test(signing: Signing) -> None:
        connector = aiohttp.TCPConnector(ssl=trusting(signing))
        async with aiohttp.ClientSession(connector=connector) as session:
            headers = {"Authorization": "Bearer token-notes-1"}
            url = signing.url + "/v1/certificates"
            async with asyncio.timeout(5), session.post(url, data=slow(), headers=headers) as response:
                assert response.status == 408

    run(test)


def test_it_speaks_tls_1_3_only_and_proves_itself() -> None:
    async def test(signing: Signing) -> None:
        old = trusting(signing)
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for context in (old, client_context()):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("localhost", signing.port, ssl=context)

    run(test)


def test_tokens_are_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    async def test(signing: Signing) -> None:
        await post(signing)
        await post(signing, token="token-secret-and-wrong")

    run(test)
    assert caplog.text and "token-" not in caplog.text
