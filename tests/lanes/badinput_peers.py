"""Bad input: broken streams, foreign clusters, and replicas with another history."""

from __future__ import annotations

import shutil

from support import images, processes
from support.clients import connect, fill, follows, value
from support.cluster import Cluster
from support.lane import Run, registry
from support.node import Node
from support.proxy import Proxy

CASES, case = registry()


def _through_proxy(run: Run, damage: str) -> None:
    with run.cluster(f"proxy-{damage}", 1) as cluster:
        proxy = Proxy(cluster.primary.port("peers"), run.rng(damage), damage=damage)
        try:
            cluster.add_replica(primaryUrl=f"http://127.0.0.1:{proxy.port}")
            for i in range(6):
                with connect(cluster.primary.mount / "a.db", journal="WAL") as db:
                    db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)")
                    for _ in range(30):
                        db.execute("INSERT INTO t(v) VALUES(randomblob(3000))")
                    db.execute("BEGIN")
                    db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(3000,)] * 100)
                    db.execute("COMMIT")
                processes.wait_until(lambda n=i: proxy.damaged > n, limit_s=10)  # type: ignore[misc]
            proxy.heal()
            follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 780, limit_s=120)
            assert proxy.damaged, "nothing was damaged; the case tests nothing"
            run.say(f"{proxy.damaged} streams damaged ({damage})")
            images.check_same(cluster, "a.db")
        finally:
            proxy.close()


@case
def a_truncated_stream(run: Run) -> None:
    _through_proxy(run, "cut")


@case
def a_stream_with_flipped_bytes(run: Run) -> None:
    _through_proxy(run, "flip")


@case
def a_peer_of_another_cluster(run: Run) -> None:
    with run.cluster("mine") as cluster, run.cluster("other", 1) as other:
        fill(cluster.primary.mount / "a.db", 5)
        fill(other.primary.mount / "a.db", 9)
        cluster.wait_synced("a.db")
        node = cluster.replica
        assert node.stop()
        node.set_options(primaryUrl=f"http://127.0.0.1:{other.primary.port('peers')}")
        node.start()
        assert processes.wait_until(lambda: "ClusterMismatch" in str(node.info()), limit_s=60), node.info()
        assert value(node.mount / "a.db", "SELECT count(*) FROM t") == 5, "another cluster's data was taken over"
        assert "ClusterMismatch" in node.log.read_text(), "the log does not say it"
        node.stop()
        node.set_options(primaryUrl=f"http://127.0.0.1:{cluster.primary.port('peers')}")
        node.start()
        images.check_same(cluster, "a.db")


@case
def adopting_another_cluster(run: Run) -> None:
    with run.cluster("adopt") as cluster, run.cluster("new", 1) as other:
        fill(cluster.primary.mount / "a.db", 5)
        fill(other.primary.mount / "a.db", 9)
        cluster.wait_synced("a.db")
        node = cluster.replica
        shown = other.primary.cli("cluster-id", "show", "--url", other.primary.api).stdout.strip()
        done = node.cli("cluster-id", "adopt", shown, "--url", node.api)
        assert done.returncode == 0, done.stderr
        node.stop()
        node.set_options(primaryUrl=f"http://127.0.0.1:{other.primary.port('peers')}")
        node.start()
        follows(node, "a.db", "SELECT count(*) FROM t", 9)
        node.stop()


def _rewind_primary(run: Run, cluster: Cluster, mode: str) -> None:
    """Take the primary's data back to 5 rows while the replica keeps 15: an old backup was restored."""
    name = f"{mode}.db"
    fill(cluster.primary.mount / name, 5, journal=mode)
    cluster.wait_synced(name)
    assert cluster.primary.stop()
    backup = run.new_folder("backup") / "data"
    shutil.copytree(cluster.primary.data, backup)
    cluster.primary.start()
    for _ in range(10):
        fill(cluster.primary.mount / name, 1, journal=mode)
    cluster.wait_synced(name)
    follows(cluster.replica, name, "SELECT count(*) FROM t", 15)
    assert cluster.primary.stop()
    shutil.rmtree(cluster.primary.data)
    shutil.copytree(backup, cluster.primary.data)


def _tail_is_kept(node: Node) -> bool:
    folder = node.data / "lost+found"
    return folder.is_dir() and any(p.is_file() for p in folder.rglob("*"))


@case
def a_replica_ahead_of_the_primary(run: Run) -> None:
    for mode in ("WAL", "DELETE"):
        with run.cluster(f"ahead-{mode.lower()}") as cluster:
            _rewind_primary(run, cluster, mode)
            cluster.primary.start()
            follows(cluster.replica, f"{mode}.db", "SELECT count(*) FROM t", 5, limit_s=120)
            _check_reported(cluster, f"{mode}.db")


@case
def a_replica_diverged_from_the_primary(run: Run) -> None:
    for mode in ("WAL", "DELETE"):
        with run.cluster(f"diverged-{mode.lower()}") as cluster:
            _rewind_primary(run, cluster, mode)
            assert cluster.replica.stop()
            cluster.primary.start()
            for _ in range(20):
                fill(cluster.primary.mount / f"{mode}.db", 1, size=300, journal=mode)
            cluster.replica.start()
            follows(cluster.replica, f"{mode}.db", "SELECT count(*) FROM t", 25, limit_s=120)
            _check_reported(cluster, f"{mode}.db")


def _check_reported(cluster: Cluster, name: str) -> None:
    images.check_same(cluster, name)
    assert _tail_is_kept(cluster.replica), "the replica's own tail was thrown away"
    log = cluster.replica.log.read_text()
    assert "lost+found" in log and name in log, "the log does not say that the tail was set aside"
    assert "lost+found" in str(cluster.replica.info()) or "Diverged" in str(cluster.replica.info()), "status is silent"
    fill(cluster.primary.mount / name, 3, journal="WAL" if name.startswith("WAL") else "DELETE")
    images.check_same(cluster, name)


@case
def an_older_database_comes_back_with_open_readers(run: Run) -> None:
    """Re-sync under an idle reader: it must see the new history, never a mixture."""
    with run.cluster("resync") as cluster:
        _rewind_primary(run, cluster, "WAL")
        with connect(cluster.replica.mount / "WAL.db") as reader:
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (15,)
            cluster.primary.start()
            follows(cluster.replica, "WAL.db", "SELECT count(*) FROM t", 5, limit_s=120)
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (5,)
            assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        images.check_same(cluster, "WAL.db")
