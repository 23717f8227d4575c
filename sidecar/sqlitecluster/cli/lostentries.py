"""What stands in ``lost+found`` of a data directory, and how a database is made of it again.

Used by ``cli.lost``. Reads files only; no node is needed.

Rules:
    1. An image is made only of files that lead from a base to the end of the tail without a gap,
       and only if every page then adds up to the tail's own checksum.
    2. A base is a snapshot among the files, or a database file whose checksum is the one that the
       tail begins with. What does not fit is said, never guessed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlitecluster.errors import CorruptStore, FormatError, LimitError, NoSuchDatabase, PositionMismatch
from sqlitecluster.ltx import CHECKSUM_FLAG, HEADER_SIZE, TRAILER_SIZE, Decoder, Header, Trailer, image_checksums
from sqlitecluster.replication.position import Position
from sqlitecluster.units import lock_page

FOLDER: Final = "lost+found"
REASON: Final = "reason.json"
_BATCH: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LostLTX:
    """One kept LTX file that is whole enough to have a header and an end."""

    path: Path
    header: Header
    post: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of lost+found."""

    id: str
    path: Path
    database: str
    reason: str
    time_ms: int
    position: str
    """Of the database when this was kept; empty when that was not known."""
    files: list[Path]
    ltx: list[LostLTX] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def to_json(self) -> dict[str, Any]:
        """As ``-o json`` prints it."""
        first = min(self.ltx, key=lambda each: each.header.min_txid, default=None)
        last = max(self.ltx, key=lambda each: each.header.max_txid, default=None)
        return {
            "id": self.id,
            "database": self.database,
            "reason": self.reason,
            "timeMs": self.time_ms,
            "position": self.position or None,
            "from": str(Position(first.header.min_txid - 1, first.header.pre_apply)) if first else None,
            "to": str(Position(last.header.max_txid, last.post)) if last else None,
            "bytes": self.size,
            "files": [path.name for path in self.files],
            "path": str(self.path),
        }


def entries(data_dir: Path) -> list[Entry]:
    """Everything that was kept, oldest first."""
    try:
        folders = sorted(each for each in (data_dir / FOLDER).iterdir() if each.is_dir())
    except FileNotFoundError:
        return []
    return [_read(folder) for folder in folders]


def find(data_dir: Path, wanted: str) -> Entry:
    """The entry of an id, or of the only one that begins so.

    Raises:
        NoSuchDatabase: there is none, or more than one.
    """
    found = [each for each in entries(data_dir) if each.id.startswith(wanted)]
    exact = [each for each in found if each.id == wanted]
    if len(exact or found) != 1:
        what = "nothing" if not found else f"{len(found)} things"
        raise NoSuchDatabase(
            f"{what} in {data_dir / FOLDER} begin with {wanted!r}; `sqlitecluster lost list` shows ids"
        )
    return (exact or found)[0]


def _read(folder: Path) -> Entry:
    try:
        said = json.loads((folder / REASON).read_text())
    except (OSError, ValueError):
        said = {}  # killed before it was written: the folder's name says the same, shorter
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != REASON)
    ltx = [found for path in files if ".ltx" in path.name and (found := _ends(path)) is not None]
    time_ms = int(said.get("time_ms", folder.stat().st_mtime * 1000))
    database, reason = str(said.get("database", "?")), str(said.get("reason", folder.name))
    return Entry(folder.name, folder, database, reason, time_ms, str(said.get("position", "")), files, ltx)


def _ends(path: Path) -> LostLTX | None:
    try:
        with open(path, "rb") as file:
            header = Header.parse(file.read(HEADER_SIZE))
            file.seek(-TRAILER_SIZE, os.SEEK_END)
            return LostLTX(path, header, Trailer.parse(file.read(TRAILER_SIZE)).post_apply)
    except (OSError, FormatError, LimitError):
        return None


def export_name(path: Path) -> str:
    """File name of a copy: two levels may have held files of one name, and ``ltx verify`` looks for ``*.ltx``."""
    stem, dot, number = path.name.rpartition(".ltx.")
    return f"{stem}-{number}.ltx" if dot else path.name


def chain_from(start: Position | None, ltx: Sequence[LostLTX]) -> list[LostLTX]:
    """Files that lead from a base (None: from a snapshot among them) to the last transaction.

    Raises:
        PositionMismatch: they do not; the message says what is missing.
    """
    end, chosen = max(each.header.max_txid for each in ltx), list[LostLTX]()
    at, checksum = (start.txid, start.checksum) if start is not None else (0, 0)
    while at < end:
        fits = [each for each in ltx if each.header.min_txid <= at + 1 <= each.header.max_txid]
        if checksum:  # a file that begins exactly there must continue this very history
            fits = [e for e in fits if e.header.min_txid != at + 1 or e.header.pre_apply in (0, checksum)]
        if not fits:
            raise PositionMismatch(f"no database can be made of these files: {_missing(start, at, checksum, ltx)}")
        best = max(fits, key=lambda each: each.header.max_txid)
        chosen.append(best)
        at, checksum = best.header.max_txid, best.post
    return chosen


def _missing(start: Position | None, at: int, checksum: int, ltx: Sequence[LostLTX]) -> str:
    if start is None and not at:
        first = min(each.header.min_txid for each in ltx)
        return f"they begin with transaction {first:016x}; give the database from right before it, --base DB"
    return f"nothing continues transaction {at:016x}" + (f"/{checksum:016x}" if checksum else "")


def base_position(base: Path, ltx: Sequence[LostLTX]) -> Position:
    """Where in the history of these files a database file stands.

    Raises:
        PositionMismatch: nowhere: its content is not what any of them continues.
    """
    with open(base, "rb") as file:
        raw = file.read(18)[16:]
    size = int.from_bytes(raw, "big") if len(raw) == 2 else 0
    checksum = image_checksum(base, 65536 if size == 1 else size)
    for each in sorted(ltx, key=lambda e: e.header.min_txid):
        if each.header.pre_apply == checksum:
            return Position(each.header.min_txid - 1, checksum)
    raise PositionMismatch(f"none of the kept files continues the content of {base}, which adds up to {checksum:016x}")


def image_checksum(path: Path, page_size: int) -> int:
    """The database checksum of a file.

    Raises:
        CorruptStore: that is no page size.
    """
    if page_size < 512 or page_size & page_size - 1:
        raise CorruptStore(f"{path}: no SQLite database")
    total, first, skip = 0, 1, lock_page(page_size)
    with open(path, "rb") as file:
        while data := file.read(max(1, _BATCH // page_size) * page_size):
            sums = image_checksums(first, data, page_size)
            for offset, each in enumerate(sums.tolist()):
                total ^= each if first + offset != skip else 0
            first += len(sums)
    return total | CHECKSUM_FLAG


def build(chosen: Sequence[LostLTX], target: Path) -> Position:
    """Write the transactions into a file, over the base that it may hold already.

    Raises:
        CorruptStore: what came out is not what the last transaction says.
        FormatError, LimitError: a file is damaged.
    """
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for each in chosen:
            size = each.header.page_size
            with open(each.path, "rb") as file:
                for pgno, page in Decoder(file.read).pages():
                    os.pwrite(fd, page, (pgno - 1) * size)
            os.ftruncate(fd, each.header.commit * size)
        os.fsync(fd)
    finally:
        os.close(fd)
    last = chosen[-1]
    if image_checksum(target, last.header.page_size) != last.post:
        raise CorruptStore(f"{target}: the image is not what transaction {last.header.max_txid:016x} says")
    return Position(last.header.max_txid, last.post)
