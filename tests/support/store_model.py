"""A database in miniature for the store's tests: pages in a dict, transactions as LTX blobs."""

from __future__ import annotations

from pathlib import Path

from sqlitecluster.ltx import CHECKSUM_FLAG, Header, encode, page_checksum
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.node import NodeStore

PAGE = 512


class ManualClock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


class RecordingDisk(Disk):
    """Notes what was synced, and fails when told."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.failing = False

    def fdatasync(self, fd: int) -> None:
        self.synced.append("fdatasync")
        super().fdatasync(fd)

    def allocate(self, fd: int, size: int) -> None:
        if self.failing:
            from sqlitecluster.errors import NoSpace

            raise NoSpace("the disk is full: test")
        super().allocate(fd, size)


class Model:
    """What a database must contain; makes the transactions that lead there."""

    def __init__(self, store: DatabaseStore, page_size: int = PAGE) -> None:
        self.store = store
        self.page_size = page_size
        self.pages: dict[int, bytes] = {}

    @property
    def commit(self) -> int:
        return max(self.pages, default=0)

    def image(self) -> bytes:
        return b"".join(self.pages[n] for n in range(1, self.commit + 1))

    def checksum(self) -> int:
        total = 0
        for pgno, page in self.pages.items():
            total ^= page_checksum(pgno, page)
        return total | CHECKSUM_FLAG

    def transaction(
        self, changes: dict[int, bytes], commit: int | None = None, **fields: int
    ) -> tuple[bytes, Header, int]:
        """LTX bytes, header and checksum of the next transaction; the model is changed."""
        at = self.store.position
        for pgno, text in changes.items():
            self.pages[pgno] = text.ljust(self.page_size, b"\0")
        if commit is not None:
            self.pages = {pgno: page for pgno, page in self.pages.items() if pgno <= commit}
        header = Header(
            page_size=self.page_size,
            commit=self.commit,
            min_txid=at.txid + 1,
            max_txid=at.txid + 1,
            timestamp_ms=1_700_000_000_000 + at.txid,
            pre_apply=at.checksum,
            **fields,
        )
        pages = [(pgno, self.pages[pgno]) for pgno in sorted(changes) if pgno in self.pages]
        post = self.checksum()
        return encode(header, pages, post), header, post

    def write(self, changes: dict[int, bytes], commit: int | None = None, **fields: int) -> bytes:
        """Append the next transaction to the store; returns its bytes."""
        blob, header, post = self.transaction(changes, commit, **fields)
        pgnos = [pgno for pgno in sorted(changes) if pgno in self.pages]
        self.store.append(blob, header, post, pgnos, [page_checksum(n, self.pages[n]) for n in pgnos])
        return blob

    def write_many(self, count: int) -> None:
        """``count`` small transactions."""
        for _ in range(count):
            n = self.store.position.txid + 1
            self.write({1: b"SQLite format 3\0" + b"%d" % n, 2 + n % 5: b"row %d" % n} | self._gaps(n))

    def _gaps(self, n: int) -> dict[int, bytes]:
        return {pgno: b"empty" for pgno in range(2, 2 + n % 5) if pgno not in self.pages}


def make(folder: Path, **options: object) -> tuple[NodeStore, Model]:
    """A node store with one database ``app.db``."""
    store = NodeStore(folder, clock=ManualClock(), **options)  # type: ignore[arg-type]
    return store, Model(store.open("app.db"))


def rebuilt(store: DatabaseStore, since: int = 0) -> dict[int, bytes]:
    """The pages that a reader has who applied everything after ``since`` on an empty database."""
    from sqlitecluster.ltx import decode

    pages: dict[int, bytes] = {}
    for blob in store.since(since) or ():
        file = decode(blob)
        pages.update(file.pages)
        pages = {pgno: page for pgno, page in pages.items() if pgno <= file.header.commit}
    return pages
