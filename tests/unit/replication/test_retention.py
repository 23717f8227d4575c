"""Which stored files may go."""

from __future__ import annotations

from dataclasses import dataclass

from sqlitecluster.replication.retention import RetentionPolicy, decide

NOW = 10_000_000


@dataclass(frozen=True)
class File:
    level: int
    min_txid: int
    max_txid: int
    size: int = 100
    age_s: float = 0

    @property
    def stored_ms(self) -> int:
        return int(NOW - self.age_s * 1000)


def gone(files: list[File], pinned: int | None = None, needed: int | None = None, **policy: float) -> list[int]:
    found = decide(files, RetentionPolicy(**policy), NOW, pinned=pinned, needed=needed)  # type: ignore[arg-type]
    return [file.max_txid for file in found]


def test_nothing_stored_nothing_removed() -> None:
    assert gone([]) == []


def test_old_files_go_and_the_newest_stays() -> None:
    assert gone([File(0, 1, 1, age_s=900), File(0, 2, 2, age_s=700), File(0, 3, 3, age_s=650)]) == [1, 2]


def test_young_files_stay() -> None:
    assert gone([File(0, 1, 1, age_s=599), File(0, 2, 2, age_s=1)]) == []


def test_a_connected_replica_keeps_what_it_has_not_got() -> None:
    files = [File(0, n, n, age_s=900) for n in range(1, 6)]
    assert gone(files, pinned=2) == [1, 2]


def test_the_local_image_keeps_what_it_lacks() -> None:
    files = [File(0, n, n, age_s=900) for n in range(1, 6)]
    assert gone(files, needed=3) == [1, 2, 3]


def test_too_many_bytes_go_oldest_first_whoever_needs_them() -> None:
    files = [File(0, n, n) for n in range(1, 11)]
    assert gone(files, pinned=0, size_bytes=450) == [1, 2, 3, 4, 5, 6]


def test_even_then_the_local_image_is_served() -> None:
    files = [File(0, n, n) for n in range(1, 11)]
    assert gone(files, needed=2, size_bytes=450) == [1, 2]


def test_joined_files_go_after_a_while() -> None:
    files = [File(0, 1, 1, age_s=70), File(0, 2, 2, age_s=50), File(1, 1, 2, age_s=40), File(0, 3, 3)]
    assert gone(files) == [1]


def test_partly_joined_files_stay() -> None:
    files = [File(0, 1, 3, age_s=70), File(1, 1, 2, age_s=40), File(0, 4, 4)]
    assert gone(files) == []


def test_a_snapshot_does_not_replace_increments_before_their_age() -> None:
    files = [File(0, 1, 1, age_s=70), File(0, 2, 2, age_s=69), File(9, 1, 2, age_s=10), File(0, 3, 3)]
    assert gone(files) == []
