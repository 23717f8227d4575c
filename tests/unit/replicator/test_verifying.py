"""When the background verifier counts a difference."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sqlitecluster.replicator.verifying import BackgroundVerifier
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_PRIMARY, ROLE_REPLICA, NodeWord
from support.store_model import make


@pytest.mark.parametrize(
    ("role", "in_flight", "applied", "settled"),
    [
        (ROLE_PRIMARY, 0, 0, True),
        (ROLE_PRIMARY, 2, 0, False),
        (ROLE_REPLICA, 0, 2, True),
        (ROLE_REPLICA, 0, 1, False),
        (ROLE_DISCONNECTED, 0, 1, False),
    ],
)
def test_not_while_a_transaction_waits_to_be_committed_or_shown(
    tmp_path: Path, role: int, in_flight: int, applied: int, settled: bool
) -> None:
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0", 2: b"a"})
    model.write({2: b"b"})
    model.store.set_applied(applied)
    model.store.set_in_flight(in_flight)
    node = cast(Any, SimpleNamespace(state=SimpleNamespace(node={NodeWord.ROLE: role})))
    verifier = BackgroundVerifier(node, cast(Executor, None), cast(Any, None))
    assert verifier._is_settled(model.store) is settled
    store.close()
