"""Checks before a start: each failure has its code and says what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sqlitecluster import errors
from sqlitecluster.config.model import Listen, NodeConfig, RunAs
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.supervisor import preflight

QUIET = Listen(peers="", metrics="", api="")
MAY_MOUNT = "CapEff:\t000001ffffffffff\n"
MAY_NOT_MOUNT = "CapEff:\t0000000000000000\n"


def config(folder: Path, listen: Listen = QUIET) -> NodeConfig:
    return NodeConfig(
        name="n1",
        data_dir=folder / "data",
        mount_dir=folder / "mnt",
        runtime_dir=folder / "run",
        listen=listen,
    )


def status(folder: Path, text: str) -> str:
    path = folder / "status"
    path.write_text(text)
    return str(path)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    preflight.check_folders(config(tmp_path))
    preflight.check_mount_point(tmp_path / "mnt")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mnt", "run"]
    assert list((tmp_path / "data").iterdir()) == []


def test_without_the_right_to_mount_the_answer_names_it(tmp_path: Path) -> None:
    with pytest.raises(errors.NotPermitted, match=r"CAP_SYS_ADMIN"):
        preflight.check_rights(os.devnull, status(tmp_path, MAY_NOT_MOUNT))


def test_without_the_fuse_device_the_answer_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(errors.NoFuseDevice, match=r"is missing: load the kernel module"):
        preflight.check_rights(str(tmp_path / "fuse"), status(tmp_path, MAY_MOUNT))


def test_a_fuse_device_that_cannot_be_opened_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(errors.NoFuseDevice, match=r"cannot open"):
        preflight.check_rights(str(tmp_path), status(tmp_path, MAY_MOUNT))


def test_with_device_and_right_all_is_well(tmp_path: Path) -> None:
    preflight.check_rights(os.devnull, status(tmp_path, MAY_MOUNT))


def test_a_mount_point_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnt").write_text("")

    with pytest.raises(errors.BadFolder, match="is no folder"):
        preflight.check_mount_point(tmp_path / "mnt")


def test_a_mount_point_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "mnt").symlink_to("real")

    with pytest.raises(errors.BadFolder, match="is no folder"):
        preflight.check_mount_point(tmp_path / "mnt")


def test_a_mount_point_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")

    with pytest.raises(errors.BadFolder, match="is not empty"):
        preflight.check_mount_point(tmp_path)


def test_a_folder_where_something_else_is_mounted_is_refused() -> None:
    with pytest.raises(errors.MountPointInUse, match="/proc"):
        preflight.check_mount_point(Path("/proc"))


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(errors.BadFolder, match="data directory"):
        preflight.check_folders(config(tmp_path))


def test_a_data_directory_that_leads_into_the_mount_by_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnt" / "inner").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "mnt" / "inner")

    with pytest.raises(errors.BadFolder, match="must not contain one another"):
        preflight.check_folders(config(tmp_path))


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))

    with pytest.raises(errors.NotPermitted, match="TMPDIR"):
        preflight.check_folders(config(tmp_path))


def test_an_address_in_use_is_named_with_its_key(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(errors.AddressInUse, match=rf"listen\.api: cannot listen on {address}: the port is in use"):
            preflight.check_addresses(config(tmp_path, Listen(peers="", metrics="", api=address)))


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.AddressInUse, match=r"listen\.peers"):
        preflight.check_addresses(config(tmp_path, Listen(peers="192.0.2.1:1", metrics="", api="")))


def test_a_locked_data_directory_is_refused_before_ports_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check_rights", lambda device: None)
    first = preflight.check(config(tmp_path))

    with pytest.raises(errors.StoreLocked, match=f"process {os.getpid()}"):
        preflight.check(config(tmp_path, Listen(peers="192.0.2.1:1")))
    os.close(first)


def test_a_failed_check_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check_rights", lambda device: None)
    with pytest.raises(errors.AddressInUse):
        preflight.check(config(tmp_path, Listen(peers="192.0.2.1:1")))

    os.close(preflight.check(config(tmp_path)))


def test_a_failed_check_leaves_nothing_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check_rights", lambda device: None)
    wrong, runtime = config(tmp_path, Listen(peers="192.0.2.1:1")), runtime_dir(config(tmp_path))
    with pytest.raises(errors.AddressInUse):
        preflight.check(wrong)
    assert not runtime.exists()

    runtime.mkdir()  # somebody's
    with pytest.raises(errors.AddressInUse):
        preflight.check(wrong)
    runtime.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_the_workers_user_cannot_reach_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wrong = NodeConfig(name="n1", data_dir=closed / "data", mount_dir=tmp_path / "mnt", run_as=RunAs())
    with pytest.raises(errors.NotPermitted, match=r"user 65532 cannot reach the data directory: .* is closed to it"):
        preflight.check_user(wrong, RunAs())
