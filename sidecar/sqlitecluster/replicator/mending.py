"""What follows when bit rot is found: look again, get a good copy, put it back, tell.

    pages        from a peer (a replica asks its primary, a primary its replicas), else from this
                 node's own stored transactions; written by the role (``mend_primary``, ``mend_replica``).
                 A replica for which that fails takes the whole database from the primary
    checksums    an array that does not add up is put right from the image, if that does
    LTX files    a file that was moved to lost+found, and that nothing else replaces, is fetched
                 from a peer; without one a new snapshot, or the retention, closes the gap

Made by ``replicator.node``; ``verifying`` and the store report to it.

Rules:
    1. Everything here waits only with a deadline, and a failure is tried again in the next walk.
    2. What cannot be mended stays a problem with its page numbers (``ImageDamaged``); programs go on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final, TypeVar

from sqlitecluster.errors import CorruptLTX, FormatError, LimitError, SQLiteClusterError
from sqlitecluster.replicator.judging import Verdict
from sqlitecluster.replicator.peer_pages import MOST_PAGES, PeerPages
from sqlitecluster.replicator.roles import Role
from sqlitecluster.replicator.services import NodeServices, PrimaryAddress
from sqlitecluster.replicator.stream_server import ReplicaStream
from sqlitecluster.store import chain, damage
from sqlitecluster.store.damage import Gap
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.pagefinder import find_gaps, find_pages

log = logging.getLogger(__name__)

T = TypeVar("T")

CODE: Final = "ImageDamaged"
TRIES: Final = 8
_PAUSE_S: Final = 0.2
_LOOK_S: Final = 0.5
_GAPS_S: Final = 10.0
_MOST_TRIED: Final = 1000


class Mender:
    """Repairs databases of this node."""

    def __init__(
        self,
        node: NodeServices,
        executor: Executor,
        role: Callable[[], Role],
        streams: Callable[[], Sequence[ReplicaStream]],
    ) -> None:
        self._node = node
        self._executor = executor
        self._role = role
        self._streams = streams
        self.peers = PeerPages(node)
        self.damaged: dict[str, set[int]] = {}
        """Pages that are damaged and could not be mended, by database."""
        self._tried: set[Gap] = set()

    async def run(self) -> None:
        """Close gaps in the stored transactions, until cancelled."""
        look_s = min(_GAPS_S, self._node.config.scrub_interval_s)
        next_look = time.monotonic() + look_s
        while True:
            await asyncio.sleep(_LOOK_S)
            gap = self._node.store.damage.take_gap()
            if gap is not None:
                await self._try(gap)
            elif time.monotonic() >= next_look:
                next_look = time.monotonic() + look_s
                for db in self._node.store.opened():
                    for gap in find_gaps(db):
                        await self._try_once(gap)

    async def _try_once(self, gap: Gap) -> None:
        if gap not in self._tried:
            self._tried = {*list(self._tried)[-_MOST_TRIED:], gap}
            self._node.store.damage.note_found(gap.kind, gap.database)
            await self._try(gap)

    async def _try(self, gap: Gap) -> None:
        try:
            await self.close_gap(gap)
        except (SQLiteClusterError, OSError) as error:
            log.warning("%s: damaged transactions could not be replaced: %s", gap.database, error)

    # -- pages -----------------------------------------------------------------------

    async def suspect(self, db: DatabaseStore, pages: Sequence[int]) -> None:
        """Some pages stayed different from their checksums: look again under locks, and mend."""
        left, told = sorted(set(pages))[:MOST_PAGES], set[int]()
        good: dict[int, bytes] = {}
        for turn in range(TRIES):
            try:
                found = await self._run(self._role().mend, db.name, left, good)
            except (SQLiteClusterError, OSError) as error:
                log.info("%s: suspected pages cannot be looked at now: %s", db.name, error)
                await asyncio.sleep(_PAUSE_S * (turn + 1))
                continue
            self._count(db, found, told)
            left = found.left
            if not left:
                break
            good = await self._copies(db, left)
            if not good:
                await asyncio.sleep(_PAUSE_S * (turn + 1))
        else:
            if not told:
                return  # never seen under locks: the next walk suspects it again
        self._tell(db, left)

    def _count(self, db: DatabaseStore, found: Verdict, told: set[int]) -> None:
        book = self._node.store.damage
        if found.rebuilt:
            book.note_found(damage.CHECKSUMS, db.name, len(found.rebuilt))
            book.note_repaired(damage.CHECKSUMS, db.name, len(found.rebuilt))
            log.warning("%s: page checksums of pages %s were damaged; they are right again", db.name, found.rebuilt)
        new = set(found.damaged) - told - self.damaged.get(db.name, set())
        if new:
            book.note_found(damage.PAGE, db.name, len(new))
            kept = self._node.store.keep(
                db.name, "damaged pages", [], [(f"page-{pgno}", found.bad[pgno]) for pgno in sorted(new)]
            )
            text = "%s: pages %s are damaged; what they hold is kept in %s"
            log.error(text, db.name, sorted(new)[:10], kept, extra={"code": CODE})
            told |= new
        if found.mend:
            book.note_repaired(damage.PAGE, db.name, len(found.mend))
            log.warning("%s: pages %s have their content again", db.name, sorted(found.mend)[:10])

    def _tell(self, db: DatabaseStore, left: Sequence[int]) -> None:
        """Report what stays damaged, or that nothing does."""
        if not left:
            self.damaged.pop(db.name, None)
            self._node.problems.clear(CODE, db.name)
            return
        self.damaged[db.name] = set(left)
        text = f"pages {list(left)[:10]} are not what was committed; no peer has them ({len(left)} pages are damaged)"
        self._node.problems.report(CODE, text, db.name)
        self._role().damaged(db.name)

    async def _copies(self, db: DatabaseStore, pages: Sequence[int]) -> dict[int, bytes]:
        """Good copies of pages, of whoever has them."""
        good: dict[int, bytes] = {}
        for peer in self._peers():
            missing = [pgno for pgno in pages if pgno not in good]
            if missing:
                good |= await self.peers.ask_pages(peer, db.name, missing)
        if missing := [pgno for pgno in pages if pgno not in good]:
            good |= await self._run(find_pages, db, missing)
        return good

    # -- stored transactions ---------------------------------------------------------

    async def close_gap(self, gap: Gap) -> None:
        """Replace a damaged LTX file, if something else does not do so already."""
        db = self._node.find(gap.database)
        if db is None or db.files.covers(gap.min_txid, gap.max_txid) or db.position.txid < gap.max_txid:
            self._closed(gap, "other files hold the same transactions")
            return
        for peer in self._peers():
            if await self._fetch(db, peer, gap):
                self._closed(gap, f"fetched from {peer.name or peer.url}")
                return
        if db.reaches(gap.max_txid):
            text = f"no copy of a damaged LTX file ({gap.min_txid:016x} to {gap.max_txid:016x}); it is in lost+found"
            self._node.problems.report(CorruptLTX.code, text, gap.database)

    async def _fetch(self, db: DatabaseStore, peer: PrimaryAddress, gap: Gap) -> bool:
        txid = gap.min_txid
        while txid <= gap.max_txid:
            data = await self.peers.ask_ltx(peer, db.name, txid)
            if data is None:
                return False
            try:
                txid = await self._run(_take, db, data, txid)
            except (FormatError, LimitError, CorruptLTX) as error:
                log.warning("%s: what %s sent is no good copy: %s", db.name, peer.url, error)
                return False
        return True

    def _closed(self, gap: Gap, how: str) -> None:
        log.info("%s: transactions %016x to %016x: %s", gap.database, gap.min_txid, gap.max_txid, how)
        self._node.store.damage.note_repaired(gap.kind, gap.database)
        self._node.problems.clear(CorruptLTX.code, gap.database)

    # -- who -------------------------------------------------------------------------

    def _peers(self) -> list[PrimaryAddress]:
        """Whom to ask: the primary, or the replicas that are connected and in sync."""
        address = self._role().address
        if address is not None:
            return [address]
        scheme = "http" if self._node.identity is None else "https"
        found = []
        for stream in self._streams():
            host = f"[{stream.address}]" if ":" in stream.address else stream.address
            if stream.peer.port and stream.address:
                found.append(PrimaryAddress(stream.peer.name, f"{scheme}://{host}:{stream.peer.port}"))
        return found

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, functools.partial(call, *args))

    async def close(self) -> None:
        """Close connections to peers."""
        await self.peers.close()


def _take(db: DatabaseStore, data: bytes, txid: int) -> int:
    """Store a fetched LTX file; the next transaction that is wanted."""
    header, post = chain.verify_piece(data, txid)
    chain.check_neighbours(db, header, post)
    db.files.install(0, header.min_txid, header.max_txid, (data,))
    return header.max_txid + 1
