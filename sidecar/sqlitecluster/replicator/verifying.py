"""``verify: Background``: compares images with their page checksums while the node runs.

One small step (1 MiB of one database) each ``verifyIntervalS``, in an executor thread, database
after database. What stays different is given to ``mending``, which looks again under locks.

Rules: never holds a lock, never changes anything itself.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor

from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.replicator.services import NodeServices
from sqlitecluster.shared import ROLE_FENCED, ROLE_PRIMARY, NodeWord, Word
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.journals import has_hot_journal
from sqlitecluster.store.verifier import Verifier

log = logging.getLogger(__name__)

Suspect = Callable[[DatabaseStore, Sequence[int]], Awaitable[None]]


class BackgroundVerifier:
    """Walks over all open databases."""

    def __init__(self, node: NodeServices, executor: Executor, suspect: Suspect) -> None:
        self._node = node
        self._executor = executor
        self._suspect = suspect
        self.verifiers: dict[str, Verifier] = {}
        """By database; for metrics and ``/verify``."""
        self._turn = 0

    async def run(self) -> None:
        """Until cancelled; does nothing when verifying is off."""
        while self._node.config.verify != "Off":
            await asyncio.sleep(self._node.config.verify_interval_s)
            db = self._next()
            if db is not None:
                await self.step(db)

    async def step(self, db: DatabaseStore) -> None:
        """Look at the next piece of one database."""
        verifier = self.verifiers.get(db.name)
        if verifier is None:
            verifier = self.verifiers[db.name] = Verifier(db.dir / "database", db.dir / "wal", db.checksums)
        try:
            look = functools.partial(verifier.step, functools.partial(self._is_settled, db))
            wrong = await asyncio.get_running_loop().run_in_executor(self._executor, look)
            if wrong:
                await self._suspect(db, wrong)
        except (SQLiteClusterError, OSError) as error:
            log.info("%s: cannot be verified now: %s", db.name, error)
        except Exception:  # a verifier that ended would find nothing any more
            log.exception("%s: verifying failed; it goes on", db.name)

    def _is_settled(self, db: DatabaseStore) -> bool:
        """Whether no transaction is under way, waits for acknowledgements, or to be shown once it is committed.

        A long transaction in a rollback mode writes pages before its end.
        """
        if db.in_flight:
            return False
        state = self._node.state
        if state.node[NodeWord.ROLE] not in (ROLE_PRIMARY, ROLE_FENCED):
            return db.applied == db.position.txid
        slot = state.find(db.name)
        return slot is not None and not state.slot(slot)[Word.DIRTY_RAW] and not has_hot_journal(db.dir)

    def _next(self) -> DatabaseStore | None:
        """The database whose turn it is, walking on when one was seen whole."""
        databases = sorted((db for db in self._node.store.opened() if db.commit), key=lambda db: db.name)
        if not databases:
            return None
        self._turn += 1
        return databases[self._turn % len(databases)]
