"""The copy of an import, by SQLite itself, in a process of its own: a program like any other to the mount.

Run as a file by ``importing``, or in a fork of the supervisor's opener (``runAs``), whose rights it needs then.
Imports nothing of this project.
"""

from __future__ import annotations

import sqlite3
import sys

DONE, FAILED, LOCKED = 0, 1, 75  # 75 is EX_TEMPFAIL


def run(source_path: str, target_path: str, work_path: str, busy_s: float) -> tuple[int, str]:
    """Replace the target's content by the source's; (status, what went wrong)."""
    try:
        _copy(source_path, target_path, work_path, busy_s)
    except sqlite3.OperationalError as error:
        return LOCKED if "locked" in str(error) else FAILED, str(error)
    except sqlite3.Error as error:
        return FAILED, str(error)
    return DONE, ""


def _copy(source_path: str, target_path: str, work_path: str, busy_s: float) -> None:
    source = _open_source(source_path)
    target = sqlite3.connect(target_path, timeout=busy_s, isolation_level=None)
    size, wanted = (db.execute("PRAGMA page_size").fetchone()[0] for db in (target, source))
    mode = target.execute("PRAGMA journal_mode").fetchone()[0]
    if mode == "wal" and size != wanted and target.execute("PRAGMA page_count").fetchone()[0]:
        target.execute("PRAGMA busy_timeout=500")
        try:
            mode = target.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
        except sqlite3.OperationalError:
            mode = "wal"
        if mode == "wal":
            source = _repaged(source, work_path, size)
    target.execute("BEGIN IMMEDIATE")
    target.execute("ROLLBACK")
    source.backup(target)
    target.close()


def _open_source(path: str) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{quoted}?mode=ro&immutable=1", uri=True)


def _repaged(source: sqlite3.Connection, work_path: str, size: int) -> sqlite3.Connection:
    work = sqlite3.connect(work_path, isolation_level=None)
    source.backup(work)
    for statement in ("journal_mode=DELETE", "synchronous=OFF", f"page_size={size}"):
        work.execute(f"PRAGMA {statement}").fetchall()
    work.execute("VACUUM")
    work.close()
    return _open_source(work_path)


if __name__ == "__main__":
    status, text = run(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
    print(text, file=sys.stderr)
    sys.exit(status)
