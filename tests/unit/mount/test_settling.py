"""The end of a kept journal becomes durable soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sqlitecluster.mount import settling
from sqlitecluster.mount.settling import Settling


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were synced."""
    done: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(settling, "_SOON_S", 0.1)
    return done


def wait_for(synced: list[str], count: int) -> None:
    deadline = time.monotonic() + 10
    while len(synced) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_removed_journal_is_settled_soon_and_once(tmp_path: Path, synced: list[str]) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    some = Settling()
    for count, path in enumerate(files, start=1):
        path.touch()
        some.removed(str(path))
        assert some.some
        wait_for(synced, count)
    time.sleep(0.3)
    assert synced == [str(path) for path in files] and not some.some


def test_one_that_serves_again_is_left_alone(tmp_path: Path, synced: list[str]) -> None:
    some = Settling()
    some.removed(str(tmp_path / "a"))
    some.forget(str(tmp_path / "a"))
    time.sleep(0.3)
    assert not synced and not some.some


def test_what_is_left_at_the_end_is_settled(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a").touch()
    some = Settling()
    some.removed(str(tmp_path / "a"))
    some.removed(str(tmp_path / "gone"))
    some.close()
    assert synced == [str(tmp_path / "a")] and not some.some


def test_each_thread_waits_for_what_it_removed_and_for_what_a_predecessor_left(tmp_path: Path) -> None:
    some = Settling()
    some.found(str(tmp_path / "found"))
    some.removed_by(1)
    for name, pid in (("one", 1), ("two", 2)):
        some.removed(str(tmp_path / name))
        some.removed_by(pid)
    assert some.of(1) == [str(tmp_path / "found"), str(tmp_path / "one")]
    assert some.of(2) == [str(tmp_path / "found"), str(tmp_path / "two")]
    some.forget(str(tmp_path / "found"))
    assert not some.of(3)


def test_a_failing_disk_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()

    def fail(_fd: int) -> None:
        raise OSError(5, "no disk")

    monkeypatch.setattr(os, "fdatasync", fail)
    some = Settling()
    some.removed(str(tmp_path / "a"))
    with pytest.raises(OSError, match="no disk"):
        some.settle(str(tmp_path / "a"))
    some.close()
    assert some.some
