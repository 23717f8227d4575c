"""``stackMounts``: a new mount covers a dead one, where programs of other containers see it too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.supervisor import mountpoint
from sqlitecluster.supervisor.mountpoint import MountFailedError, MountPoint
from support import processes
from support.node import Node
from support.ports import give_back, take_base

CONTAINER_S = 600


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    yield path
    mountpoint.clear(str(path))


def stacked(path: Path) -> MountPoint:
    return MountPoint(str(path), allow_other=True, stacked=True)


def test_a_dead_mount_is_covered_and_all_go_at_the_end(point: Path) -> None:
    first = stacked(point)
    first.attach()
    first.close()  # as when its container was killed
    second = stacked(point)
    second.attach()
    assert len(mountpoint.mounts_at(str(point))) == 2
    second.detach()
    second.close()
    assert mountpoint.mounts_at(str(point)) == []
    os.rmdir(point)  # an ordinary folder, which the kubelet can remove


def test_a_live_mount_is_never_covered(point: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], check=False)
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], check=True)
    try:
        with pytest.raises(MountFailedError, match="something else is mounted"):
            stacked(point).attach()
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_a_connection_that_was_aborted_is_covered_too(point: Path) -> None:
    mount = stacked(point)
    mount.attach()
    mount.abort()
    mount.attach()
    assert len(mountpoint.mounts_at(str(point))) == 2
    mount.detach()
    mount.close()


class Container:
    """A program's container: a mount namespace with a slave of what was mounted when it started."""

    def __init__(self, source: Path, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        script = (
            f"mount --bind {source} {place} && mount --make-slave {place} && echo started && exec sleep {CONTAINER_S}"
        )
        command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"
        self._place = place

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "--mount", "--target", str(self.process.pid), *command]
        return subprocess.run(inside, capture_output=True, text=True, check=False, timeout=60, cwd="/")

    def sql(self, statement: str) -> str:
        done = self.run("sqlite3", str(self._place / "app.db"), statement)
        return done.stdout.strip() or done.stderr.strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A shared mount, as the kubelet's folder is."""
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
    subprocess.run(["mount", "--make-shared", str(path)], check=True)
    yield path
    mountpoint.clear(str(path / "fs"))
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_running_programs_of_other_containers_see_the_next_mount(tmp_path: Path, volume: Path) -> None:
    base = take_base()
    node = Node(tmp_path, 1, base, mountDir=str(volume / "fs"), stackMounts=True)
    node.mount = volume / "fs"
    node.start()
    old = Container(volume / "fs", tmp_path / "old")
    containers = [old]
    try:
        assert old.sql("CREATE TABLE t(x); INSERT INTO t VALUES (1); SELECT count(*) FROM t") == "1"
        for rows in (2, 3):
            node.kill("supervisor")
            assert node.process is not None
            node.process.wait()
            assert old.run("ls", str(tmp_path / "old")).returncode != 0  # dead for now
            node.start()
            assert old.sql("INSERT INTO t VALUES (1); SELECT count(*) FROM t") == str(rows)
            containers.append(Container(volume / "fs", tmp_path / f"new{rows}"))
            assert containers[-1].sql("SELECT count(*) FROM t") == str(rows)
        assert containers[1].sql("SELECT count(*) FROM t") == "3"  # born on the second mount, sees the third
        assert node.stop()
        assert mountpoint.mounts_at(str(volume / "fs")) == []
        os.rmdir(volume / "fs")
    finally:
        for container in containers:
            container.end()
        node.stop()
        give_back(base)


def test_a_node_that_fails_leaves_its_mount_for_the_next_one(tmp_path: Path, volume: Path) -> None:
    base = take_base()
    node = Node(tmp_path, 1, base, mountDir=str(volume / "fs"), stackMounts=True)
    node.mount = volume / "fs"
    try:
        node.start()
        node.kill("supervisor")
        assert node.process is not None
        node.process.wait()
        (node.data / "dbs").rename(node.data / "away")
        (node.data / "dbs").write_text("no folder")  # recovery fails, the node ends by itself
        node.launch()
        assert node.process is not None
        assert processes.wait_until(lambda: node.process is not None and node.process.poll() is not None, limit_s=60)
        assert node.process.returncode != 0
        assert len(mountpoint.mounts_at(str(volume / "fs"))) == 1
        (node.data / "dbs").unlink()
        (node.data / "away").rename(node.data / "dbs")
        node.start()
        assert len(mountpoint.mounts_at(str(volume / "fs"))) == 2
    finally:
        node.stop()
        give_back(base)
