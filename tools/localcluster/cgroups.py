"""Cgroups (version 1 and hybrid): one subtree for the cluster in every hierarchy.

They hold a node's pods together, freeze a node, and tell for certain which processes
are the cluster's: everything below the subtree, whatever became of its parents.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from localcluster import processes
from localcluster.errors import ClusterError

BASE = Path("/sys/fs/cgroup")
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
KILL_LIMIT_S = 20.0
FREEZE_TRIES, FREEZE_LIMIT_S, FREEZE_PAUSE_S = 15, 1.5, 0.2


def hierarchies() -> list[Path]:
    """Root folders of all mounted hierarchies."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found.append(Path(point))
    if not any((path / "freezer.state").exists() or path.name == "freezer" for path in found):
        raise ClusterError("this machine has no version 1 freezer cgroup; the local cluster needs one")
    return found


def make(group: str) -> list[Path]:
    """Make a group in every hierarchy; returns its folders."""
    return [_make_in(root, group) for root in hierarchies()]


def _make_in(root: Path, group: str) -> Path:
    path = root
    for part in group.split("/"):
        parent, path = path, path / part
        path.mkdir(exist_ok=True)
        for name in CPUSET_FILES:  # a new cpuset is empty, and nothing may run in it
            if (parent / name).exists() and not (path / name).read_text().strip():
                (path / name).write_text((parent / name).read_text())
    return path


def _freezer(group: str) -> Path:
    return next(root for root in hierarchies() if root.name == "freezer") / group


def set_frozen(group: str, frozen: bool) -> None:
    """Stop or go on with all processes of a group and below.

    A program that waits for a FUSE file system cannot be frozen, and its answer never comes once the process behind
    that file system is: then all go on for a moment, and it is tried again.
    """
    state = _freezer(group) / "freezer.state"
    if not state.exists():
        return
    wanted = "FROZEN" if frozen else "THAWED"
    for _ in range(FREEZE_TRIES):
        state.write_text(wanted)
        if processes.wait_until(lambda: state.read_text().strip() == wanted, FREEZE_LIMIT_S):
            return
        state.write_text("THAWED")
        time.sleep(FREEZE_PAUSE_S)
    raise ClusterError(f"{group} did not become {wanted}")


def is_frozen(group: str) -> bool:
    with contextlib.suppress(OSError):
        return (_freezer(group) / "freezer.state").read_text().strip() != "THAWED"
    return False


def members(group: str) -> list[int]:
    """All processes of a group and below."""
    found: list[int] = []
    for folder, _, files in os.walk(_freezer(group)):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                found.extend(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
    return [pid for pid in found if pid and processes.alive(pid)]


def kill(group: str) -> None:
    """SIGKILL everything in a group and wait until nothing of it runs."""
    set_frozen(group, False)
    deadline = time.monotonic() + KILL_LIMIT_S
    while left := members(group):
        for pid in left:
            processes.send(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {left} of {group} do not end")
        time.sleep(0.03)


def remove(group: str) -> None:
    """Remove a group and all below from every hierarchy."""
    for root in hierarchies():
        top = root / group
        if not processes.wait_until(lambda top=top: _removed(top), KILL_LIMIT_S):  # type: ignore[misc]
            raise ClusterError(f"cannot remove {top}")


def _removed(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not top.exists()
