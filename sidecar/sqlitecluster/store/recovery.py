"""What a node does with its databases before it mounts: bring images and chain together.

Runs in a short-lived process of its own, while nobody has a database open. It decides by
what is there, not by the role alone, so that a data directory may change its role:

    the sidecar wrote the image   its WAL is written back, transactions that the image lacks are
                                  applied again, on a replica those that it may show; after a power
                                  cut the WAL may be older than the database file, only what a
                                  received image needs of it counts
    programs wrote the image      nothing is touched; after a power cut that took the end of a
                                  captured WAL, the WAL is written back and the chain applied;
                                  where the log had every commit first, it counts (``restoring``)
    … and this node is elected    as above; the replicator captures what is there before it follows anybody
    … and this is a replica now   a cut-off transaction is undone, what was never captured goes to
                                  lost+found, the captured part of the WAL is written back

Rules:
    1. O(changed): no image is ever scanned here. What cannot be known without is left to
       the replicator (``needs_compare``).
    2. Every step may be killed and repeated.
    3. One damaged database does not keep the node from starting.
"""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlitecluster import failpoints
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.ltx import TRAILER_SIZE, Trailer
from sqlitecluster.replication.position import Position
from sqlitecluster.store import image, restoring, trash
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.spool import list_spools
from sqlitecluster.store.state import OWNER_PROGRAMS, OWNER_SIDECAR, StateWord
from sqlitecluster.store.walfile import WalPages

if TYPE_CHECKING:
    from sqlitecluster.config.model import NodeConfig

log = logging.getLogger(__name__)

_HEX: Final = re.compile(r"[0-9a-f]{1,16}")


def prepare_node(config: NodeConfig) -> None:
    """Make every database of a node ready to be served."""
    store = NodeStore(config.data_dir)
    is_replica, takes_over = config.role != "primary", config.role == "elected"
    try:
        if is_replica and not takes_over:
            _keep_spools(store, runtime_dir(config))
        for name in store.names():
            try:
                prepare_database(store, name, is_replica=is_replica, takes_over=takes_over)
            except (SQLiteClusterError, OSError, sqlite3.Error) as error:
                log.error("%s: recovery failed, the database is left as it is: %s", name, error)
        restoring.note(store, logged_first=config.replication.holds_back)
    finally:
        store.close()


def prepare_database(store: NodeStore, name: str, *, is_replica: bool, takes_over: bool = False) -> None:
    """Make one database ready to be served; ``takes_over``: what programs wrote is captured, not put aside."""
    database = store.open(name)
    unfinished = _unfinished_install(database)
    if unfinished is not None:
        if not is_replica:  # there, apply does it again, whole
            _finish_install(store, database, *unfinished)
        return
    if image.is_foreign(database.dir / "database", is_ours=database.owner == OWNER_SIDECAR):
        log.warning("%s: the file is not a SQLite database; it is left alone", name)
        return
    if database.owner == OWNER_SIDECAR:
        _finish_applying(store, database, is_replica=is_replica)
        if not is_replica:
            database.set_wal_mark(0, 0, 0, 0)
    elif is_replica and not takes_over and database.owner == OWNER_PROGRAMS:
        _take_from_programs(store, database)
    elif database.after_power_cut and not (restoring.was_logged_first(store) and restoring.restore(store, database)):
        _roll_forward(store, database)
    database.recovered()


def _keep_spools(store: NodeStore, runtime: Path) -> None:
    """Commits of programs that were never captured do not belong to a replica's history."""
    for _slot, _seq, path in list_spools(runtime):  # small ones; another file system
        folder = store.data_dir / "spool"
        folder.mkdir(exist_ok=True)
        shutil.move(path, folder / path.name)
    paths = [path for _slot, _seq, path in list_spools(store.data_dir)]
    if paths:
        kept = store.keep("spool", "not captured before this node became a replica", paths, [])
        log.warning("%d commits that were never replicated are kept in %s", len(paths), kept)


def _unfinished_install(database: DatabaseStore) -> tuple[Path, list[int]] | None:
    """An image that apply received whole and did not finish to install; its name says what it is."""
    for path in sorted(database.dir.glob("install-*")):
        parts = path.name.split("-")[1:]
        if len(parts) == 5 and all(_HEX.fullmatch(part) for part in parts):
            return path, [int(part, 16) for part in parts]
    return None


