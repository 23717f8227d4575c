"""Power cuts: a node whose data directory is a file system of its own, that can lose its power.

``PowerDisk`` is a loop-mounted file. ``cut`` is ``FS_IOC_SHUTDOWN`` without flushing the log:
what was not fsynced is gone, as after a power cut, and every later write fails.

Rules:
    1. Only the data directory lies on it; what a reboot takes away besides (the folder in
       tmpfs, the boot id in mapped words) is taken away by ``forget_memory``.
    2. ``restore`` mounts once to replay the log, checks the file system read-only, and mounts again.
    3. Nothing stays: a loop device goes with its mount, the file with its folder.
    4. The mounts are in a mount namespace of our own: a copy of one in the namespace of somebody
       else would keep the dead file system alive, and the next mount would get that one again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster.store.state import StateWord
from support import processes
from support.node import Node

FS_IOC_SHUTDOWN: Final = 0x8004587D
NOLOGFLUSH: Final = 2
CHECKSUMS_BOOT: Final = 3  # word of the boot id in the file of page checksums
CLEAN: Final = 2  # word of both files: 1 after an orderly stop
HEAD_WORDS: Final = 4
ANOTHER_BOOT: Final = 0x1234567890ABCDEF
DISK_BYTES: Final = 320 << 20  # XFS wants 300 MiB; sparse
WRITE_OUT: Final = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | WRITE | WAIT_AFTER

CLONE_NEWNS: Final = 0x20000
MS_REC_PRIVATE: Final = 0x4000 | 0x40000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@dataclass(frozen=True, slots=True)
class Kind:
    """A file system and how it is mounted."""

    name: str
    make: tuple[str, ...]
    options: str
    check: tuple[str, ...]

    @property
    def driver(self) -> str:
        return self.name.partition("-")[0]


_EXT4 = ("mkfs.ext4", "-q", "-F", "-J", "size=8")
_EXT4_CHECK = ("e2fsck", "-f", "-n")
KINDS: Final = (
    # Without the long commit interval ext4 itself would make things durable that nobody fsynced.
    Kind("ext4-ordered", _EXT4, "data=ordered,commit=1000", _EXT4_CHECK),
    Kind("xfs", ("mkfs.xfs", "-q", "-f"), "defaults", ("xfs_repair", "-n")),
    Kind("ext4-journal", _EXT4, "data=journal,commit=1000", _EXT4_CHECK),
)


def missing(kind: Kind) -> str | None:
    """Why a file system cannot be used here; None when it can."""
    for tool in (kind.make[0], kind.check[0], "mount"):
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"{tool} is not installed"
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", kind.driver], capture_output=True, check=False)
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    return None if kind.driver in known else f"/proc/filesystems of this kernel does not name {kind.driver}"


def own_mounts() -> None:
    """Put this process and its children into a mount namespace of their own; before any thread begins.

    Raises:
        OSError: not root.
    """
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(None, b"/", None, MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace of our own")


class PowerDisk:
    """A file system of its own, mounted at ``point``."""

    def __init__(self, kind: Kind, point: Path, file: Path) -> None:
        self.kind = kind
        self.point = point
        self._file = file
        with file.open("wb") as image:
            image.truncate(DISK_BYTES)
        _run(*kind.make, str(file))
        point.mkdir(parents=True, exist_ok=True)
        self.mount()

    def mount(self) -> None:
        """Mount it; the kernel replays its log."""
        _run("mount", "-t", self.kind.driver, "-o", f"loop,{self.kind.options}", str(self._file), str(self.point))

    def write_out(self, rng: random.Random) -> None:
        """Write the data of some files to disk, in any order, as the kernel does by itself now and then."""
        for path in sorted(self.point.rglob("*")):
            if rng.random() < 0.5 and path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError), path.open("rb") as file:
                    _libc.sync_file_range(file.fileno(), 0, 0, WRITE_OUT)

    def cut(self) -> None:
        """What is not durable now will never be."""
        folder = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(folder)

    def restore(self) -> str:
        """After the power cut: replay, check, mount; returns what the check found wrong (nothing: empty)."""
        self.unmount()
        self.mount()
        self.unmount()
        done = subprocess.run([*self.kind.check, str(self._file)], capture_output=True, text=True, check=False)
        self.mount()
        return "" if done.returncode == 0 else f"{self.kind.check[0]}: {done.stdout[-1500:]}{done.stderr[-500:]}"

    def unmount(self) -> None:
        """Unmount, when the last process that had a file open is gone."""
        done = subprocess.CompletedProcess[str]([], 0)

        def gone() -> bool:
            nonlocal done
            done = subprocess.run(["umount", str(self.point)], capture_output=True, text=True, check=False)
            return done.returncode == 0

        assert processes.wait_until(gone, limit_s=30, step_s=0.02), f"{self.point} stays busy: {done.stderr}"

    def close(self) -> None:
        """Unmount for good and remove the file."""
        if processes.mounts_under(self.point):
            self.unmount()
        self._file.unlink(missing_ok=True)


def kill_node(node: Node, known: dict[str, int]) -> None:
    """Kill every process of a node at once; ``known``: its parts, read before the power went."""
    process = node.process
    assert process is not None
    everybody = {process.pid, *known.values(), *processes.children_of(process.pid)}
    for pid in everybody:
        processes.kill(pid)
    process.wait(30)
    node.process = None
    assert processes.wait_until(lambda: not any(map(processes.alive, everybody)), limit_s=30, step_s=0.01)
    for point in processes.mounts_under(node.mount):
        processes.unmount(point)


def forget_memory(node: Node) -> None:
    """Take away what a reboot takes away besides un-fsynced data: tmpfs, and the boot of mapped words."""
    digest = hashlib.sha256(os.fsencode(node.data.resolve())).hexdigest()[:16]
    shutil.rmtree(Path("/dev/shm") / f"sqlitecluster-{digest}", ignore_errors=True)
    forget_boot(node)


def forget_boot(node: Node) -> None:
    """Make the node believe that the machine was started anew: its mapped words are of another boot."""
    for database in (node.data / "dbs").glob("*"):
        for file, word in ((database / "state", StateWord.BOOT), (database / "checksums", CHECKSUMS_BOOT)):
            with contextlib.suppress(FileNotFoundError), file.open("r+b") as words:
                head = words.read(HEAD_WORDS * 8)
                # Words of an orderly stop are sealed, and believed in any boot.
                if len(head) == HEAD_WORDS * 8 and not struct.unpack_from("<Q", head, CLEAN * 8)[0]:
                    words.seek(word * 8)
                    words.write(struct.pack("<Q", ANOTHER_BOOT))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
