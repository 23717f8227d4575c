"""GET /verify on the local API: look at everything now, instead of 1 MiB a second, and mend what is damaged.

``http_api`` adds the route. The answer is NDJSON: a line of progress for each piece, then the result.

    {"type": "progress", "db": "app.db", "bytes": 1048576, "total": 52428800}
    {"type": "database", "db": "app.db", "pages": 12800, "damaged": [], "found": 1, "repaired": 1}
    {"type": "end", "ok": true}

Rules: one walk at a time; the same rules as in the background: nothing is held, mending looks under locks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Any, Final

from aiohttp import web

from sqlitecluster.errors import NoSuchDatabase
from sqlitecluster.replicator.mending import Mender
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.verifier import PATIENCE, Verifier
from sqlitecluster.units import check_database_name

_PAUSE_S: Final = 0.02  # between two looks at a suspect


class VerifyApi:
    """One walk over one database, or all."""

    def __init__(self, node: NodeServices, mender: Mender, executor: Executor) -> None:
        self._node = node
        self._mender = mender
        self._executor = executor
        self._one = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """For the local API."""
        return [web.get("/verify", self.verify)]

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """GET /verify[?name=D]."""
        databases = self._chosen(request.query.get("name", ""))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        ok = True
        async with self._one:
            for db in databases:
                async for line in self._database(db):
                    ok = ok and not line.get("damaged")
                    await response.write(json.dumps(line).encode() + b"\n")
        await response.write(json.dumps({"type": "end", "ok": ok}).encode() + b"\n")
        await response.write_eof()
        return response

    def _chosen(self, name: str) -> list[DatabaseStore]:
        if name:
            db = self._node.find(check_database_name(name))
            if db is None:
                raise NoSuchDatabase(f"there is no database {name!r} here")
            return [db]
        found = (self._node.find(each) for each in self._node.store.names())
        return [db for db in found if db is not None and db.commit]

    async def _database(self, db: DatabaseStore) -> AsyncIterator[dict[str, Any]]:
        book, total = self._node.store.damage, db.commit * db.page_size + db.files.size
        found, repaired = _sum(book.found, db.name), _sum(book.repaired, db.name)
        done = 0
        for info in db.files.files:
            await self._run(db.read, db.piece(info))
            done += info.size
            yield {"type": "progress", "db": db.name, "bytes": done, "total": total}
        verifier, looks = Verifier(db.dir / "database", db.dir / "wal", db.checksums), 0
        while verifier.rounds == 0 or looks < PATIENCE:
            wrong = await self._run(verifier.step)
            if wrong:
                await self._mender.suspect(db, wrong)
            if verifier.rounds:
                looks += 1  # what was seen last gets its looks, too
                await asyncio.sleep(_PAUSE_S)
            elif db.page_size:
                yield {"type": "progress", "db": db.name, "bytes": done + verifier.seen * db.page_size, "total": total}
            else:
                break
        yield {
            "type": "database",
            "db": db.name,
            "pages": verifier.verified,
            "ltxFiles": len(db.files.files),
            "damaged": sorted(self._mender.damaged.get(db.name, ())),
            "found": _sum(book.found, db.name) - found,
            "repaired": _sum(book.repaired, db.name) - repaired,
        }

    async def _run(self, call: Any, *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


def _sum(table: dict[tuple[str, str], int], name: str) -> int:
    return sum(count for (_kind, database), count in table.copy().items() if database == name)