def _finish_install(store: NodeStore, database: DatabaseStore, path: Path, fields: list[int]) -> None:
    """A replica died while it installed an image, and is the primary now: the image counts."""
    txid, checksum, page_size, pages, timestamp_ms = fields
    if image.image_sums(path, page_size, database.checksums) != checksum:
        kept = store.keep(database.name, "an image that is not what it should be", [path], [])
        log.error("%s: an unfinished install is not what its name says; it is in %s", database.name, kept)
        database.checksums.reset(database.page_size)
        database.checksums.mark(0)
        database.set_needs_compare(True)
        return
    database.reset(Position(txid, checksum), page_size=page_size, commit=pages, timestamp_ms=timestamp_ms)
    database.checksums.mark(txid)
    database.set_applied(txid, checksum)
    database.set_durable(txid)
    database.set_wal_mark(0, 0, 0, 0)
    database.flush()  # before the image takes its place: afterwards nothing says that it is whole
    image.put_in_place(database.dir, path, store.disk)
    database.recovered()
    log.info("%s: an unfinished install was finished, at %s", database.name, database.position)


def _finish_applying(store: NodeStore, database: DatabaseStore, *, is_replica: bool) -> None:
    """The sidecar wrote this image: complete it up to the position, or as far as a replica may show it."""
    if database.commit == 0 and not database.position.is_zero:
        _remove_dropped(store, database)
        return
    wrote = _write_back(store, database)
    start = database.durable if database.after_power_cut else database.applied
    if not (database.dir / "database").exists():
        start = 0
    shown = _shown(database, start) if is_replica else database.position
    if start > database.position.txid:
        _keep_applied(database)
        shown = database.position
    elif start < shown.txid:
        if not _apply_chain(store, database, start, shown.txid):
            shown = database.position
        wrote = True
    failpoints.hit("recovery.before-remove-wal")
    if (database.dir / "wal").exists():
        image.remove_wal(database.dir, store.disk)
    if wrote or database.durable != shown.txid:
        if not wrote:
            image.sync(database.dir, store.disk)  # a replicator writes some of its log back without
        database.set_applied(shown.txid, shown.checksum)
        database.set_image_log(None)
        database.set_durable(shown.txid)
        database.flush()


def _shown(database: DatabaseStore, start: int) -> Position:
    """How far a replica's image may be completed: the primary has not said of the rest that it is committed.

    After a power cut the words may be older than the image, which must be made whole: then it is everything.
    """
    limit = database.commit_limit
    if limit is None or limit >= database.position.txid or database.after_power_cut:
        return database.position
    shown = Position(start, int(database.state.words[StateWord.APPLIED_CHECKSUM]) if start == database.applied else 0)
    while (piece := database.next_after(shown.txid)) is not None and piece.max_txid <= limit:
        data = database.read(piece)
        if data is None:
            return database.position  # damaged: what is shown does not lead to the position
        shown = Position(piece.max_txid, Trailer.parse(data[-TRAILER_SIZE:]).post_apply)
    return shown


def _write_back(store: NodeStore, database: DatabaseStore) -> bool:
    """Write the replica's WAL into its database file; False when there was nothing to write.

    After a power cut the file may be that of before the log started over, with the start of older content: its pages
    were written back and followed by others since. What the log had is in the chain, except a received image.
    """
    if not database.after_power_cut:
        return image.backfill(database.dir, store.disk).commit > 0
    needed = database.image_log
    if needed is None:
        return False
    seen = WalPages(database.dir / "wal")
    seen.refresh(needed.end)
    if seen.header is None or (seen.header.salt1, seen.header.salt2) != (needed.salt1, needed.salt2):
        return False  # it started over, after the database was made durable
    if seen.end < needed.end:
        return False  # some of it was overwritten: the same
    return image.backfill(database.dir, store.disk, needed.end).commit > 0


