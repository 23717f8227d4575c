"""Scenes: command line, HTTP, joining, leaving and restarting nodes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.request
from pathlib import Path

from sqlitecluster.replicator import metrics
from support import images, ports, processes, promlint
from support.clients import connect, fill, follows, run_sql, value
from support.lane import Run, registry
from support.node import Node

CASES, case = registry()


@case
def local_starts_says_ready_and_stops_clean(run: Run) -> None:
    folder, base = run.new_folder("local"), ports.take_base()
    log = folder / "out"
    command = processes.cli("local", "--nodes", "2", "--dir", str(folder / "d"), "--base-port", str(base))
    process = processes.start(command, log=log)
    try:
        ready = processes.wait_until(lambda: "ready\n" in log.read_text() or process.poll() is not None, limit_s=120)
        assert ready and process.poll() is None, f"no `ready`: {log.read_text()}"
        one, two = Node(folder / "d", 1, base), Node(folder / "d", 2, base)
        fill(one.mount / "a.db", 3)
        follows(two, "a.db", "SELECT count(*) FROM t", 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT, 130), process.returncode
        assert not processes.mounts_under(folder), "something is still mounted"
    finally:
        processes.end(process)
        processes.clear(folder)
        ports.give_back(base)


@case
def import_replaces_as_one_transaction_while_open(run: Run) -> None:
    cluster = run.shared()
    source = run.new_folder("import") / "source.db"
    for mode in ("WAL", "DELETE"):
        name = f"imported-{mode.lower()}.db"
        source.unlink(missing_ok=True)
        fill(source, 77, size=3000, journal="DELETE")
        fill(cluster.primary.mount / name, 5, journal=mode)
        follows(cluster.replica, name, "SELECT count(*) FROM t", 5)
        with connect(cluster.primary.mount / name) as db, connect(cluster.replica.mount / name) as reader:
            assert db.execute("SELECT count(*) FROM t").fetchone() == (5,)
            done = cluster.primary.cli("import", "--url", cluster.primary.api, name, str(source))
            assert done.returncode == 0, done.stderr
            assert db.execute("SELECT count(*) FROM t").fetchone() == (77,), f"{mode}: an open connection missed it"
            follows(cluster.replica, name, "SELECT count(*) FROM t", 77)
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (77,)
        images.check_same(cluster, name)


@case
def export_says_its_position(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "out.db", 20)
    cluster.wait_synced("out.db")
    for node in cluster.nodes:
        target = run.new_folder("export") / "copy.db"
        done = node.cli("export", "--url", node.api, "out.db", str(target))
        assert done.returncode == 0, done.stderr
        position = node.position("out.db")
        assert position and position[0] in done.stdout + done.stderr, f"{position} is not in {done.stdout!r}"
        assert value(target, "SELECT count(*) FROM t") == 20
        with urllib.request.urlopen(f"{node.api}/export?name=out.db", timeout=60) as answer:
            assert position[0] in str(answer.headers["Sqlitecluster-Position"])


@case
def wait_for_a_position(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "wait.db", 3)
    cluster.wait_synced("wait.db")
    position = (cluster.primary.mount / "wait.db-pos").read_text().strip()
    done = cluster.replica.cli("wait", "--url", cluster.replica.api, "wait.db", "--position", position)
    assert done.returncode == 0, done.stderr
    ahead = f"{int(position[:16], 16) + 100:016x}/{position[17:]}"
    late = cluster.replica.cli("wait", "--url", cluster.replica.api, "wait.db", "--position", ahead, "--timeout", "1")
    assert late.returncode != 0 and late.stderr.startswith("sqlitecluster: "), late


@case
def status_in_text_and_json(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "status.db", 3)
    cluster.wait_synced("status.db")
    for node in cluster.nodes:
        text = node.cli("status", "--url", node.api)
        assert text.returncode == 0 and "status.db" in text.stdout and node.name in text.stdout, text
        data = json.loads(node.cli("status", "--url", node.api, "-o", "json").stdout)
        assert "status.db" in json.dumps(data)


@case
def events_begin_with_init(run: Run) -> None:
    cluster = run.shared()
    with urllib.request.urlopen(f"{cluster.replica.api}/events", timeout=60) as answer:
        first = json.loads(answer.readline())
        assert first["type"] == "init", first
        fill(cluster.primary.mount / "events.db", 3)
        while (event := json.loads(answer.readline()))["type"] != "tx" or event.get("db") != "events.db":
            pass
        assert {"txID", "postApplyChecksum", "pageSize", "commit", "timestamp"} <= set(event["data"]), event


@case
def health_metrics_and_information(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "info.db", 3)
    cluster.wait_synced("info.db")
    assert not (wrong := promlint.complaints(_of_each_kind())), wrong
    for node in cluster.nodes:
        for kind in ("api", "metrics"):
            node.get("/healthz", kind)
            text = node.get("/metrics", kind).decode()
            assert "# HELP" in text and "# TYPE" in text, text[:200]
            assert not (wrong := promlint.complaints(text)), wrong
        database = node.database("info.db")
        assert database is not None
        wanted = {"name", "position", "pageSize", "pages", "journalMode"}
        assert wanted <= set(database), f"missing in /info: {wanted - set(database)}"


def _of_each_kind() -> str:
    """Every metric that a node can have, once."""
    plain = [metric for metric in metrics.TABLE.values() if metric.kind != "histogram"]
    samples = [(metric.name, dict.fromkeys(metric.labels, "x"), 1.0) for metric in plain]
    for metric in (metric for metric in metrics.TABLE.values() if metric.kind == "histogram"):
        samples.append((f"{metric.name}_bucket", {"le": "+Inf"}, 1.0))
        samples += [(f"{metric.name}_{part}", {}, 1.0) for part in ("sum", "count")]
    return metrics.render(samples)


@case
def one_cluster_id_for_all(run: Run) -> None:
    cluster = run.shared()
    shown = {n.cli("cluster-id", "show", "--url", n.api).stdout.strip() for n in cluster.nodes}
    assert len(shown) == 1, shown
    text = shown.pop()
    assert text.startswith("LFSC") and len(text) == 20 and text[4:] == text[4:].upper(), text


@case
def a_late_replica_gets_a_snapshot(run: Run) -> None:
    with run.cluster("late", 1) as cluster:
        for name, mode in (("w.db", "WAL"), ("d.db", "DELETE")):
            fill(cluster.primary.mount / name, 3000, size=500, journal=mode)
        cluster.add_replica()
        cluster.wait_synced("w.db", "d.db")
        fill(cluster.primary.mount / "w.db", 10)
        images.check_same(cluster, "w.db", "d.db")


@case
def a_stopped_replica_catches_up(run: Run) -> None:
    with run.cluster("catchup") as cluster:
        fill(cluster.primary.mount / "c.db", 10)
        cluster.wait_synced("c.db")
        assert cluster.replica.stop(), "no clean stop"
        with connect(cluster.primary.mount / "c.db") as db:
            for _ in range(500):
                db.execute("INSERT INTO t(v) VALUES(randomblob(90))")
        cluster.replica.start()
        cluster.wait_synced("c.db")
        images.check_same(cluster, "c.db")


@case
def a_replica_that_lost_its_disk_starts_over(run: Run) -> None:
    with run.cluster("wiped") as cluster:
        fill(cluster.primary.mount / "x.db", 400)
        cluster.wait_synced("x.db")
        cluster.replica.stop()
        shutil.rmtree(cluster.replica.data)
        cluster.replica.start()
        images.check_same(cluster, "x.db")


@case
def three_nodes(run: Run) -> None:
    with run.cluster("three", 3) as cluster:
        for name in ("a.db", "b.db"):
            fill(cluster.primary.mount / name, 50)
        images.check_same(cluster, "a.db", "b.db")


@case
def the_primary_restarts(run: Run) -> None:
    with run.cluster("restart") as cluster:
        for mode in ("WAL", "DELETE"):
            fill(cluster.primary.mount / f"{mode}.db", 30, journal=mode)
        for i in range(3):
            assert cluster.primary.stop(), "no clean stop"
            assert os.listdir(cluster.primary.mount) == [], "the bare mount directory is not empty"
            cluster.primary.start()
            for mode in ("WAL", "DELETE"):
                fill(cluster.primary.mount / f"{mode}.db", 1, journal=mode)
                follows(cluster.replica, f"{mode}.db", "SELECT count(*) FROM t", 31 + i)
        images.check_same(cluster, "WAL.db", "DELETE.db")


@case
def a_program_cannot_write_into_the_bare_directory(run: Run) -> None:
    """After a crash nothing is mounted: a database must not be created below the mount point by mistake."""
    with run.cluster("bare", 1) as cluster:
        node = cluster.primary
        fill(node.mount / "a.db", 1)
        assert node.process is not None
        node.kill("supervisor")
        node.process.wait(30)
        assert processes.wait_until(lambda: not any(map(processes.alive, node.pids().values())), limit_s=60)
        for point in processes.mounts_under(node.mount):
            processes.unmount(point)
        try:
            run_sql(node.mount / "a.db", "CREATE TABLE t(x)")
        except sqlite3.Error:
            pass
        else:
            assert not _immutable_works(run.folder), "a program wrote below the unmounted directory"
            (node.mount / "a.db").unlink()
        node.start()
        assert value(node.mount / "a.db", "SELECT count(*) FROM t") == 1


def _immutable_works(folder: Path) -> bool:
    probe = folder / "immutable"
    probe.mkdir(exist_ok=True)
    done = subprocess.run(["chattr", "+i", str(probe)], capture_output=True)
    subprocess.run(["chattr", "-i", str(probe)], capture_output=True)
    return done.returncode == 0


@case
def the_stored_ltx_chain_is_whole(run: Run) -> None:
    cluster = run.shared()
    with connect(cluster.primary.mount / "chain.db", journal="WAL") as db:
        db.execute("CREATE TABLE t(v)")
        for i in range(50):
            db.execute("INSERT INTO t VALUES(?)", (i,))
            time.sleep(0.05)
    cluster.wait_synced("chain.db")
    for node in cluster.nodes:
        done = node.cli("ltx", "verify", str(images.backing(node, "chain.db", "ltx")))
        assert done.returncode == 0, done.stdout + done.stderr
        listed = node.cli("ltx", "list", str(images.backing(node, "chain.db", "ltx")), "-o", "json")
        assert listed.returncode == 0 and json.loads(listed.stdout), listed
