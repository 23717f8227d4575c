"""Which SQLite writes the databases of a primary, and notices about old ones.

Told by ``capture_publish`` when page 1 passes with another version or journal mode than before.
A notice is no problem: nothing is wrong yet, and nothing waits for anybody. It is shown
(``/info``, ``status``, a metric) as long as it is so, and logged once for each database and version.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from sqlitecluster.sqlitefmt.dbheader import looks_like_database
from sqlitecluster.sqlitefmt.writerversion import VERSION_AT, advice, version_text, writer_version
from sqlitecluster.units import Bytes

log = logging.getLogger(__name__)

OLD_SQLITE: Final = "OldSQLite"
READ_VERSION_AT: Final = 19
_WAL: Final = 2
HEAD_BYTES: Final = VERSION_AT + 4


@dataclass(frozen=True, slots=True)
class Writer:
    """What page 1 says."""

    version: int
    is_wal: bool

    @property
    def notice(self) -> str:
        """Why it should be another version; empty: it need not."""
        return advice(self.version) if self.is_wal else ""


class Writers:
    """The writers of one node, by database. Told by the capture thread, read by any."""

    def __init__(self) -> None:
        self._writers: dict[str, Writer] = {}
        self._said: set[tuple[str, int]] = set()

    def saw(self, name: str, page: Bytes) -> None:
        """Page 1 of a database, as far as its header."""
        if not looks_like_database(page):
            return
        writer = self._writers[name] = Writer(writer_version(page), page[READ_VERSION_AT] == _WAL)
        if writer.notice and (name, writer.version) not in self._said:
            self._said.add((name, writer.version))
            log.warning("%s: %s", name, writer.notice, extra={"code": OLD_SQLITE})

    def version(self, name: str) -> int:
        """As a number; 0 when it is not known."""
        writer = self._writers.get(name)
        return writer.version if writer else 0

    def text(self, name: str) -> str | None:
        """As people write it."""
        number = self.version(name)
        return version_text(number) if number else None

    def notice(self, name: str) -> str:
        """What to say about a database; empty: nothing."""
        writer = self._writers.get(name)
        return writer.notice if writer else ""
