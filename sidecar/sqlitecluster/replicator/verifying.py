"""``verify: Background``: compares images with their page checksums while the node runs.

One small step (1 MiB of one database) a second, in an executor thread, database after
database. A page that stays wrong is reported; a replica also asks for a snapshot.

Rules: never holds a lock, never changes anything itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.verifier import Verifier

log = logging.getLogger(__name__)

STEP_S: Final = 1.0
CODE: Final = "ImageDamaged"


class BackgroundVerifier:
    """Walks over all open databases."""

    def __init__(self, node: NodeServices, executor: Executor, damaged: Callable[[str], None]) -> None:
        self._node = node
        self._executor = executor
        self._damaged = damaged
        self._verifiers: dict[str, Verifier] = {}
        self._turn = 0

    async def run(self) -> None:
        """Until cancelled; does nothing when verifying is off."""
        while self._node.config.verify != "Off":
            await asyncio.sleep(STEP_S)
            db = self._next()
            if db is not None:
                await self._step(db)

    async def _step(self, db: DatabaseStore) -> None:
        verifier = self._verifiers.get(db.name)
        if verifier is None:
            verifier = Verifier(db.dir / "database", db.dir / "wal", db.checksums)
            self._verifiers[db.name] = verifier
        try:
            wrong = await asyncio.get_running_loop().run_in_executor(self._executor, verifier.step)
        except OSError as error:
            log.info("%s: cannot be verified now: %s", db.name, error)
            return
        if wrong:
            text = f"pages {wrong[:10]} are not what was replicated; {len(wrong)} pages differ"
            self._node.problems.report(CODE, text, db.name)
            self._damaged(db.name)

    def _next(self) -> DatabaseStore | None:
        """The database whose turn it is, walking on when one was seen whole."""
        databases = sorted((db for db in self._node.store.opened() if db.commit), key=lambda db: db.name)
        if not databases:
            return None
        self._turn += 1
        return databases[self._turn % len(databases)]
