"""``runAs``: only the supervisor keeps root's rights, and everything works as before."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import processes
from support.cluster import Cluster

UID = 20202
WITHOUT_RIGHTS = ("template", "mount", "replicator")


def status(pid: int) -> dict[str, str]:
    """``/proc/PID/status``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def pair(open_folder: Path) -> Iterator[Cluster]:
    with Cluster(open_folder / "pair", 2, runAs={"uid": UID, "gid": UID}) as cluster:
        yield cluster


@pytest.mark.parametrize("part", WITHOUT_RIGHTS)
def test_workers_have_no_rights_at_all(pair: Cluster, part: str) -> None:
    for node in pair.nodes:
        seen = status(node.pids()[part])
        assert seen["Uid"].split() == seen["Gid"].split() == [str(UID)] * 4
        assert seen["Groups"] == ""
        assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert seen["NoNewPrivs"] == "1"


def test_the_supervisor_stays_root_and_mounts(pair: Cluster) -> None:
    assert status(pair.primary.pids()["supervisor"])["Uid"].split()[0] == "0"


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_databases_that_are_closed_to_everybody_else_are_replicated(pair: Cluster, mode: str) -> None:
    folder = pair.primary.mount / f"closed-{mode}"
    folder.mkdir(mode=0o700)
    name = f"{folder.name}/app.db"
    with closing(sqlite3.connect(pair.primary.mount / name, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t(x)")
        (pair.primary.mount / name).chmod(0o600)
        for number in range(20):
            connection.execute("INSERT INTO t VALUES (?)", (number,))
        pair.wait_synced(name)
        with closing(sqlite3.connect(pair.replica.mount / name)) as reader:
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (20,)
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                reader.execute("INSERT INTO t VALUES (0)")


@pytest.mark.parametrize("part", ["mount", "replicator", "template", "opener", "keeper"])
def test_every_part_is_replaced_and_has_no_rights_again(pair: Cluster, part: str) -> None:
    before = pair.replica.pids()
    os.kill(before[part], 9)
    assert processes.wait_until(lambda: pair.replica.pids().get(part, before[part]) != before[part], limit_s=60)
    assert processes.wait_until(pair.replica.is_ready, limit_s=60)
    name = f"after-{part}.db"
    with closing(sqlite3.connect(pair.primary.mount / name)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    os.chmod(pair.primary.mount / name, 0o600)
    pair.wait_synced(name)
    for worker in WITHOUT_RIGHTS:
        pid = pair.replica.pids()[worker]
        assert processes.wait_until(lambda pid=pid: status(pid)["CapEff"] == "0" * 16, limit_s=10)  # type: ignore[misc]


def test_files_that_a_node_had_as_root_become_the_users(open_folder: Path) -> None:
    with Cluster(open_folder / "grown", 1) as cluster:
        with closing(sqlite3.connect(cluster.primary.mount / "a.db")) as connection:
            connection.executescript("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
        cluster.wait_synced("a.db")
        cluster.primary.stop()
        cluster.primary.set_options(runAs={"uid": UID, "gid": UID})
        cluster.primary.start()
        with closing(sqlite3.connect(cluster.primary.mount / "a.db")) as connection:
            connection.execute("INSERT INTO t VALUES (2)")
            connection.commit()
        cluster.wait_synced("a.db")
        assert (cluster.primary.data / "dbs/a.db/database").stat().st_uid == UID
