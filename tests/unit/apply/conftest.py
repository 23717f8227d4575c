"""A real primary, a node that replicates it, and the replica of its database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.replicator.replica import ReplicaDb
from support.replica import Primary, Replica


@pytest.fixture(params=["wal", "delete"])
def primary(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Primary]:
    made = Primary(tmp_path / "primary.db", mode=request.param)
    yield made
    made.sql.close()


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path / "replica")


@pytest.fixture
def db(replica: Replica) -> Iterator[ReplicaDb]:
    made = ReplicaDb(replica.node, "x.db", replica.paths("x.db"))
    yield made
    made.close()
