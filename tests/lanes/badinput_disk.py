"""Bad input: full disks and damaged files of the store."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support import images, processes
from support.clients import connect, fill, follows, value
from support.cluster import Cluster
from support.lane import Run, registry
from support.node import Node

CASES, case = registry()
MIB = 1 << 20


@contextlib.contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[Path]:
    """A tmpfs of some size on a folder."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        processes.unmount(path)


def write_until_full(path: Path, limit: int = 4000) -> tuple[int, str]:
    """Insert 20 kB rows until an error; (rows committed, message)."""
    with connect(path) as db:
        for done in range(limit):
            try:
                db.execute("INSERT INTO t(v) VALUES(randomblob(20000))")
            except sqlite3.Error as error:
                return done, str(error)
    return limit, ""


def _disk_full(run: Run, mode: str) -> None:
    folder = run.new_folder(f"full-{mode.lower()}")
    with small_disk(folder / "n1", 160), Cluster(folder, reserveBytes=16 * MIB, logLevel="info") as cluster:
        path = cluster.primary.mount / "full.db"
        fill(path, 1, journal=mode)
        ballast = folder / "n1" / "ballast"
        with ballast.open("wb") as file:
            file.write(b"\1" * (60 * MIB))
        rows, message = write_until_full(path)
        assert message == "database or disk is full", f"{mode}: after {rows} rows: {message!r}"
        cluster.wait_synced("full.db")  # capture still finishes
        assert value(path, "SELECT count(*) FROM t") == rows + 1
        images.check_same(cluster, "full.db")
        ballast.unlink()
        deadline = time.monotonic() + 60
        more, message = 0, "never tried"
        while message and time.monotonic() < deadline:
            more_now, message = write_until_full(path, 50)
            more += more_now
        assert not message, f"{mode}: work did not go on after space was freed: {message}"
        follows(cluster.replica, "full.db", "SELECT count(*) FROM t", rows + 1 + more)
        images.check_same(cluster, "full.db")


@case
def disk_full_in_wal_mode(run: Run) -> None:
    _disk_full(run, "WAL")


@case
def disk_full_in_delete_mode(run: Run) -> None:
    _disk_full(run, "DELETE")


@case
def disk_full_on_a_replica(run: Run) -> None:
    folder = run.new_folder("full-replica")
    with small_disk(folder / "n2", 160), Cluster(folder, reserveBytes=8 * MIB) as cluster:
        path = cluster.primary.mount / "a.db"
        fill(path, 10)
        cluster.wait_synced("a.db")
        ballast = folder / "n2" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\1" * MIB)
        fill(path, 2000, size=10_000)
        time.sleep(3)
        assert value(path, "SELECT count(*) FROM t") == 2010, "the primary was disturbed"
        assert value(cluster.replica.mount / "a.db", "SELECT count(*) FROM t") in (10, 2010)
        ballast.unlink()
        follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 2010, limit_s=120)
        images.check_same(cluster, "a.db")


def ltx_files(node: Node, name: str) -> list[Path]:
    """Stored LTX files of a database, oldest first."""
    folder = images.backing(node, name, "ltx")
    return sorted(folder.rglob("*.ltx"), key=lambda p: p.name)


def _make_history(cluster_primary: Node, name: str, files: int = 3) -> None:
    """Transactions over some seconds, so that several LTX files are cut."""
    fill(cluster_primary.mount / name, 5)
    for _ in range(files):
        fill(cluster_primary.mount / name, 50, size=2000)
        have = len(ltx_files(cluster_primary, name))
        processes.wait_until(lambda h=have: len(ltx_files(cluster_primary, name)) > h, limit_s=20)  # type: ignore[misc]


@case
def corrupt_ltx_in_the_store(run: Run) -> None:
    for which in ("primary", "replica"):
        with run.cluster(f"ltx-{which}") as cluster:
            node = getattr(cluster, which)
            _make_history(cluster.primary, "a.db")
            cluster.wait_synced("a.db")
            assert processes.wait_until(lambda n=node: bool(ltx_files(n, "a.db")), limit_s=60), "no LTX file was cut"  # type: ignore[misc]
            assert node.stop(), "no clean stop"
            for file in ltx_files(node, "a.db"):
                damage(file)
            node.start()
            fill(cluster.primary.mount / "a.db", 7)
            images.check_same(cluster, "a.db")
            told = processes.wait_until(lambda n=node: "[CorruptLTX]" in n.log.read_text(), limit_s=120)  # type: ignore[misc]
            assert told, f"{which}: the log does not tell of the damage"
            assert "lost+found" in node.log.read_text(), f"{which}: the log does not say where the damaged file is"
            assert "sqlitecluster_corrupt_files_total 0" not in node.get("/metrics").decode(), (
                f"{which}: no metric counts it"
            )


