"""Bugs planted into real nodes are seen from outside, with fixed seeds; without them the same seeds show nothing."""

from __future__ import annotations

import random
from pathlib import Path

from support import flips, planting, processes, walresets
from support.clients import fill
from support.cluster import Cluster

WAL_SEED, FLIP_SEED = 3, 5
MENDED_S, NOT_MENDED_S = 60.0, 5.0


def resets(folder: Path, bug: str = "") -> tuple[walresets.Story, list[str]]:
    """Logs that are destroyed before they are captured."""
    cluster = Cluster(folder)
    cluster.primary.extra = planting.environment(bug) if bug else {}
    with cluster:
        return walresets.rounds(cluster, WAL_SEED)


def is_mended(folder: Path, limit_s: float, bug: str = "") -> bool:
    """Whether a flipped bit on a replica is found and mended in time."""
    cluster = Cluster(folder, verifyIntervalS=0.02)
    cluster.replica.extra = planting.environment(bug) if bug else {}
    with cluster:
        fill(cluster.primary.mount / "a.db", 300, size=900, journal="DELETE")
        cluster.wait_synced("a.db")
        assert processes.wait_until(lambda: _size(cluster) > 200_000, limit_s=MENDED_S), (
            "the replica writes nothing back"
        )
        made = flips.in_page(random.Random(FLIP_SEED), cluster.replica, "a.db")
        before = made.path.read_bytes()
        mended = processes.wait_until(lambda: flips.repaired(made.node, "page", "a.db") > 0, limit_s=limit_s)
        assert mended or made.path.read_bytes()[made.offset] == before[made.offset], "mended, and not counted"
        return mended


def _size(cluster: Cluster) -> int:
    return (cluster.replica.data / "dbs/a.db/database").stat().st_size


def test_a_wal_reset_that_is_not_parked_is_found(tmp_path: Path) -> None:
    story, wrong = resets(tmp_path, "wal-reset-not-parked")
    assert story.waited == []
    assert any("missing" in text or "differs" in text for text in wrong), wrong


def test_wal_resets_wait_for_their_capture_and_lose_nothing(tmp_path: Path) -> None:
    story, wrong = resets(tmp_path)
    assert wrong == []
    assert sorted(story.waited) == ["restart", "small_log", "truncate"]


def test_a_verifier_that_looks_at_nothing_is_found(tmp_path: Path) -> None:
    assert not is_mended(tmp_path, NOT_MENDED_S, "verifier-off")


def test_a_flipped_bit_is_mended(tmp_path: Path) -> None:
    assert is_mended(tmp_path, MENDED_S)
