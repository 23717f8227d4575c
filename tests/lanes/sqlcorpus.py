"""Lane ``sqlcorpus``: the mount answers as plain ext4 does.

Every statement of ``tests/corpus`` runs on a plain directory and below the primary's
mount, in the same order, with the same SQLite; results, error messages and the final
images must be equal, and the replica's image too. Journal modes, page sizes and
synchronous levels are combined pairwise; MEMORY and OFF come on top.
Counts statement executions below the mount.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from support import images, lane
from support.cluster import Cluster
from support.lane import Run

JOURNALS = ("WAL", "DELETE", "TRUNCATE", "PERSIST")
PAGE_SIZES = (512, 4096, 16384, 65536)
LEVELS = ("OFF", "NORMAL", "FULL", "EXTRA")
CORPUS = Path(__file__).resolve().parents[1] / "corpus"


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination."""

    journal: str
    page_size: int
    synchronous: str

    @property
    def label(self) -> str:
        return f"{self.journal}-{self.page_size}-{self.synchronous}".lower()


def settings() -> list[Setting]:
    """All pairs of (journal, page size), (journal, level), (page size, level) in 16 rows, then MEMORY and OFF."""
    rows = [
        Setting(journal, size, LEVELS[(i + j) % 4])
        for (i, journal), (j, size) in product(enumerate(JOURNALS), enumerate(PAGE_SIZES))
    ]
    return [*rows, Setting("MEMORY", 4096, "NORMAL"), Setting("OFF", 1024, "OFF"), Setting("MEMORY", 8192, "FULL")]


Step = tuple[str, str]  # ("sql" | "connection" | "reopen", text)


def steps(file: Path) -> Iterator[Step]:
    """The statements and directives of a corpus file."""
    pending = ""
    for line in file.read_text().splitlines():
        directive = re.match(r"-- @(connection|reopen)\s*(\d*)", line)
        if directive:
            yield directive[1], directive[2]
        elif not line.startswith("--") and line.strip():
            pending += line + "\n"
            if sqlite3.complete_statement(pending):
                yield "sql", pending.strip()
                pending = ""
    if pending:
        raise ValueError(f"{file.name} ends within a statement: {pending!r}")


class Side:
    """One of the two directories, with its connections."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._setting = setting
        self._connections: dict[str, sqlite3.Connection] = {}
        self._current = "1"

    def do(self, step: Step) -> str:
        """Carry out one step; the answer as text, with the folder's name taken out."""
        kind, text = step
        if kind == "connection":
            self._current = text
            return ""
        if kind == "reopen":
            self.close()
            return ""
        try:
            cursor = self._connection().execute(text.replace("{dir}", str(self.folder)))
            answer = repr([d[0] for d in cursor.description or ()]) + repr(cursor.fetchall())
        except (sqlite3.Error, OverflowError) as error:
            answer = f"{type(error).__name__}: {error}"
        return answer.replace(str(self.folder), "{dir}")

    def _connection(self) -> sqlite3.Connection:
        if self._current not in self._connections:
            db = sqlite3.connect(self.folder / "main.db", timeout=0, isolation_level=None)
            db.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
            db.execute(f"PRAGMA page_size={self._setting.page_size}")
            db.execute(f"PRAGMA journal_mode={self._setting.journal}").fetchall()
            db.execute(f"PRAGMA synchronous={self._setting.synchronous}")
            self._connections[self._current] = db
        return self._connections[self._current]

    def close(self) -> None:
        """Close all connections; the last one writes the WAL back."""
        for db in self._connections.values():
            with contextlib.suppress(sqlite3.Error):
                db.close()
        self._connections.clear()


def run_file(run: Run, cluster: Cluster, file: Path, setting: Setting, limit: int) -> int:
    """Both sides through one file; returns the number of statements executed."""
    where = f"{setting.label}/{file.stem}"
    plain = Side(run.folder / "plain" / where, setting)
    ours = Side(cluster.primary.mount / where, setting)
    executed = 0
    for step in steps(file):
        expected, got = plain.do(step), ours.do(step)
        if expected != got:
            run.violation(f"{where}: {step[1]}\n    plain: {expected[:600]}\n    mount: {got[:600]}")
            break
        executed += step[0] == "sql"
        if executed >= limit:
            break
    plain.close()
    ours.close()
    run.count(executed)
    compare(run, cluster, where, plain.folder)
    return executed


def compare(run: Run, cluster: Cluster, where: str, plain: Path) -> None:
    """The final images: mount against plain, replica against primary."""
    for file in sorted(plain.glob("*.db")):
        name = f"{where}/{file.name}"
        found = images.first_difference(file, cluster.primary.mount / name)
        if found is not None:
            run.violation(f"{name}: the image on the mount is not the plain one: {found}")
        try:
            found = images.difference(cluster, name, run.folder / "compare")
        except AssertionError as error:
            found = str(error)
        if found is not None:
            run.violation(found)


def body(run: Run) -> None:
    """Settings one after the other, each with the whole corpus, up to the count."""
    files = sorted(CORPUS.glob("*.sql"))
    rows = [s for s in settings() if run.options.only in (None, s.label)]
    if not rows:
        sys.exit(f"no setting {run.options.only!r}; see --list")
    run.rng("order").shuffle(rows)  # a short run is another sample each time
    round_number = 0
    while run.done < run.wanted and len(run.violations) < 20:
        for setting in rows:
            if run.done >= run.wanted or len(run.violations) >= 20:
                break
            with run.cluster(f"r{round_number}") as cluster:
                for file in files:
                    if setting.journal == "OFF" and "ROLLBACK" in file.read_text():
                        continue  # undefined without a journal
                    if run.done < run.wanted:
                        run_file(run, cluster, file, setting, run.wanted - run.done)
            run.say(f"{setting.label}: {run.done} of {run.wanted} statements, {len(run.violations)} violations")
        round_number += 1


def main() -> int:
    """Entry of ``python -m lanes.sqlcorpus``."""
    total = sum(kind == "sql" for file in CORPUS.glob("*.sql") for kind, _ in steps(file))
    run = lane.parse("sqlcorpus", "statements", total * len(settings()), None)
    if run.options.list:
        print("\n".join(s.label for s in settings()))
        return 0
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
