"""The mount behaves as the directory that programs expect."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from support.mounting import MountedNode


@pytest.fixture
def top(shared: MountedNode, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own."""
    path = shared.mnt / request.node.name[:60].replace("[", "-").replace("]", "")
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "with space", "ümlaut", "x-journal", "x.db-mj00AB129CD"])
def test_a_file_of_any_name_keeps_its_bytes(top: Path, name: str) -> None:
    (top / name).write_bytes(b"content" * 1000)
    assert (top / name).read_bytes() == b"content" * 1000
    assert os.listdir(top) == [name]


def test_a_listing_shows_files_databases_and_directories(top: Path) -> None:
    for name in ("app.db", ".config", "sub.dir"):
        (top / name).mkdir() if name == "sub.dir" else (top / name).touch()
    (top / "sub.dir" / "inner.db").touch()
    assert sorted(os.listdir(top)) == [".config", "app.db", "sub.dir"]
    assert os.listdir(top / "sub.dir") == ["inner.db"]


def test_a_long_listing_has_every_name_once(top: Path) -> None:
    names = {f".file-{number:04}" for number in range(700)}
    for name in names:
        (top / name).touch()
    assert sorted(os.listdir(top)) == sorted(names)
    shutil.rmtree(top)
    assert not top.exists()


def test_exclusive_creation_of_an_existing_name_fails(top: Path) -> None:
    (top / "a.db").touch()
    with pytest.raises(FileExistsError):
        os.open(top / "a.db", os.O_CREAT | os.O_EXCL | os.O_RDWR)


def test_opening_with_truncation_empties_the_file(top: Path) -> None:
    (top / "a.bin").write_bytes(b"old content")
    (top / "a.bin").write_bytes(b"new")
    assert (top / "a.bin").read_bytes() == b"new"
    os.truncate(top / "a.bin", 1)
    assert (top / "a.bin").read_bytes() == b"n"
    os.truncate(top / "a.bin", 3)
    assert (top / "a.bin").read_bytes() == b"n\0\0"


@pytest.mark.parametrize("name", [".plain", "data.bin"])
def test_an_unlinked_open_file_can_be_used_until_it_is_closed(shared: MountedNode, top: Path, name: str) -> None:
    with open(top / name, "w+b") as file:
        file.write(b"before")
        file.flush()
        os.unlink(top / name)
        assert not (top / name).exists()
        file.write(b" after")
        file.seek(0)
        assert file.read() == b"before after"


def test_an_unlinked_plain_file_leaves_nothing_behind(shared: MountedNode, top: Path) -> None:
    with open(top / ".plain", "wb") as file:
        file.write(b"x")
        os.unlink(top / ".plain")
    shared.wait_for(lambda: not os.listdir(shared.data / "orphans"))


@pytest.mark.parametrize(("old", "new"), [(".a", ".b"), (".a", "b.bin"), ("a.bin", "b.bin"), ("a.bin", ".b")])
def test_rename_replaces_the_target_at_once(top: Path, old: str, new: str) -> None:
    (top / old).write_bytes(b"wanted")
    (top / new).write_bytes(b"unwanted, longer")
    os.rename(top / old, top / new)
    assert (top / new).read_bytes() == b"wanted"
    assert os.listdir(top) == [new]


def test_a_renamed_directory_takes_everything_along(top: Path) -> None:
    (top / "old" / "sub").mkdir(parents=True)
    (top / "old" / "sub" / "app.db").write_bytes(b"not a database")
    (top / "old" / ".file").write_bytes(b"content")
    os.rename(top / "old", top / "new")
    assert (top / "new" / "sub" / "app.db").read_bytes() == b"not a database"
    assert (top / "new" / ".file").read_bytes() == b"content"
    assert os.listdir(top) == ["new"]


def test_a_directory_with_a_database_cannot_be_removed(top: Path) -> None:
    (top / "sub").mkdir()
    (top / "sub" / "app.db").touch()
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(top / "sub")
    os.unlink(top / "sub" / "app.db")
    os.rmdir(top / "sub")


@pytest.mark.parametrize("name", ["app.db", ".file"])
def test_mode_owner_and_times_can_be_changed(top: Path, name: str) -> None:
    path = top / name
    path.touch()
    os.chmod(path, 0o640)
    os.chown(path, 1234, 2345)
    os.utime(path, (1_000_000, 2_000_000))
    seen = path.stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o640, 1234, 2345)
    assert (seen.st_atime, seen.st_mtime) == (1_000_000, 2_000_000)


def test_the_kernel_checks_file_modes(top: Path) -> None:
    path = top / "secret.db"
    path.write_bytes(b"secret")
    os.chmod(path, 0o600)
    command = ["cat", str(path)]
    answer = subprocess.run(command, user=65534, capture_output=True, check=False)
    assert answer.returncode != 0
    assert b"Permission denied" in answer.stderr


def test_links_are_refused(top: Path) -> None:
    (top / "app.db").touch()
    with pytest.raises(PermissionError):
        os.symlink("app.db", top / "other.db")
    with pytest.raises(PermissionError):
        os.link(top / "app.db", top / "other.db")


def test_names_cannot_be_exchanged_or_sockets_made(top: Path) -> None:
    with pytest.raises(PermissionError):
        os.mkfifo(top / "pipe")
    with pytest.raises(FileNotFoundError):
        os.rename(top / "missing", top / "other")


def test_a_file_and_its_directory_can_be_synced(top: Path) -> None:
    with open(top / ".file", "wb") as file:
        file.write(b"content")
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    folder = os.open(top, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def test_the_free_space_excludes_the_reserve(shared: MountedNode) -> None:
    ours, disk = os.statvfs(shared.mnt), os.statvfs(shared.data)
    assert ours.f_blocks == disk.f_blocks
    assert ours.f_bavail < disk.f_bavail + (1 << 16)


def test_a_removed_and_remade_name_is_a_new_file(top: Path) -> None:
    for number in range(5):
        (top / ".x").write_bytes(b"%d" % number)
        assert (top / ".x").read_bytes() == b"%d" % number
        os.unlink(top / ".x")
