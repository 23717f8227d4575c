"""Scenes: writing on the primary, and what a writer on a replica is told."""

from __future__ import annotations

import sqlite3
import time

from support import images
from support.clients import connect, error_of, fill, follows, run_sql, shell, value
from support.lane import Run, registry

CASES, case = registry()
LOCKED = "database is locked"
READ_ONLY = "attempt to write a readonly database"


@case
def written_here_read_there(run: Run) -> None:
    cluster = run.shared()
    run_sql(cluster.primary.mount / "hello.db", "CREATE TABLE t(x)", "INSERT INTO t VALUES('hello')", journal="WAL")
    follows(cluster.replica, "hello.db", "SELECT x FROM t", "hello")
    images.check_same(cluster, "hello.db")


@case
def any_client_can_write_and_read(run: Run) -> None:
    cluster = run.shared()
    made = shell(
        cluster.primary.mount / "shell.db", "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(42);"
    )
    assert made.returncode == 0, made.stderr
    follows(cluster.replica, "shell.db", "SELECT x FROM t", 42)
    read = shell(cluster.replica.mount / "shell.db", "SELECT x FROM t;")
    assert read.stdout.strip() == "42", f"{read.stdout!r} {read.stderr!r}"
    refused = shell(cluster.replica.mount / "shell.db", "INSERT INTO t VALUES(43);")
    assert LOCKED in refused.stderr, refused.stderr


@case
def each_journal_mode_replicates(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"):
        name = f"mode-{mode.lower()}.db"
        fill(cluster.primary.mount / name, 50, journal=mode)
        run_sql(cluster.primary.mount / name, "DELETE FROM t WHERE id % 2", journal=mode)
        follows(cluster.replica, name, "SELECT count(*) FROM t", 25)
        images.check_same(cluster, name)


@case
def a_write_on_a_replica_is_locked(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE"):
        name = f"locked-{mode.lower()}.db"
        fill(cluster.primary.mount / name, 3, journal=mode)
        follows(cluster.replica, name, "SELECT count(*) FROM t", 3)
        with connect(cluster.replica.mount / name, timeout_s=0) as db:
            for statement in (
                "INSERT INTO t(v) VALUES(1)",
                "CREATE TABLE u(x)",
                "BEGIN IMMEDIATE",
                "VACUUM",
                "DROP TABLE t",
            ):
                message = error_of(lambda s=statement: db.execute(s))  # type: ignore[misc]
                assert message == LOCKED, f"{mode}: {statement}: {message!r}"
            assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)
        images.check_same(cluster, name)


@case
def a_write_with_read_only_is_refused_at_once(run: Run) -> None:
    with run.cluster("readonly", replicaWrites="ReadOnly") as cluster:
        fill(cluster.primary.mount / "a.db", 3)
        follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 3)
        with connect(cluster.replica.mount / "a.db", timeout_s=60) as db:
            began = time.monotonic()
            message = error_of(lambda: db.execute("INSERT INTO t(v) VALUES(1)"))
            assert message == READ_ONLY, message
            assert time.monotonic() - began < 30, "the refusal waited for the busy timeout"
            assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)
        fill(cluster.primary.mount / "a.db", 2)
        follows(cluster.replica, "a.db", "SELECT count(*) FROM t", 5)
        images.check_same(cluster, "a.db")


@case
def no_checkpoint_or_mode_change_on_a_replica(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "ck.db", 40)
    follows(cluster.replica, "ck.db", "SELECT count(*) FROM t", 40)
    before = images.backing(cluster.replica, "ck.db").read_bytes()
    with connect(cluster.replica.mount / "ck.db", timeout_s=0) as db:
        for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            row = db.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
            assert row[0] == 1, f"checkpoint {kind} on a replica answered {row}"
        for mode in ("DELETE", "TRUNCATE", "OFF"):
            try:
                answer = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
            except sqlite3.OperationalError as error:
                answer = str(error)
            assert answer in ("wal", LOCKED), f"journal_mode={mode}: {answer}"
    assert images.backing(cluster.replica, "ck.db").read_bytes() == before, "a program's checkpoint wrote on a replica"
    images.check_same(cluster, "ck.db")


