"""Joining LTX files into fewer: level 1 from level 0 every 10 s, level 2 from level 1 every 60 s.

Rules:
    1. A joined file appears whole and durable; its sources stay until the retention takes them.
    2. Only files that continue one another and have one page size are joined; a snapshot
       stays alone (see ``cutter``).
    3. A damaged source goes to lost+found, the others stay as they are.

Called by the housekeeper.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sqlitecluster import failpoints
from sqlitecluster.errors import FormatError, LimitError
from sqlitecluster.ltx import HEADER_SIZE, Decoder, Header, compact
from sqlitecluster.store.database import DatabaseStore
from sqlitecluster.store.ltxdir import LTXFileInfo

INTERVAL_S: Final = {1: 10.0, 2: 60.0}
MIN_FILES: Final = 4
MAX_FILES: Final = 64
MAX_BYTES: Final = 64 << 20


def compact_level(database: DatabaseStore, level: int) -> LTXFileInfo | None:
    """Join the next files of ``level - 1`` into one of ``level``; None when there are too few."""
    with database.upkeep:
        return _compact(database, level)


def _compact(database: DatabaseStore, level: int) -> LTXFileInfo | None:
    sources = _candidates(database, level)
    if len(sources) < MIN_FILES:
        return None
    temporary = database.files.path / f"joined-{level}.tmp"
    try:
        _join(database, sources, temporary)
        failpoints.hit("compaction.before-adopt")
        return database.files.adopt(level, sources[0].min_txid, sources[-1].max_txid, temporary)
    except FileNotFoundError:
        return None  # the retention was faster
    except (FormatError, LimitError):
        _quarantine_damaged(database, sources)
        return None
    finally:
        temporary.unlink(missing_ok=True)


def _candidates(database: DatabaseStore, level: int) -> list[LTXFileInfo]:
    """The oldest run of enough files that can become one; shorter runs before it are passed over."""
    files = database.files.files
    done = max((info.max_txid for info in files if info.level == level), default=0)
    chosen: list[LTXFileInfo] = []
    size, page_size = 0, 0
    for info in files:
        if info.level != level - 1 or info.max_txid <= done or info.is_snapshot:
            continue
        if info.max_txid > database.certain:
            break
        this = _page_size(database.files.file_path(info))
        joins = chosen and info.min_txid == chosen[-1].max_txid + 1 and this == page_size
        if not joins or len(chosen) >= MAX_FILES or size + info.size > MAX_BYTES:
            if len(chosen) >= MIN_FILES:
                break
            chosen, size = [], 0
        chosen.append(info)
        size, page_size = size + info.size, this
    return chosen


def _page_size(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            return Header.parse(file.read(HEADER_SIZE)).page_size
    except (FileNotFoundError, FormatError, LimitError):
        return 0


def _join(database: DatabaseStore, sources: list[LTXFileInfo], target: Path) -> None:
    with ExitStack() as stack:
        decoders = []
        for info in sources:
            file = stack.enter_context(open(database.files.file_path(info), "rb"))
            decoders.append(Decoder(file.read))
        compact(decoders, stack.enter_context(database.files.writing(target)))


def _quarantine_damaged(database: DatabaseStore, sources: list[LTXFileInfo]) -> None:
    for info in sources:
        piece = database.piece(info)
        database.read(piece)  # moves it to lost+found when it is damaged
