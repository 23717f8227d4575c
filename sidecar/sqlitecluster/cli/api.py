"""A small client of a node's local API, for the command line: standard library only.

Errors of the node come back as the same error classes (``errors.from_wire``); a node
that does not answer is ``Unavailable``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode, urlsplit

from sqlitecluster.errors import ConfigError, StreamError, Unavailable, from_wire

DEFAULT_URL: Final = "http://127.0.0.1:20204"
_TIMEOUT_S: Final = 30.0
_CHUNK: Final = 1 << 20


def add_target(parser: argparse.ArgumentParser) -> None:
    """``--url`` and ``--config``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--url", metavar="URL", help=f"the node's local API (default {DEFAULT_URL})")
    group.add_argument("--config", metavar="FILE", type=Path, help="take the address from a node's configuration")


def target(arguments: argparse.Namespace) -> Api:
    """The API that the arguments name.

    Raises:
        ConfigError: the configuration cannot be read, or its node has no local API.
    """
    if arguments.config is None:
        return Api(arguments.url or DEFAULT_URL)
    from sqlitecluster.config.load import load

    address = load(arguments.config).listen.api
    if not address:
        raise ConfigError(f"{arguments.config}: this node has no local API (listen.api is empty)")
    return Api(f"http://{address}")


class Readable(Protocol):
    """A request body that is read in pieces."""

    def read(self, count: int = -1, /) -> bytes: ...


class Api:
    """One node."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"{url!r} is not an address such as {DEFAULT_URL}")
        self.url = url
        self._host, self._port = parts.hostname, parts.port or 80

    def get(self, path: str, query: Mapping[str, str] | None = None, timeout_s: float = _TIMEOUT_S) -> Any:
        """A JSON document."""
        with self.open("GET", path, query, timeout_s=timeout_s) as response:
            return json.loads(response.read())

    def post(self, path: str, value: Any) -> Any:
        """Send JSON, get JSON."""
        with self.open("POST", path, body=json.dumps(value).encode()) as response:
            return json.loads(response.read())

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes | Readable | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = _TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """A response whose body the caller reads.

        Raises:
            SQLiteClusterError: what the node reported, under the same code.
            Unavailable: nobody answers there.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s, blocksize=_CHUNK)
        text = path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        try:
            with contextlib.suppress(BrokenPipeError):  # refused before the body was read: the answer says why
                connection.request(method, text, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            if response.status >= 400:
                _raise(response)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"no node answers at {self.url}: {error or type(error).__name__}") from error
        finally:
            connection.close()


def _raise(response: http.client.HTTPResponse) -> None:
    raw = response.read(1 << 16)
    try:
        value = json.loads(raw)
        code, message = str(value["code"]), str(value["message"])
    except (ValueError, KeyError, TypeError):
        raise StreamError(f"the node answered {response.status} {response.reason}") from None
    raise from_wire(code, message)
