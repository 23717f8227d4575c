"""Asking the operator to sign: one HTTPS request with the pod's token.

Used by ``identity``. The answer is checked before anything is replaced by it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from sqlitecluster.errors import IdentityError
from sqlitecluster.identity import certificates
from sqlitecluster.identity.certificates import Held
from sqlitecluster.identity.context import client_context
from sqlitecluster.identity.files import Kept, Projected

REQUEST_S: Final = 10.0
_MAX_ANSWER: Final = 256 * 1024


async def obtain(projected: Projected, kept: Kept, cluster: str, pod: str, lifetime_s: float) -> Held:
    """A new key, and a certificate for it, not saved yet; ``cluster`` is ``namespace/name``.

    Raises:
        IdentityError: the operator does not answer, refuses, or answers nonsense.
    """
    url = projected.url()
    if urlsplit(url).scheme != "https":
        raise IdentityError(f"the operator's URL {url!r} is not https; the token is sent to nobody else")
    key = certificates.make_key()
    body = {"csr": certificates.make_request(key, pod), "cluster": cluster, "lifetimeSeconds": lifetime_s}
    try:
        async with asyncio.timeout(REQUEST_S):
            answer = await _post(url.rstrip("/") + "/v1/certificates", projected, body)
    except TimeoutError as error:
        raise IdentityError(f"the operator at {url} did not answer within {REQUEST_S:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise IdentityError(f"the operator at {url} cannot be asked: {error}") from error
    held = certificates.read_held(certificates.key_pem(key) + answer.encode(), kept.path)
    if held.pod != (*cluster.split("/"), pod):
        raise IdentityError(f"the operator's certificate is for {held.pod}, not for {cluster}/{pod}")
    return held


async def _post(url: str, projected: Projected, body: dict[str, object]) -> str:
    context = client_context()
    try:
        context.load_verify_locations(cadata=projected.operator_trust().decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise IdentityError(f"operator-ca.crt holds no certificates: {error}") from error
    headers = {"Authorization": f"Bearer {projected.token()}"}
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, trust_env=False) as session,
        session.post(url, json=body, headers=headers, allow_redirects=False) as response,
    ):
        raw = await response.content.read(_MAX_ANSWER)
    try:
        value = json.loads(raw)
    except ValueError:
        value = {}
    if response.status != 200 or not isinstance(value, dict):
        why = value.get("message", "no reason given") if isinstance(value, dict) else "no JSON"
        raise IdentityError(f"the operator refuses a certificate (status {response.status}): {str(why)[:300]}")
    return str(value.get("certificate", ""))
