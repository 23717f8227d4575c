"""Folders are given to the workers' user once, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sqlitecluster.supervisor import ownership

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

UID, GID = 20202, 20203


def owner(path: Path) -> tuple[int, int]:
    seen = os.lstat(path)
    return seen.st_uid, seen.st_gid


def test_everything_in_the_folder_is_given(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "dbs/a.db/ltx").mkdir(parents=True)
    (data / "dbs/a.db/database").write_bytes(b"x")
    assert ownership.give(str(data), UID, GID)
    assert {owner(path) for path in [data, *data.rglob("*")]} == {(UID, GID)}


def test_a_folder_that_is_right_is_not_walked_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, UID, 4711)  # the group may be a pod's fsGroup
    inside = data / "of-root"
    inside.touch()
    assert not ownership.give(str(data), UID, GID)
    assert owner(inside) == (0, 0)


def test_what_a_link_points_to_is_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    data = tmp_path / "data"
    data.mkdir()
    (data / "folder").symlink_to(outside)
    (data / "file").symlink_to(outside / "secret")
    assert ownership.give(str(data), UID, GID)
    assert owner(outside) == owner(outside / "secret") == (0, 0)
    assert owner(data / "folder") == (UID, GID)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "real")
    with pytest.raises(OSError):
        ownership.give(str(tmp_path / "data"), UID, GID)


def test_a_group_that_was_added_to_a_closed_folder_does_not_lock_the_user_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o050)
    ownership.give(str(data), UID, GID)
    assert data.stat().st_mode & 0o700 == 0o700
