"""Good copies for each other: single pages, and stored transactions, over the peers port.

    GET /pages?name=D&pgno=1,2,3   {"position", "pageSize", "pages": {"1": base64, …}}: those whose
                                   checksum is right there now
    GET /ltx?name=D&txid=T         one LTX file that holds transaction T; ``NoSuchTransaction`` if none

Used by ``mending``; served by ``http_api``. On a port with certificates only pods of the
cluster can ask, and a peer is asked only under the name in its certificate.

Rules:
    1. At most ``MOST_PAGES`` pages and ``MOST_BYTES`` bytes in one answer, checked before memory is taken.
    2. An asker believes nothing: what it gets must have the checksums that it knows itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from sqlitecluster.errors import FormatError, LimitError, NoSuchDatabase, NoSuchTransaction
from sqlitecluster.replicator import peers
from sqlitecluster.store.snapshot import LogicalImage
from sqlitecluster.units import check_database_name

if TYPE_CHECKING:
    from sqlitecluster.replicator.services import NodeServices, PrimaryAddress
    from sqlitecluster.store.database import DatabaseStore

log = logging.getLogger(__name__)

MOST_PAGES: Final = 256
MOST_BYTES: Final = 64 << 20
_PAGES_BYTES: Final = 4 << 20
_TIMEOUT_S: Final = 10.0


class PeerPages:
    """Both ends of the two questions."""

    def __init__(self, node: NodeServices) -> None:
        self._node = node
        self._session: aiohttp.ClientSession | None = None

    # -- answering -------------------------------------------------------------------

    def routes(self) -> list[web.RouteDef]:
        """For the peers port."""
        return [web.get("/pages", self.pages), web.get("/ltx", self.ltx)]

    async def pages(self, request: web.Request) -> web.Response:
        """GET /pages."""
        db, pgnos = self._database(request), _numbers(request.query.get("pgno", ""))
        value = await asyncio.to_thread(good_pages, db, pgnos)
        return web.json_response(value)

    async def ltx(self, request: web.Request) -> web.Response:
        """GET /ltx."""
        db = self._database(request)
        (txid,) = _numbers(request.query.get("txid", ""), most=1)
        data = await asyncio.to_thread(_stored, db, txid)
        if data is None:
            raise NoSuchTransaction(f"{db.name}: transaction {txid:016x} is not stored here")
        return web.Response(body=data, content_type="application/octet-stream")

    def _database(self, request: web.Request) -> DatabaseStore:
        name = check_database_name(request.query.get("name", ""))
        db = self._node.find(name)
        if db is None:
            raise NoSuchDatabase(f"there is no database {name!r} here")
        return db

    # -- asking ----------------------------------------------------------------------

    async def ask_pages(self, peer: PrimaryAddress, name: str, pgnos: Sequence[int]) -> dict[int, bytes]:
        """What a peer has of some pages; nothing when it does not answer."""
        wanted = ",".join(map(str, pgnos[:MOST_PAGES]))
        body = await self._get(peer, "/pages", {"name": name, "pgno": wanted}, _PAGES_BYTES * 2)
        try:
            value = json.loads(body or b"{}").get("pages", {})
            return {int(pgno): base64.b64decode(text, validate=True) for pgno, text in value.items()}
        except (ValueError, TypeError, AttributeError):
            log.warning("%s answers nonsense to a question for pages", peer.url)
            return {}

    async def ask_ltx(self, peer: PrimaryAddress, name: str, txid: int) -> bytes | None:
        """A peer's LTX file that holds a transaction; None when it has none."""
        return await self._get(peer, "/ltx", {"name": name, "txid": str(txid)}, MOST_BYTES)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, peer: PrimaryAddress, path: str, query: dict[str, str], most: int) -> bytes | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, connector=aiohttp.TCPConnector(limit=4))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                url = peer.url.rstrip("/") + path
                async with self._session.get(url, params=query, **self._tls(peer)) as answer:
                    return await _body(answer, most) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, LimitError) as error:
            log.info("%s does not give a good copy: %r", peer.url, error)
            return None

    def _tls(self, peer: PrimaryAddress) -> dict[str, Any]:
        host = urlsplit(peer.url).hostname or ""
        return {"allow_redirects": False, **peers.dial(self._node.identity, peer.name, peer.server_name, host)}


def good_pages(db: DatabaseStore, pgnos: Sequence[int]) -> dict[str, Any]:
    """Pages of a database that are what their checksums say, as the answer of GET /pages."""
    image = LogicalImage(db.dir / "database", db.dir / "wal", db.checksums)
    image.refresh()
    found: dict[str, str] = {}
    room = _PAGES_BYTES // max(image.page_size, 1)
    for pgno in pgnos[:room]:
        page = image.read_page(pgno) if image.page_size and db.checksums.get(pgno) else None
        if page:
            found[str(pgno)] = base64.b64encode(page).decode()
    return {"name": db.name, "position": str(db.position), "pageSize": image.page_size, "pages": found}


def _stored(db: DatabaseStore, txid: int) -> bytes | None:
    """A stored piece that holds a transaction; increments before snapshots, small ones only."""
    while (piece := db.next_after(txid - 1)) is not None and piece.size <= MOST_BYTES:
        data = db.read(piece)
        if data is not None:
            return data
        if piece.path is None:
            return None
    return None


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > most:
            raise LimitError(f"an answer of a peer is larger than {most} bytes")
        parts.append(part)
    return b"".join(parts)


def _numbers(text: str, most: int = MOST_PAGES) -> list[int]:
    parts = text.split(",") if text else []
    if not 0 < len(parts) <= most or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise FormatError("numbers", text[:64], f"expected 1 to {most} numbers")
    return [int(part) for part in parts]
