"""Rows of the benchmark that are times: lag, staying close at full speed, restart."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from bench.rows import Row
from support import processes
from support.clients import connect, follows, run_sql
from support.cluster import Cluster

RATE = 300
LAG_P50_MS, LAG_P99_MS = 1.0, 5.0
BEHIND_S = 1.0
RESTART_S = 2.0
GIB = 1 << 30


def _clock(cluster: Cluster, name: str) -> None:
    run_sql(
        cluster.primary.mount / name,
        "CREATE TABLE clock(n INTEGER, ns INTEGER)",
        "INSERT INTO clock VALUES(0, 0)",
        journal="WAL",
    )
    follows(cluster.replica, name, "SELECT n FROM clock", 0)


def _writer(cluster: Cluster, name: str, rate: float, seconds: float) -> subprocess.Popen[str]:
    path = str(cluster.primary.mount / name)
    command = [sys.executable, "-m", "bench.lag_writer", path, str(rate), str(seconds)]
    return subprocess.Popen(command, env=processes.environment(), stdout=subprocess.PIPE, text=True)


def watch(path: Path, writer: subprocess.Popen[str]) -> list[float]:
    """Milliseconds from before the commit until each newly seen row was visible here."""
    lags: list[float] = []
    last = 0
    with connect(path) as db:
        version = db.execute("PRAGMA data_version").fetchone()
        while writer.poll() is None:
            now = db.execute("PRAGMA data_version").fetchone()
            if now == version:
                time.sleep(0.0001)
                continue
            version = now
            n, ns = db.execute("SELECT n, ns FROM clock").fetchone()
            seen = time.monotonic_ns()
            if n != last and ns:
                lags.append((seen - ns) / 1e6)
                last = n
    return lags


def lag(cluster: Cluster, _plain: Path, seconds: float, _rounds: int) -> list[Row]:
    """Commit-to-visible at 300 commits a second."""
    _clock(cluster, "lag.db")
    writer = _writer(cluster, "lag.db", RATE, seconds * 2)
    lags = sorted(watch(cluster.replica.mount / "lag.db", writer))
    if not lags:
        return [Row(name="lag", what="nothing was seen on the replica", ours=0, unit="ms", limit="", good=False)]
    p50, p99 = lags[len(lags) // 2], lags[int(len(lags) * 0.99)]
    what = f"commit to visible on the replica, {RATE} commits/s, {len(lags)} seen"
    return [
        Row(name="lag p50", what=what, ours=p50, unit="ms", limit=f"≤ {LAG_P50_MS:g} ms", good=p50 <= LAG_P50_MS),
        Row(name="lag p99", what=what, ours=p99, unit="ms", limit=f"≤ {LAG_P99_MS:g} ms", good=p99 <= LAG_P99_MS),
    ]


def full_speed(cluster: Cluster, _plain: Path, seconds: float, _rounds: int) -> list[Row]:
    """How long after the last of many commits at full speed the replica shows it."""
    _clock(cluster, "speed.db")
    writer = _writer(cluster, "speed.db", 0, seconds)
    out, _ = writer.communicate()
    ended = time.monotonic()
    commits = int(out)
    path = cluster.replica.mount / "speed.db"
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        reached = processes.wait_until(
            lambda: db.execute("SELECT n FROM clock").fetchone()[0] == commits, limit_s=120, step_s=0.005
        )
    behind = time.monotonic() - ended
    what = f"replica behind after {seconds:.0f} s at full speed ({commits / seconds:,.0f} commits/s)"
    good = reached and behind <= BEHIND_S
    return [Row(name="full-speed", what=what, ours=behind, unit="s", limit=f"≤ {BEHIND_S:g} s", good=good)]


def make_gigabyte(path: Path) -> None:
    """A database of 1 GiB, written in transactions of 32 MiB."""
    with connect(path, journal="WAL") as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
        while path.stat().st_size < GIB:
            db.execute("BEGIN")
            db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(65_000,)] * 512)
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def restart(cluster: Cluster, _plain: Path, _seconds: float, rounds: int) -> list[Row]:
    """Start of the primary with a database of 1 GiB until programs can use the mount."""
    path = cluster.primary.mount / "gigabyte.db"
    if not path.exists():
        make_gigabyte(path)
        cluster.wait_synced("gigabyte.db", limit_s=600)
    times = []
    for _ in range(rounds):
        assert cluster.primary.stop(), "no clean stop"
        began = time.monotonic()
        cluster.primary.launch()
        usable = processes.wait_until(lambda: _readable(path), limit_s=120, step_s=0.005)
        times.append(time.monotonic() - began)
        assert usable, cluster.log_tails()
        cluster.primary.wait_ready()
    worst = max(times)
    what = "start of a node with a 1 GiB database until it can be read"
    return [Row(name="restart", what=what, ours=worst, unit="s", limit=f"≤ {RESTART_S:g} s", good=worst <= RESTART_S)]


def _readable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return os.read(file.fileno(), 16) == b"SQLite format 3\0"
    except OSError:
        return False
