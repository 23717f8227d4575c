"""B17: a database made of stored transactions passes integrity_check and has every row, not only its checksum."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sqlitecluster.cli.lostentries import build, chain_from, entries
from sqlitecluster.store import lostfound
from sqlitecluster.store.disk import Disk
from support.replica import Primary


def change(rng: random.Random, primary: Primary) -> bytes:
    """Some rows more, fewer or others, so that pages are freed, reused and split."""
    kind = rng.randrange(4)
    if kind == 0:
        return primary.run("DELETE FROM t WHERE id % 3 = 0")
    if kind == 1:
        return primary.run(f"UPDATE t SET v = randomblob({rng.randrange(20, 900)}) WHERE id % 5 = 1")
    rows = ", ".join(f"(randomblob({rng.randrange(10, 3000)}))" for _ in range(30))
    return primary.run(f"INSERT INTO t(v) VALUES {rows}")


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_and_indexes_are_those_of_the_primary(tmp_path: Path, mode: str, seed: int) -> None:
    rng, primary = random.Random(seed), Primary(tmp_path / "p.db", mode=mode)
    blobs = [primary.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "CREATE INDEX i ON t(v)")]
    blobs += [change(rng, primary) for _ in range(20)]
    files = [(f"{n:016x}-{n:016x}.ltx", blob) for n, blob in enumerate(blobs, 1)]
    (tmp_path / "data").mkdir()
    lostfound.keep(tmp_path / "data", Disk(), 1, "p.db", "test", [], files)
    [entry] = entries(tmp_path / "data")

    at = build(chain_from(None, entry.ltx), tmp_path / "restored.db")

    assert at == primary.position
    with closing(sqlite3.connect(tmp_path / "restored.db")) as restored:
        assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = "SELECT id, v FROM t ORDER BY id"
        assert restored.execute(rows).fetchall() == primary.sql.execute(rows).fetchall()