@case
def nothing_can_be_created_or_deleted_on_a_replica(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "fixed.db", 2)
    follows(cluster.replica, "fixed.db", "SELECT count(*) FROM t", 2)
    mount = cluster.replica.mount
    message = error_of(lambda: run_sql(mount / "new.db", "CREATE TABLE t(x)"))
    assert "unable to open" in message or LOCKED in message or READ_ONLY in message, message
    assert not (mount / "new.db").exists(), "a database was created on a replica"
    for action in ((mount / "fixed.db").unlink, lambda: (mount / "fixed.db").rename(mount / "other.db")):
        message = error_of(action)
        assert "Read-only file system" in message, message
    assert "Read-only file system" in error_of(lambda: (mount / "fixed.db").write_bytes(b"x" * 512))
    images.check_same(cluster, "fixed.db")


@case
def a_large_transaction_arrives_whole(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "large.db", 1)
    follows(cluster.replica, "large.db", "SELECT count(*) FROM t", 1)
    seen = set()
    with connect(cluster.primary.mount / "large.db") as db:
        db.execute("PRAGMA cache_size=50")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(900,)] * 20_000)
        seen.add(value(cluster.replica.mount / "large.db", "SELECT count(*) FROM t"))
        db.execute("COMMIT")
    deadline = time.monotonic() + 60
    while 20_001 not in seen and time.monotonic() < deadline:
        seen.add(value(cluster.replica.mount / "large.db", "SELECT count(*) FROM t"))
    assert seen == {1, 20_001}, f"a replica showed parts of a transaction: {sorted(seen)[:10]}"
    images.check_same(cluster, "large.db")


@case
def a_rolled_back_transaction_never_appears(run: Run) -> None:
    cluster = run.shared()
    for mode in ("WAL", "DELETE", "PERSIST"):
        name = f"rollback-{mode.lower()}.db"
        fill(cluster.primary.mount / name, 10, journal=mode)
        with connect(cluster.primary.mount / name, journal=mode) as db:
            db.execute("PRAGMA cache_size=5")
            db.execute("BEGIN")
            db.executemany("INSERT INTO t(v) VALUES(randomblob(?))", [(3000,)] * 200)
            db.execute("UPDATE t SET v = zeroblob(20)")
            db.execute("ROLLBACK")
            db.execute("INSERT INTO t(v) VALUES('after')")
        follows(cluster.replica, name, "SELECT count(*) FROM t", 11)
        images.check_same(cluster, name)


@case
def the_mode_changes_under_readers(run: Run) -> None:
    cluster = run.shared()
    primary, replica = cluster.primary.mount / "switch.db", cluster.replica.mount / "switch.db"
    fill(primary, 5)
    follows(cluster.replica, "switch.db", "SELECT count(*) FROM t", 5)
    with connect(replica) as reader:
        for i, mode in enumerate(("DELETE", "WAL", "TRUNCATE", "PERSIST", "WAL")):
            run_sql(primary, f"PRAGMA journal_mode={mode}", "INSERT INTO t(v) VALUES(1)")
            follows(cluster.replica, "switch.db", "SELECT count(*) FROM t", 6 + i)
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (6 + i,), f"after the change to {mode}"
    images.check_same(cluster, "switch.db")


@case
def a_new_page_size_arrives(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "pages.db"
    fill(path, 200, journal="DELETE")
    follows(cluster.replica, "pages.db", "SELECT count(*) FROM t", 200)
    for size in (512, 65536, 1024):
        run_sql(path, f"PRAGMA page_size={size}", "VACUUM", "INSERT INTO t(v) VALUES(1)")
        cluster.wait_synced("pages.db")
        follows(cluster.replica, "pages.db", "PRAGMA page_size", size)
        images.check_same(cluster, "pages.db")
