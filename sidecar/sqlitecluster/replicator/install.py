"""Brings a whole image into a replica's database, whatever is there now.

    create      nothing is there, or an empty file: the bytes are copied in through the mount
    differences same page size: pages that differ, to be appended as one WAL transaction, so
                that open connections go on and see it like any other commit
    remove      another page size, or a drop: the files go; handles that are still open
                keep the old file, and are poisoned when programs must reopen

The image stays in the database's folder as ``install-…`` until everything is done; a
successor that finds one does it all again (each step may be repeated).

Rules:
    1. Files appear and vanish through the mount only: the kernel remembers names.
    2. A file that is not empty and does not start as a SQLite database is never touched.
    3. The image was verified against its position by whoever made it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sqlitecluster import failpoints
from sqlitecluster.errors import FormatError, NotADatabase
from sqlitecluster.ltx import LTXFile, image_checksums
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator import through
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.walfile import FRAME_HEADER_SIZE, HEADER_SIZE, Page
from sqlitecluster.replicator.walsession import WalSession
from sqlitecluster.replicator.walwriter import write_buffers
from sqlitecluster.replicator.work import Install
from sqlitecluster.store.checksums import ChecksumArray
from sqlitecluster.store.marks import ImageLog
from sqlitecluster.units import lock_page

_BATCH: Final = 1 << 20
_PREFIX: Final = "install-"
_MAGIC: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Image:
    """A verified image in the database's folder; its file name says the rest."""

    path: Path
    page_size: int
    pages: int
    position: Position
    timestamp_ms: int

    @classmethod
    def find(cls, folder: Path) -> Image | None:
        """What an earlier process left, or None."""
        for path in sorted(folder.glob(_PREFIX + "*")):
            with contextlib.suppress(ValueError, FormatError):
                txid, checksum, page_size, pages, timestamp = (
                    int(part, 16) for part in path.name.removeprefix(_PREFIX).split("-")
                )
                return cls(path, page_size, pages, Position(txid, checksum), timestamp)
        return None

    @classmethod
    def take(cls, work: Install, folder: Path) -> Image:
        """Move a received image into the folder; from now on the install will be finished."""
        at = work.position
        name = f"{_PREFIX}{at.txid:x}-{at.checksum:x}-{work.page_size:x}-{work.pages:x}-{work.timestamp_ms:x}"
        for old in folder.glob(_PREFIX + "*"):
            old.unlink()
        os.replace(work.image, folder / name)
        _sync_folder(folder)
        return cls(folder / name, work.page_size, work.pages, at, work.timestamp_ms)

    def batches(self) -> Iterator[tuple[int, bytes]]:
        """(first page number, bytes of whole pages), in order."""
        step = max(1, _BATCH // self.page_size)
        with open(self.path, "rb") as file:
            for first in range(1, self.pages + 1, step):
                count = min(step, self.pages + 1 - first)
                data = file.read(count * self.page_size)
                yield first, data + bytes(count * self.page_size - len(data))

    def discard(self) -> None:
        """Remove it, for good: found again later, it would take the place of newer transactions."""
        self.path.unlink(missing_ok=True)
        _sync_folder(self.path.parent)


def from_ltx(file: LTXFile, folder: Path) -> Install:
    """A snapshot in LTX form as an image file."""
    header = file.header
    path = folder / "incoming.tmp"
    with open(path, "wb") as out:
        for pgno, page in file.pages:
            out.seek((pgno - 1) * header.page_size)
            out.write(page)
        out.truncate(header.commit * header.page_size)
        out.flush()
        os.fsync(out.fileno())
    position = Position(header.max_txid, file.trailer.post_apply)
    return Install("", path, header.page_size, header.commit, position, header.timestamp_ms, False)


def state_of(path: Path) -> str:
    """``missing``, ``empty`` or ``database``.

    Raises:
        NotADatabase: the file holds something else.
    """
    try:
        head = through.read_start(path, 16)
    except FileNotFoundError:
        return "missing"
    if not head:
        return "empty"
    if head != _MAGIC:
        raise NotADatabase("header", head, f"{path.name} is not a SQLite database; it is left alone")
    return "database"


def create(image: Image, paths: DbPaths) -> None:
    """Copy the image into a new or empty file, through the mount; programs wait at the gate."""
    through.make_folders(paths.database.parent)
    fd = through.open_fd(paths.database, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Page 1 comes last: without its magic an unfinished copy is no database.
        first_page = b""
        for first, data in image.batches():
            if first == 1:
                first_page, data = data[: image.page_size], data[image.page_size :]
                first = 2
            if data and np.frombuffer(data, np.uint64).any():  # a hole stays a hole
                write_buffers(fd, [data], (first - 1) * image.page_size)
            failpoints.hit("install.copying")
        write_buffers(fd, [first_page], 0)
        os.ftruncate(fd, image.pages * image.page_size)
        os.fsync(fd)
    finally:
        os.close(fd)


def clear_unfinished(paths: DbPaths) -> None:
    """Empty a file that ``create`` did not finish: it has size, but not yet its first page."""
    with contextlib.suppress(FileNotFoundError):
        head = through.read_start(paths.database, 16)
        if head and not any(head):
            through.truncate(paths.database, 0)


def differences(image: Image, session: WalSession) -> Iterator[list[Page]]:
    """Pages of the image that differ from what readers of the database see, in batches."""
    reader = ContentReader(session)
    size = image.page_size
    skip = lock_page(size)
    found = False
    for first, data in image.batches():
        count = len(data) // size
        wanted = np.frombuffer(data, np.uint8).reshape(count, size)
        present = np.frombuffer(reader.read(first, count), np.uint8).reshape(count, size)
        differ = (wanted != present).any(axis=1)
        if first + count - 1 > reader.pages:
            differ[max(0, reader.pages + 1 - first) :] = True
        numbers = [int(i) for i in np.flatnonzero(differ) if first + int(i) != skip]
        batch: list[Page] = [(first + i, data[i * size : (i + 1) * size]) for i in numbers]
        if batch:
            found = True
            yield batch
    if not found and image.pages != reader.pages:
        _first, data = next(image.batches())
        yield [(1, data[:size])]


def log_of(image: Image, session: WalSession) -> ImageLog | None:
    """What of an image that was just installed only the log has."""
    header = session.index.read()
    assert header is not None
    if not header.mx_frame:
        return None
    end = HEADER_SIZE + header.mx_frame * (FRAME_HEADER_SIZE + session.page_size)
    salt1, salt2 = int.from_bytes(header.salt[:4], "big"), int.from_bytes(header.salt[4:], "big")
    return ImageLog(image.position.txid, salt1, salt2, end)


class ContentReader:
    """Committed content of a database whose WRITE lock we hold: newest frame, else the file."""

    def __init__(self, session: WalSession, db_fd: int = -1) -> None:
        """``db_fd``: another way to the database file, past what the kernel cached of the mount."""
        self._session = session
        self._db_fd = db_fd if db_fd >= 0 else session.db_fd
        header = session.index.read()
        assert header is not None
        self.page_size = session.page_size
        size = os.fstat(session.db_fd).st_size // session.page_size
        self.pages = header.pages if header.mx_frame else size
        numbers = session.index.pgnos(header.mx_frame)
        self._frames: npt.NDArray[np.int64] = np.zeros(max(self.pages, int(numbers.max(initial=0))) + 1, np.int64)
        self._frames[numbers] = np.arange(1, len(numbers) + 1)  # the last, newest one stays

    def batches(self) -> Iterator[tuple[int, bytes]]:
        """(first page number, bytes of whole pages), in order."""
        step = max(1, _BATCH // self.page_size)
        for first in range(1, self.pages + 1, step):
            yield first, self.read(first, min(step, self.pages + 1 - first))

    def read(self, first: int, count: int) -> bytes:
        """``count`` pages from ``first`` on; zeros beyond the end."""
        session, size = self._session, self._session.page_size
        out = bytearray(count * size)
        inside = max(0, min(count, self.pages + 1 - first))
        data = os.pread(self._db_fd, inside * size, (first - 1) * size) if inside else b""
        out[: len(data)] = data
        for offset in np.flatnonzero(self._frames[first : first + inside]).tolist():
            frame = int(self._frames[first + offset])
            at = HEADER_SIZE + (frame - 1) * (FRAME_HEADER_SIZE + size) + FRAME_HEADER_SIZE
            out[offset * size : (offset + 1) * size] = os.pread(session.wal_fd, size, at)
        return bytes(out)


def remove(paths: DbPaths) -> None:
    """Unlink the database's files through the mount; the database itself goes last."""
    for path in (paths.wal, paths.shm, paths.database):
        with contextlib.suppress(FileNotFoundError):
            through.unlink(path)


def store_checksums(source: Image | ContentReader, checksums: ChecksumArray, position: Position) -> int:
    """Replace every page checksum by those of these pages; returns the database checksum."""
    size = source.page_size
    checksums.reset(size)
    for first, data in source.batches():
        count = len(data) // size
        checksums.set_many(range(first, first + count), image_checksums(first, data, size))
    checksums.truncate(source.pages)
    checksums.mark(position.txid)
    return checksums.rolling


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