def _apply_chain(store: NodeStore, database: DatabaseStore, start: int, target: int) -> bool:
    """Complete the image up to ``target``; False when the chain does not lead to the position."""
    if image.write_chain(database, start, store.disk, target) != target:
        _fall_back(database, start)
        return False
    if database.checksums.rolling != database.position.checksum:
        database.set_needs_compare(True)
    return True


def _keep_applied(database: DatabaseStore) -> None:
    """A power cut took the end of the log, but the image has it: the image's position counts."""
    checksum = int(database.state.words[StateWord.APPLIED_CHECKSUM])
    if database.applied != database.durable or not checksum:
        _fall_back(database, 0)
        return
    database.reset(
        Position(database.applied, checksum),
        page_size=database.page_size, commit=database.commit, timestamp_ms=database.timestamp_ms,
    )  # fmt: skip


def _fall_back(database: DatabaseStore, start: int) -> None:
    """The chain does not lead from the image to the position: go back to what the image shows."""
    checksum = int(database.state.words[StateWord.APPLIED_CHECKSUM])
    known = start == database.applied and checksum != 0
    log.error(
        "%s: transactions after %016x are not stored any more; the replica will be synced again from %s",
        database.name, start, "there" if known else "the beginning",
    )  # fmt: skip
    database.set_needs_compare(True)
    back = Position(start, checksum) if known else Position(0, 0)
    database.reset(back, page_size=database.page_size, commit=database.commit, timestamp_ms=database.timestamp_ms)


def _remove_dropped(store: NodeStore, database: DatabaseStore) -> None:
    if (database.dir / "database").exists() or (database.dir / "wal").exists():
        kept = trash.throw(store.data_dir, database.name, store.clock.now_ms())
        log.info("%s: dropped by the primary; its files are in %s", database.name, kept)
    database.set_applied(database.position.txid, database.position.checksum)
    database.set_durable(database.position.txid)


def _take_from_programs(store: NodeStore, database: DatabaseStore) -> None:
    """This node was the primary; now the image must be what the chain says."""
    folder = database.dir
    image.roll_back_journal(folder)
    mark = database.wal_mark
    seen = WalPages(folder / "wal")
    seen.refresh()
    captured = 0
    if (
        mark is not None
        and seen.header is not None
        and (seen.header.salt1, seen.header.salt2) == (mark.salt1, mark.salt2)
    ):
        captured = min(mark.end, seen.end)
    leftovers = sorted(folder.glob("wal.*.gone"))
    if seen.commit and seen.end > captured:
        leftovers.append(folder / "wal")
    if captured:
        image.backfill(folder, store.disk, captured)
    failpoints.hit("recovery.before-keep-wal")
    if leftovers:
        kept = store.keep(database.name, "not captured before this node became a replica", leftovers, [])
        log.warning("%s: commits that were never replicated are kept in %s", database.name, kept)
    if (folder / "wal").exists():
        image.remove_wal(folder, store.disk)
    image.sync(folder, store.disk)  # programs need not have
    database.set_wal_mark(0, 0, 0, 0)
    database.set_needs_compare(True)  # what was written without being captured may be in the image
    database.set_applied(database.position.txid, database.position.checksum)
    database.set_durable(database.position.txid)
    database.flush()


def _roll_forward(store: NodeStore, database: DatabaseStore) -> None:
    """After a power cut of a primary: put back what was captured, but lost from the end of the WAL.

    Only where it is certain that the image is an older state of the same history: the WAL
    is the captured one and shorter. SQLite syncs a WAL before it writes pages back, so
    the database file holds nothing beyond it.
    """
    database.set_needs_compare(True)
    mark = database.wal_mark
    seen = WalPages(database.dir / "wal")
    seen.refresh()
    if mark is None or seen.header is None or seen.end >= mark.end:
        return
    if (seen.header.salt1, seen.header.salt2) != (mark.salt1, mark.salt2):
        return
    log.warning(
        "%s: the WAL lost %d captured bytes; they are put back from the log", database.name, mark.end - seen.end
    )
    image.backfill(database.dir, store.disk)
    if image.write_chain(database, database.earliest(), store.disk) == database.position.txid:
        image.remove_wal(database.dir, store.disk)
        database.set_wal_mark(0, 0, 0, 0)
