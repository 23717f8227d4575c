"""The replicator is killed between two steps; its successor goes on where it was."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.keeper import Keeper
from support.replica import Primary, Replica
from support.sqlprogram import program

STEPS = [
    "apply.before-log",
    "apply.after-log",
    "apply.before-frames",
    "apply.after-frames",
    "apply.after-index",
    "apply.before-applied",
    "checkpoint.page",
    "checkpoint.before-backfilled",
    "checkpoint.after-index-header",
    "checkpoint.after-marks",
]
INSTALL_STEPS = ["install.taken", "install.copying", "install.visible", "install.noted"]
INSERT = (
    "WITH r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r LIMIT 9) "
    "INSERT INTO t(a,b) SELECT abs(random() % 1000), randomblob(700) FROM r"
)


def transactions(primary: Primary, folder: Path, count: int, first: int = 0) -> None:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    for n in range(first, first + count):
        statement = INSERT if n else "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)"
        (folder / "work" / f"{n:04d}.ltx").write_bytes(primary.run(statement))


@pytest.mark.parametrize(("step", "mode"), [(step, ("wal", "delete")[n % 2]) for n, step in enumerate(STEPS)])
def test_a_kill_while_applying_is_not_seen_by_programs_and_is_repaired(tmp_path: Path, step: str, mode: str) -> None:
    primary = Primary(tmp_path / "p.db", mode=mode)
    replica = Replica(tmp_path / "replica")
    replica.state.add_slot("x.db")
    keeper = Keeper(tmp_path / "replica", replica.state_fd)
    transactions(primary, keeper.folder, 3)
    assert keeper.run() == 0
    assert set(keeper.kept) == {"0:database", "0:shm"}
    transactions(primary, keeper.folder, 25, first=3)
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[18]]
        keeper.arm(step)
        assert keeper.run() == -signal.SIGKILL
        rows = other.run("SELECT count(*) FROM t")[0][0]
        assert rows % 9 == 0
        assert other.run("PRAGMA integrity_check") == [["ok"]]
        assert "locked" in other.error_of("INSERT INTO t(a) VALUES(1)")
        assert other.run("PRAGMA wal_checkpoint") == [[1, -1, -1]]
        assert keeper.run() == 0
        assert other.run("SELECT count(*) FROM t") == [[27 * 9]]
        assert other.run("PRAGMA integrity_check") == [["ok"]]
    keeper.close()
    assert replica.folded() == primary.image
    primary.sql.close()


@pytest.mark.parametrize("step", INSTALL_STEPS)
def test_a_kill_during_an_install_is_repaired(tmp_path: Path, step: str) -> None:
    primary = Primary(tmp_path / "p.db")
    replica = Replica(tmp_path / "replica")
    replica.state.add_slot("x.db")
    keeper = Keeper(tmp_path / "replica", replica.state_fd)
    transactions(primary, keeper.folder, 30)
    for path in (keeper.folder / "work").iterdir():
        path.unlink()
    name = f"0000-{primary.txid}-{primary.checksum}-4096-{len(primary.image) // 4096}.image"
    (keeper.folder / "work" / name).write_bytes(primary.image)
    transactions(primary, keeper.folder, 3, first=30)
    keeper.arm(step)
    assert keeper.run() == -signal.SIGKILL
    assert keeper.run() == 0
    with program(replica.path()) as other:
        assert other.run("SELECT count(*) FROM t") == [[32 * 9]]
        assert "locked" in other.error_of("INSERT INTO t(a) VALUES(1)")
    keeper.close()
    assert replica.folded() == primary.image
    primary.sql.close()
