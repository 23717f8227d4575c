"""Roles that change while programs keep their databases open: real nodes, driven by hand."""

from __future__ import annotations

import os
import sqlite3
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import images, processes
from support.program import Program
from support.switching import RoleRefusedError, SwitchedCluster, SwitchedNode

LIMIT_S = 60.0
PARKED_S = 15.0  # the mount lets requests wait for 20 s
MODES = ("WAL", "DELETE", "TRUNCATE", "PERSIST")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SwitchedCluster]:
    """n1, the primary, and n2, which follows."""
    with SwitchedCluster(tmp_path, 2) as made:
        made.begin()
        yield made


@pytest.fixture
def program() -> Iterator[Callable[[Path], Program]]:
    """Starts programs and ends them."""
    with ExitStack() as stack:

        def start(path: Path) -> Program:
            made = Program(path)
            stack.callback(made.kill)
            return made

        yield start


def make(node: SwitchedNode, name: str, mode: str) -> None:
    db = sqlite3.connect(node.mount / name, isolation_level=None, timeout=LIMIT_S)
    db.execute(f"PRAGMA journal_mode={mode}").fetchall()
    db.execute("CREATE TABLE t (x)")
    db.execute("INSERT INTO t VALUES (1)")
    db.close()


def write(node: SwitchedNode, name: str, value: int) -> None:
    db = sqlite3.connect(node.mount / name, isolation_level=None, timeout=LIMIT_S)
    db.execute("INSERT INTO t VALUES (?)", (value,))
    db.close()


def synced(cluster: SwitchedCluster, *names: str) -> None:
    """Both nodes know these databases, at the same positions and epochs."""
    cluster.wait_synced(*names)
    first, second = cluster.switched
    processes.wait_until(lambda: first.positions() == second.positions(), limit_s=LIMIT_S)
    assert first.positions() == second.positions()


def eventually(look: Callable[[], object], wanted: object = True) -> None:
    assert processes.wait_until(lambda: look() == wanted, limit_s=LIMIT_S, step_s=0.02), look()


def problems(node: SwitchedNode) -> dict[str, str]:
    return {p["code"]: p["message"] for p in (node.info() or {}).get("problems", [])}


def healthy(node: SwitchedNode, path: str) -> bool:
    try:
        node.get(path, "metrics")
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False
    return True


@pytest.mark.parametrize("mode", MODES)
def test_open_connections_just_go_on_through_two_changes(
    cluster: SwitchedCluster, program: Callable[[Path], Program], mode: str
) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", mode)
    mine = program(n1.mount / "a.db")
    mine.execute("INSERT INTO t VALUES (2)")
    synced(cluster, "a.db")
    theirs = program(n2.mount / "a.db")
    assert theirs.execute("SELECT x FROM t") == [[1], [2]]
    with pytest.raises(RuntimeError, match="locked"):
        theirs.execute("INSERT INTO t VALUES (0)")

    cluster.hand_over(1)
    theirs.execute("INSERT INTO t VALUES (3)")
    with pytest.raises(RuntimeError, match="locked"):
        mine.execute("INSERT INTO t VALUES (0)")
    eventually(lambda: mine.execute("SELECT x FROM t"), [[1], [2], [3]])

    cluster.hand_over(0)
    mine.execute("INSERT INTO t VALUES (4)")
    eventually(lambda: theirs.execute("SELECT x FROM t"), [[1], [2], [3], [4]])
    images.check_same(cluster, "a.db")


def test_without_a_primary_reads_go_on_and_writes_are_locked(
    cluster: SwitchedCluster, program: Callable[[Path], Program]
) -> None:
    n1, _ = cluster.switched
    make(n1, "a.db", "WAL")
    mine = program(n1.mount / "a.db")
    mine.execute("SELECT x FROM t")

    n1.post("/role", role="replica", primary=None)

    assert mine.execute("SELECT x FROM t") == [[1]]
    with pytest.raises(RuntimeError, match="locked"):
        mine.execute("INSERT INTO t VALUES (0)")
    assert (n1.mount / ".role").read_text() == "disconnected\n"
    assert not healthy(n1, "/healthz/ready")


def test_an_idle_connection_of_a_rollback_mode_database_does_not_trust_its_old_pages(
    cluster: SwitchedCluster, program: Callable[[Path], Program]
) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", "DELETE")
    idle = program(n1.mount / "a.db")
    idle.execute("INSERT INTO t VALUES (2)")
    cluster.hand_over(1)
    write(n2, "a.db", 3)
    synced(cluster, "a.db")
    cluster.hand_over(0)
    write(n1, "a.db", 4)  # opens, writes through the WAL, and removes it when it closes

    idle.execute("INSERT INTO t VALUES (5)")

    assert idle.execute("SELECT x FROM t") == [[1], [2], [3], [4], [5]]


