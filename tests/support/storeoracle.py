"""What must be true of a store that was opened after a crash, whatever the crash left of it.

``Expected`` is made of the notes of a trace up to the crash; ``check`` opens what is in a folder with
the production recovery and raises ``Wrong`` with the first thing that is not so:

    1. It opens, and no file counts as damaged.
    2. The position is one that was attempted, and not older than the newest that was promised.
    3. The chain leads to the position without a gap, every LTX file verifies, and what it makes of the
       pages where it begins are the pages of that position.
    4. Page checksums add up to the position's checksum, or say that they know nothing.
    5. Readers that could be led on before still can.
    6. Nothing unfinished is left; opening it once more changes nothing.
    7. Work goes on: the next transaction is taken, synced, and found again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sqlitecluster.ltx import decode, page_checksum
from sqlitecluster.replication.position import Position
from sqlitecluster.store import boot, recovery
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.node import NodeStore
from sqlitecluster.store.state import OWNER_SIDECAR
from support.crashdisk import Content
from support.store_model import ManualClock, Model
from support.storetrace import RING, SEGMENT, Base, Note


class Wrong(Exception):
    """Something that must never be was seen."""


@dataclass(slots=True)
class _Known:
    promised: int = 0
    kept: int = 0
    attempted: int = 0
    reach: list[int] = field(default_factory=lambda: [0])


class Expected:
    """What was promised up to a place of a trace."""

    def __init__(self) -> None:
        self.known: dict[str, _Known] = {}

    def hear(self, note: Note) -> None:
        """One more note."""
        known = self.known.setdefault(note.name, _Known())
        if note.kind == "promised":
            known.promised = note.value
            known.reach = known.reach[-1:]
            known.kept = known.kept if note.value else 0
        elif note.kind == "kept":
            known.kept = note.value
        elif note.kind == "attempted":
            known.attempted = note.value
        else:
            known.reach.append(note.value)

    def floor(self, name: str, *, killed: bool) -> int:
        """The oldest point that may be found."""
        known = self.known.get(name)
        if known is None:
            return 0
        return max(known.promised, known.kept) if killed else known.promised


class Boot:
    """Lets this process believe that the machine was started anew, or that it was not."""

    def __init__(self) -> None:
        self._real, self.number = boot.boot_id, 1

    def __enter__(self) -> Self:
        boot.boot_id = lambda: self.number  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        boot.boot_id = self._real


def write_content(folder: Path, content: Content) -> None:
    """Put a disk's content into an empty folder."""
    base = os.fspath(folder)
    for path, data in content.items():
        if data is None:
            os.mkdir(f"{base}/{path}")
            continue
        fd = os.open(f"{base}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.write(fd, data)
        os.close(fd)


class Check:
    """One look at one content."""

    def __init__(
        self, folder: Path, bases: dict[str, Base], expected: Expected, *, killed: bool, is_replica: bool
    ) -> None:
        self.folder, self._bases, self._expected = folder, bases, expected
        self._killed, self._is_replica = killed, is_replica
        self.emptied = 0
        self.emptied_by_kill = 0
        """Databases whose page checksums have to be made anew."""

    def run(self, *, go_on: bool) -> None:
        """All of it."""
        store = self._prepare()
        found = {name: self._database(store.open(name), self._bases[name]) for name in self._present(store)}
        self._leftovers(store)
        self._absent(store)
        release(store)
        again = self._prepare()
        for name, position in found.items():
            if again.open(name).position != position:
                raise Wrong(f"{name}: opened again it is at {again.open(name).position}, before at {position}")
            self._database(again.open(name), self._bases[name])
        self._close(again, found)
        if go_on:
            self._go_on(found)

    def _opened(self) -> NodeStore:
        return NodeStore(self.folder, clock=ManualClock(), segment_size=SEGMENT, ring_bytes=RING)

    def _prepare(self) -> NodeStore:
        store = self._opened()
        for name in store.names():
            recovery.prepare_database(store, name, is_replica=self._is_replica)
        store.open_recovered()
        return store

    def _present(self, store: NodeStore) -> list[str]:
        return [name for name in store.names() if name in self._bases]

    def _absent(self, store: NodeStore) -> None:
        for name in self._bases.keys() - set(store.names()):
            if self._expected.floor(name, killed=self._killed) > 0:
                raise Wrong(f"{name}: the database is gone")

    def _database(self, db: DatabaseStore, base: Base) -> Position:
        point = self._point(db, base)
        self._chain(db, base, point)
        pages = base.points[point].pages
        self._sums(db, pages)
        if (self._is_replica or db.owner == OWNER_SIDECAR) and not any(db.dir.glob("install-*")):
            self._image(db, pages)
        return db.position

    def _point(self, db: DatabaseStore, base: Base) -> int:
        floor = self._expected.floor(base.name, killed=self._killed)
        if self._is_replica and any(db.dir.glob("install-*")):
            floor = 0  # a whole image is about to take the place of everything; apply begins anew with it
        known = self._expected.known.get(base.name, _Known())
        for index in range(known.attempted, floor - 1, -1):
            if base.points[index].position == db.position:
                return index
        wanted = ", ".join(str(base.points[index].position) for index in range(floor, known.attempted + 1))
        raise Wrong(f"{base.name}: at {db.position}, which is none of {wanted or 'none'}")

    def _chain(self, db: DatabaseStore, base: Base, point: int) -> None:
        start = db.earliest()
        known = self._expected.known.get(base.name, _Known())
        if start > max(known.reach) and start > 0 and not any(db.dir.glob("install-*")):
            raise Wrong(f"{base.name}: the chain begins at {start:x}; readers at {max(known.reach):x} could be led on")
        if start == db.position.txid:
            return
        blobs = list(db.since(start) or ())
        pages, at = replay(blobs, _pages_at(base, start, point), start)
        if at != db.position:
            raise Wrong(f"{base.name}: the chain ends at {at}, the position is {db.position}")
        if pages is not None and pages != _padded(base.points[point].pages, base.points[point].page_size):
            raise Wrong(f"{base.name}: the chain does not make the pages of {db.position}")

    def _sums(self, db: DatabaseStore, pages: dict[int, bytes]) -> None:
        checksums = db.checksums
        if db.position.is_zero or checksums.rolling == db.position.checksum:
            for pgno, page in pages.items() if not db.position.is_zero else ():
                if checksums.get(pgno) != page_checksum(pgno, page):
                    raise Wrong(f"{db.name}: the checksum of page {pgno} is not its checksum")
            return
        if not db.needs_compare:
            raise Wrong(f"{db.name}: page checksums are {checksums.rolling:x}, the position is {db.position}")
        if self._killed and not any(db.dir.glob("install-*")):
            self.emptied_by_kill += 1  # nothing is lost, but the next start reads the whole image
        self.emptied += 1

    def _image(self, db: DatabaseStore, pages: dict[int, bytes]) -> None:
        if db.needs_compare or db.position.is_zero or db.owner != OWNER_SIDECAR:
            return
        data = (db.dir / "database").read_bytes() if (db.dir / "database").exists() else b""
        if data != b"".join(pages[pgno] for pgno in sorted(pages)):
            raise Wrong(f"{db.name}: the database file is not what {db.position} says")

    def _leftovers(self, store: NodeStore) -> None:
        if store.corrupt_files:
            raise Wrong(f"{store.corrupt_files} files were found damaged")
        for path in (self.folder / "dbs").glob("*/ltx/**/*.tmp"):
            raise Wrong(f"{path.relative_to(self.folder)} is left over")

    def _close(self, store: NodeStore, found: dict[str, Position]) -> None:
        store.close()
        third = self._opened()
        for name, position in found.items():
            if third.open(name).position != position:
                raise Wrong(f"{name}: after an orderly stop it is at {third.open(name).position}, not at {position}")
        release(third)

    def _go_on(self, found: dict[str, Position]) -> None:
        store = self._opened()
        for name in found:
            db = store.open(name)
            model = Model(db, 512)
            model.pages = {1: bytes(512)}
            blob, header, post = model.transaction({1: b"SQLite format 3\0and on"})
            db.append(blob, header, post, [1], [page_checksum(1, model.pages[1])])
        store.log.sync()
        release(store)
        again = self._opened()
        for name, position in found.items():
            if again.open(name).position.txid != position.txid + 1:
                raise Wrong(f"{name}: the transaction after {position} is not found again")
        again.close()


def release(store: NodeStore) -> None:
    """As a kill would: descriptors go, nothing is written."""
    for segment in store.log.segments.values():
        segment.close()


def replay(
    blobs: Sequence[bytes], pages: dict[int, bytes] | None, txid: int
) -> tuple[dict[int, bytes] | None, Position]:
    """Apply a chain to pages (None: not known); every file is verified against the one before."""
    at: Position | None = None
    for blob in blobs:
        file = decode(blob)
        header = file.header
        if header.min_txid > txid + 1 or header.max_txid <= txid:
            raise Wrong(f"after {txid:x} the chain goes on with {header.min_txid:x} to {header.max_txid:x}")
        if at is not None and header.min_txid == txid + 1 != 1 and header.pre_apply != at.checksum:
            raise Wrong(f"transaction {header.min_txid:x} does not continue {at}")
        whole = header.min_txid == 1
        pages = _applied({} if whole else pages, file.pages, header.commit, header.page_size)
        txid, at = header.max_txid, Position(header.max_txid, file.trailer.post_apply)
    return pages, at or Position(0, 0)


def _applied(
    pages: dict[int, bytes] | None, changes: Iterable[tuple[int, bytes]], commit: int, page_size: int
) -> dict[int, bytes] | None:
    if pages is None:
        return None
    merged = pages | {pgno: bytes(page) for pgno, page in changes}
    return {pgno: page for pgno, page in merged.items() if pgno <= commit and len(page) == page_size}


def _pages_at(base: Base, txid: int, point: int) -> dict[int, bytes] | None:
    for index in range(point, -1, -1):
        if base.points[index].position.txid == txid:
            return _padded(base.points[index].pages, base.points[index].page_size)
    return None


def _padded(pages: dict[int, bytes], page_size: int) -> dict[int, bytes]:
    return {pgno: page.ljust(page_size, b"\0") for pgno, page in pages.items()}