def damage(file: Path) -> None:
    """Flip bytes in the middle of a file."""
    with file.open("r+b") as f:
        size = os.fstat(f.fileno()).st_size
        for at in (120, size // 2, size - 20):
            f.seek(min(at, size - 1))
            byte = f.read(1)
            f.seek(min(at, size - 1))
            f.write(bytes([byte[0] ^ 0xA5]))


@case
def truncated_and_foreign_files_in_the_store(run: Run) -> None:
    with run.cluster("foreign") as cluster:
        _make_history(cluster.primary, "a.db")
        cluster.wait_synced("a.db")
        assert cluster.primary.stop()
        files = ltx_files(cluster.primary, "a.db")
        assert files, "no LTX file was cut"
        os.truncate(files[-1], files[-1].stat().st_size // 2)
        (files[-1].parent / "notes.txt").write_text("what is this?")
        (files[-1].parent / f"{'f' * 16}-{'f' * 16}.ltx").write_bytes(b"not an LTX file")
        (files[-1].parent / "x.ltx.tmp").write_bytes(b"left by a crash")
        cluster.primary.start()
        fill(cluster.primary.mount / "a.db", 7)
        images.check_same(cluster, "a.db")


@case
def a_torn_log(run: Run) -> None:
    with run.cluster("torn") as cluster:
        fill(cluster.primary.mount / "a.db", 50)
        cluster.wait_synced("a.db")
        for node in cluster.nodes:
            assert node.stop(), "no clean stop"
            for file in (node.data / "log").glob("*.log"):
                with file.open("r+b") as f:
                    f.seek(0)
                    f.write(run.rng(file.name).randbytes(3000))
        cluster.start()
        fill(cluster.primary.mount / "a.db", 5)
        follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 55)
        images.check_same(cluster, "a.db")


@case
def lost_bookkeeping_is_built_again(run: Run) -> None:
    for which in ("primary", "replica"):
        with run.cluster(f"words-{which}") as cluster:
            node = getattr(cluster, which)
            for mode in ("WAL", "DELETE"):
                fill(cluster.primary.mount / f"{mode}.db", 50, journal=mode)
            cluster.wait_synced("WAL.db", "DELETE.db")
            assert node.stop()
            for name in ("WAL.db", "DELETE.db"):
                for kind in ("checksums", "state"):
                    images.backing(node, name, kind).unlink()
            node.start()
            for mode in ("WAL", "DELETE"):
                fill(cluster.primary.mount / f"{mode}.db", 5, journal=mode)
                follows(cluster.replica, f"{mode}.db", "SELECT count(*) FROM t", 55)
                images.check_same(cluster, f"{mode}.db")


@case
def a_database_changed_behind_our_back(run: Run) -> None:
    """Someone wrote into the data directory while the node was down: found, told and captured, never lost."""
    with run.cluster("behind") as cluster:
        fill(cluster.primary.mount / "a.db", 50, journal="DELETE")
        cluster.wait_synced("a.db")
        assert cluster.primary.stop()
        copy = run.new_folder("behind") / "a.db"
        shutil.copyfile(images.backing(cluster.primary, "a.db"), copy)
        fill(copy, 10, journal="DELETE")
        shutil.copyfile(copy, images.backing(cluster.primary, "a.db"))
        cluster.primary.start()
        fill(cluster.primary.mount / "a.db", 1, journal="DELETE")
        follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 61)
        assert "ChangedBehind" in str(cluster.primary.info()), "nobody is told"
        images.check_same(cluster, "a.db")


@case
def a_damaged_replica_image_is_found(run: Run) -> None:
    with run.cluster("verify", verify="EveryTransaction") as cluster:
        fill(cluster.primary.mount / "a.db", 500, size=500, journal="DELETE")
        cluster.wait_synced("a.db")
        assert cluster.replica.stop()
        with images.backing(cluster.replica, "a.db").open("r+b") as file:
            file.seek(3 * 4096 + 100)
            file.write(b"damage")
        cluster.replica.start()
        fill(cluster.primary.mount / "a.db", 5, journal="DELETE")
        cluster.wait_synced("a.db")
        assert processes.wait_until(
            lambda: images.difference(cluster, "a.db", run.folder / "compare") is None, limit_s=120, step_s=2
        ), "the damage was neither found nor repaired"