def test_a_drain_names_who_keeps_a_transaction_open_and_can_be_called_off(
    cluster: SwitchedCluster, program: Callable[[Path], Program]
) -> None:
    n1, _ = cluster.switched
    make(n1, "a.db", "WAL")
    mine = program(n1.mount / "a.db")
    mine.execute("BEGIN IMMEDIATE")
    mine.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(RoleRefusedError, match=f"DrainTimeout.*a.db.*pid {mine.pid}"):
        n1.post("/drain", timeoutS=0.3)
    n1.post("/resume")

    mine.execute("COMMIT")
    mine.execute("INSERT INTO t VALUES (3)")
    assert mine.execute("SELECT x FROM t") == [[1], [2], [3]]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_drain_has_what_ran_when_it_began_and_nothing_later(
    cluster: SwitchedCluster, program: Callable[[Path], Program], mode: str
) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", mode)
    mine, other = program(n1.mount / "a.db"), program(n1.mount / "a.db")
    other.execute("SELECT x FROM t")
    mine.execute("BEGIN IMMEDIATE")
    mine.execute("INSERT INTO t VALUES (2)")
    with pytest.raises(RoleRefusedError):
        n1.post("/drain", timeoutS=0.2)
    mine.execute("COMMIT")

    positions = n1.post("/drain", timeoutS=LIMIT_S)["positions"]

    with pytest.raises(RuntimeError, match="locked"):
        other.execute("INSERT INTO t VALUES (0)")
    with pytest.raises(OSError, match="busy"):
        os.open(n1.mount / "new.db", os.O_RDWR | os.O_CREAT)
    assert n1.post("/acknowledged", name="n2", positions=positions, timeoutS=LIMIT_S)["acknowledged"]
    assert program(n2.mount / "a.db").execute("SELECT x FROM t") == [[1], [2]]
    n1.post("/resume")
    other.execute("INSERT INTO t VALUES (3)")


@pytest.mark.parametrize("mode", ["TRUNCATE", "PERSIST"])
def test_a_drain_lets_a_running_transaction_open_its_journal(
    cluster: SwitchedCluster, program: Callable[[Path], Program], mode: str
) -> None:
    n1, _ = cluster.switched
    make(n1, "a.db", mode)
    mine = program(n1.mount / "a.db")
    mine.execute(f"PRAGMA journal_mode={mode}")
    mine.execute("INSERT INTO t VALUES (2)")  # the journal is there from now on, and opened for each transaction
    mine.execute("BEGIN IMMEDIATE")
    with pytest.raises(RoleRefusedError):
        n1.post("/drain", timeoutS=0.2)

    began = time.monotonic()
    mine.execute("INSERT INTO t VALUES (3)")
    mine.execute("COMMIT")

    assert time.monotonic() - began < PARKED_S
    n1.post("/drain", timeoutS=LIMIT_S)
    n1.post("/resume")
    assert mine.execute("SELECT x FROM t") == [[1], [2], [3]]


