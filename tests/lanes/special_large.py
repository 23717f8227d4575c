"""Special cases: large databases, many databases, extreme page sizes."""

from __future__ import annotations

import struct
import time
from pathlib import Path

from support import images
from support.clients import connect, fill, follows, run_sql, value
from support.lane import Run, registry

CASES, case = registry()
LOCK_BYTE = 1 << 30
PAGE = 65536


def sparse_database(path: Path, pages: int) -> None:
    """A database of 64 KiB pages whose file is ``pages`` long, nearly all of it a hole.

    Only the size in the header is changed, so the pages between are unused; SQLite
    appends behind them.
    """
    with connect(path, journal="DELETE") as db:
        db.execute(f"PRAGMA page_size={PAGE}")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        db.execute("INSERT INTO t(v) VALUES('first')")
    with path.open("r+b") as file:
        file.seek(28)
        file.write(struct.pack(">I", pages))
        file.truncate(pages * PAGE)


@case
def across_the_lock_page(run: Run) -> None:
    with run.cluster("lockpage") as cluster:
        source = run.new_folder("sparse") / "source.db"
        sparse_database(source, LOCK_BYTE // PAGE - 3)
        target = cluster.primary.mount / "big.db"
        with source.open("rb") as file, target.open("wb") as out:
            out.write(file.read(4 * PAGE))
            out.truncate(source.stat().st_size)
        follows(cluster.replica, "big.db", "SELECT count(*) FROM t", 1, limit_s=240)
        for mode in ("DELETE", "WAL"):
            with connect(target, journal=mode) as db:
                for _ in range(10):
                    db.execute("INSERT INTO t(v) VALUES(randomblob(60000))")
        follows(cluster.replica, "big.db", "SELECT count(*) FROM t", 21, limit_s=240)
        assert target.stat().st_size > LOCK_BYTE + 10 * PAGE, "the database did not cross 1 GiB"
        cluster.wait_synced("big.db", limit_s=240)
        found = images.difference(cluster, "big.db", run.folder / "compare")
        assert found is None, found
        run_sql(target, "DELETE FROM t WHERE id > 5", "VACUUM")
        follows(cluster.replica, "big.db", "SELECT count(*) FROM t", 5, limit_s=240)
        images.check_same(cluster, "big.db")


@case
def every_page_size(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE"):
        for power in range(9, 17):
            name = f"page-{mode.lower()}-{1 << power}.db"
            with connect(cluster.primary.mount / name) as db:
                db.execute(f"PRAGMA page_size={1 << power}")
                db.execute(f"PRAGMA journal_mode={mode}").fetchall()
                db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
                for _ in range(5):
                    db.execute("INSERT INTO t(v) VALUES(randomblob(70000))")
            follows(cluster.replica, name, "SELECT count(*) FROM t", 5)
            images.check_same(cluster, name)


@case
def a_thousand_databases(run: Run) -> None:
    with run.cluster("thousand") as cluster:
        for folder in range(10):
            (cluster.primary.mount / f"f{folder}").mkdir()
        began = time.monotonic()
        names = [f"f{i % 10}/{i}.db" for i in range(1000)]
        for i, name in enumerate(names):
            mode = "WAL" if i % 2 else "DELETE"
            run_sql(cluster.primary.mount / name, "CREATE TABLE t(x)", f"INSERT INTO t VALUES({i})", journal=mode)
        run.say(f"1,000 databases made in {time.monotonic() - began:.1f} s")
        cluster.wait_synced(limit_s=300)
        for i, name in enumerate(names[::37]):
            follows(cluster.replica, name, "SELECT x FROM t", i * 37)
            images.check_same(cluster, name)
        assert cluster.primary.stop() and cluster.replica.stop(), "no clean stop"
        cluster.start()
        run_sql(cluster.primary.mount / names[500], "INSERT INTO t VALUES(-1)")
        follows(cluster.replica, names[500], "SELECT min(x) FROM t", -1)


@case
def rows_of_many_megabytes(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE"):
        path = cluster.primary.mount / f"blob-{mode.lower()}.db"
        fill(path, 1, journal=mode)
        for size in (5_000_000, 40_000_000):
            run_sql(path, f"INSERT INTO t(v) VALUES(randomblob({size}))")
        run_sql(path, "DELETE FROM t WHERE length(v) = 5000000")
        follows(cluster.replica, path.name, "SELECT sum(length(v)) FROM t", value(path, "SELECT sum(length(v)) FROM t"))
        images.check_same(cluster, path.name)