def patiently(program: Program, statement: str) -> None:
    """Execute; a lock that the sidecar holds for a moment, while it tries to take the database, is waited for."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            program.execute(statement)
            return
        except RuntimeError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "PRAGMA locking_mode=EXCLUSIVE"])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_writer_that_does_not_end_is_cut_off_and_named(
    cluster: SwitchedCluster, program: Callable[[Path], Program], mode: str, begin: str
) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", mode)
    synced(cluster, "a.db")
    stuck = program(n1.mount / "a.db")
    stuck.execute(begin)
    stuck.execute("INSERT INTO t VALUES (2)")
    synced(cluster, "a.db")

    n1.post("/role", role="replica", primary=None, limitS=0.3)
    assert f"pid {stuck.pid}" in problems(n1)["WriterCutOff"]
    cluster.epoch += 1
    cluster.leader = 1
    n2.post("/role", role="primary", epoch=cluster.epoch)
    cluster.follow()
    write(n2, "a.db", 3)
    assert "WriterCutOff" in problems(n1)

    exclusive = begin.startswith("PRAGMA")
    with pytest.raises(RuntimeError, match="I/O"):
        patiently(stuck, "INSERT INTO t VALUES (0)" if exclusive else "COMMIT")
    stuck.kill()
    again = program(n1.mount / "a.db")
    eventually(lambda: again.execute("SELECT x FROM t"), [[1], [2], [3]] if exclusive else [[1], [3]])
    eventually(lambda: "WriterCutOff" in problems(n1), False)
    images.check_same(cluster, "a.db")


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_what_only_the_old_primary_has_goes_to_lost_and_found(
    cluster: SwitchedCluster, program: Callable[[Path], Program], mode: str
) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", mode)
    mine = program(n1.mount / "a.db")
    mine.execute("SELECT x FROM t")
    synced(cluster, "a.db")
    n2.post("/role", role="replica", primary=None)
    mine.execute("INSERT INTO t VALUES (2)")  # nobody else has seen it when the other takes over
    cluster.epoch += 1
    cluster.leader = 1
    n2.post("/role", role="primary", epoch=cluster.epoch)
    write(n2, "a.db", 3)

    cluster.follow()

    eventually(lambda: mine.execute("SELECT x FROM t"), [[1], [3]])
    assert "TailKept" in problems(n1)
    assert any((n1.data / "lost+found").rglob("*.ltx"))
    images.check_same(cluster, "a.db")


def test_databases_made_and_deleted_after_a_promotion_are_so_everywhere(
    cluster: SwitchedCluster, program: Callable[[Path], Program]
) -> None:
    n1, n2 = cluster.switched
    make(n1, "old.db", "DELETE")
    synced(cluster, "old.db")
    cluster.hand_over(1)
    make(n2, "new.db", "WAL")
    os.unlink(n2.mount / "old.db")

    eventually(lambda: (n1.mount / "new.db").exists() and not (n1.mount / "old.db").exists())
    cluster.hand_over(0)
    write(n1, "new.db", 2)
    make(n1, "old.db", "WAL")

    synced(cluster, "new.db", "old.db")
    images.check_same(cluster, "new.db", "old.db")


def test_an_epoch_begins_once(cluster: SwitchedCluster) -> None:
    _, n2 = cluster.switched
    eventually(lambda: (n2.info() or {})["epoch"], cluster.epoch)  # it has met the primary
    with pytest.raises(RoleRefusedError, match="StaleEpoch"):
        n2.post("/role", role="primary", epoch=cluster.epoch)
    n2.positions(epoch=7)
    with pytest.raises(RoleRefusedError, match="StaleEpoch"):
        n2.post("/role", role="primary", epoch=6)
    n2.post("/role", role="primary", epoch=7)
    assert (n2.info() or {})["epoch"] == 7


def test_after_a_promise_nothing_is_taken_from_the_older_epoch(cluster: SwitchedCluster) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", "WAL")
    synced(cluster, "a.db")

    before = n2.positions(epoch=5)
    write(n1, "a.db", 2)
    time.sleep(1.5)

    assert n2.positions() == before
    assert "StaleEpoch" in problems(n2) or "StreamBroken" in problems(n2)
    n1.post("/role", role="primary", epoch=6)  # the same primary, under an epoch that all accept
    synced(cluster, "a.db")
    assert n1.positions()["a.db"][0] == n2.positions()["a.db"][0] == 6


def test_epochs_of_databases_travel_and_survive_a_restart(cluster: SwitchedCluster) -> None:
    n1, n2 = cluster.switched
    make(n1, "a.db", "WAL")
    cluster.hand_over(1)
    eventually(lambda: n1.positions().get("a.db", [0])[0], 2)
    assert n1.stop()
    n1.start()
    assert n1.positions() == n2.positions()


def test_a_passed_fence_ends_writing_and_is_shown(cluster: SwitchedCluster, program: Callable[[Path], Program]) -> None:
    n1, _ = cluster.switched
    make(n1, "a.db", "WAL")
    mine = program(n1.mount / "a.db")
    mine.execute("SELECT x FROM t")
    n1.post("/role", role="primary", epoch=9, fenceS=0.5)
    assert healthy(n1, "/healthz/ready") and healthy(n1, "/healthz/startup")
    mine.execute("INSERT INTO t VALUES (2)")
    eventually(lambda: (n1.info() or {})["role"], "fenced")

    with pytest.raises(RuntimeError, match="I/O"):
        mine.execute("INSERT INTO t VALUES (0)")
    assert mine.execute("SELECT x FROM t") == [[1], [2]]
    assert not healthy(n1, "/healthz/ready")

    n1.post("/role", role="replica", primary=None)
    n1.post("/role", role="primary", epoch=10)
    mine.execute("INSERT INTO t VALUES (3)")
    assert mine.execute("SELECT x FROM t") == [[1], [2], [3]]


def test_probes_tell_a_replica_from_a_node_without_primary(cluster: SwitchedCluster) -> None:
    n1, n2 = cluster.switched
    for node in (n1, n2):
        eventually(lambda node=node: healthy(node, "/healthz/startup") and healthy(node, "/healthz/ready"))
    n2.post("/role", role="replica", primary=None)

    assert not healthy(n2, "/healthz/startup") and not healthy(n2, "/healthz/ready")


def test_a_node_with_an_election_or_a_fixed_role_takes_no_orders(tmp_path: Path) -> None:
    with SwitchedCluster(tmp_path, 1) as made:
        made.switched[0].stop()
        made.switched[0].set_options(role="primary")
        made.switched[0].start()
        with pytest.raises(RoleRefusedError, match="NotCandidate"):
            made.switched[0].post("/role", role="replica", primary=None)
