"""The mount point: the FUSE connection of one node, from mount(2) to the last umount.

Called by the supervisor only, which is the only process that holds ``/dev/fuse``
for long. The kernel's INIT request is read here and kept, so that any mount process
can be given a connection that looks new to it.

Rules:
    1. Nothing here looks a path up below the mount point while it is mounted.
    2. The bare folder below the mount is immutable from before the mount until a stop
       that cut off no program (where the file system can do that): a program that runs while
       nothing is mounted gets an error, not an acknowledged write into a folder that
       the next mount hides.
    3. A connection whose INIT was possibly answered is never offered as a new one.
    4. Stacked (``stackMounts``, for containers): a dead mount stays and the new one goes on
       top of it. Programs in other containers hold a slave of the dead mount's peer group,
       so the new one appears in their place too. All of them go at a clean stop. See
       docs/decisions/0014-mounts-on-top.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct

from sqlitecluster.supervisor import linux

KIND = "fuse.sqlitecluster"
_READ_BYTES = 1 << 17  # the kernel refuses buffers that could not hold its largest request
_INIT_TIMEOUT_MS = 30_000
_OPCODE_INIT = 26  # linux/fuse.h
_INIT_EXT = 1 << 30  # linux/fuse.h: flags2 is valid
_HAS_RESEND = 1 << 7  # linux/fuse.h: bit 39 of the flags, kernel 6.9
_CONNECTIONS = "/sys/fs/fuse/connections"


class MountFailedError(Exception):
    """The mount could not be made; the text is for the user."""


class Mount:
    """One line of ``/proc/self/mountinfo``."""

    __slots__ = ("device", "kind", "point")

    def __init__(self, device: str, point: str, kind: str) -> None:
        self.device = device  # "major:minor"; the minor number is the id of a FUSE connection
        self.point = point
        self.kind = kind


def parse_mountinfo(text: str) -> list[Mount]:
    """All mounts, in the order in which they were made."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        mounts.append(Mount(fields[2], _unescape(fields[4]), right.split()[0]))
    return mounts


def mounts_at(path: str) -> list[Mount]:
    """What is mounted exactly at ``path``; the last one is on top."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [mount for mount in parse_mountinfo(file.read()) if mount.point == path]


def is_dead(path: str) -> bool:
    """Whether the mount at ``path`` has lost the process that served it."""
    try:
        os.statvfs(path)  # always asks; stat may be answered from the kernel's cache
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def can_resend(init: bytes) -> bool:
    """Whether the kernel that sent this INIT can send unanswered requests again."""
    flags, flags2 = struct.unpack_from("<II", init, 40 + 12)
    return bool(flags & _INIT_EXT and flags2 & _HAS_RESEND)


class MountPoint:
    """One mount point and, while mounted, its connection."""

    def __init__(self, path: str, *, allow_other: bool, stacked: bool = False) -> None:
        self.path = path
        self.fuse_fd = -1
        self.init = b""
        self.mounted = False
        self._allow_other = allow_other
        self._stacked = stacked
        self._bare_fd = -1

    def attach(self) -> None:
        """Mount; what a dead predecessor left is removed first, or covered.

        Raises:
            MountFailedError: with a text for the user; nothing that works is left mounted.
        """
        if self._stacked:
            self._find_dead()
        else:
            self._clear_dead()
            self._guard_bare_folder()
        try:
            self.fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
            linux.mount(
                "sqlitecluster", self.path, KIND, flags=linux.MS_NOSUID | linux.MS_NODEV, options=self._options()
            )
            self.mounted = True
            self.init = self._read_init()
        except OSError as error:
            self.abort()
            raise MountFailedError(f"cannot mount {self.path}: {error.strerror or error}") from error

    def abort(self) -> None:
        """End the connection: every waiting request fails, open files are dead, the name is free."""
        if self.mounted:
            self._abort_in_sysfs()
            if not self._stacked:
                with contextlib.suppress(OSError):
                    linux.umount(self.path, linux.MNT_FORCE | linux.MNT_DETACH)
        self.close()

    def detach(self) -> None:
        """Take the mount out of the folder tree; programs with open files go on until ``close``."""
        if self._stacked:
            clear(self.path)
        elif self.mounted:
            with contextlib.suppress(OSError):
                linux.umount(self.path, linux.MNT_DETACH)

    def close(self) -> None:
        """Give up our end of the connection."""
        if self.fuse_fd >= 0:
            os.close(self.fuse_fd)
        self.fuse_fd, self.mounted, self.init = -1, False, b""

    def release_bare_folder(self) -> None:
        """After the clean stop: the folder is an ordinary one again."""
        if self._bare_fd >= 0:
            linux.set_immutable(self._bare_fd, on=False)
            os.close(self._bare_fd)
            self._bare_fd = -1

    @property
    def connection_id(self) -> str:
        """Name of the connection in ``/sys/fs/fuse/connections``; empty when not mounted."""
        mounts = mounts_at(self.path)
        return mounts[-1].device.partition(":")[2] if mounts else ""

    def _clear_dead(self) -> None:
        for mount in reversed(mounts_at(self.path)):
            if mount.kind != KIND or not is_dead(self.path):
                raise MountFailedError(f"{self.path}: something else is mounted there ({mount.kind})")
            linux.umount(self.path, linux.MNT_DETACH)

    def _find_dead(self) -> None:
        mounts = mounts_at(self.path)
        if not mounts:
            os.makedirs(self.path, exist_ok=True)
        elif mounts[-1].kind != KIND or not is_dead(self.path):
            raise MountFailedError(f"{self.path}: something else is mounted there ({mounts[-1].kind})")

    def _guard_bare_folder(self) -> None:
        if self._bare_fd < 0:
            os.makedirs(self.path, exist_ok=True)
            self._bare_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.set_immutable(self._bare_fd, on=True)

    def _options(self) -> str:
        options = f"fd={self.fuse_fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions"
        return options + ",allow_other" if self._allow_other else options

    def _read_init(self) -> bytes:
        poll = select.poll()
        poll.register(self.fuse_fd, select.POLLIN)
        if not poll.poll(_INIT_TIMEOUT_MS):
            raise TimeoutError(errno.ETIMEDOUT, "the kernel sent no INIT request")
        init = os.read(self.fuse_fd, _READ_BYTES)
        if struct.unpack_from("<I", init, 4)[0] != _OPCODE_INIT:
            raise OSError(errno.EPROTO, "the first request of the kernel was not INIT")
        flags = fcntl.fcntl(self.fuse_fd, fcntl.F_GETFL)
        fcntl.fcntl(self.fuse_fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        return init

    def _abort_in_sysfs(self) -> None:
        name = self.connection_id
        if name:
            with contextlib.suppress(OSError), open(f"{_CONNECTIONS}/{name}/abort", "w", encoding="ascii") as file:
                file.write("1")


def clear(path: str) -> None:
    """Take every mount of ours away, alive or dead, from the top."""
    with contextlib.suppress(OSError):
        while (mounts := mounts_at(path)) and mounts[-1].kind == KIND:
            linux.umount(path, linux.MNT_DETACH)


def clean_up(path: str) -> None:
    """Remove what a node that was killed left: a dead mount, the immutable flag. Harmless otherwise."""
    with contextlib.suppress(OSError):
        while mounts_at(path) and is_dead(path):
            linux.umount(path, linux.MNT_DETACH)
    with contextlib.suppress(OSError):
        if not mounts_at(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            linux.set_immutable(fd, on=False)
            os.close(fd)


def users(path: str) -> dict[int, str]:
    """Processes with files open below ``path``, or working there: pid and name. Sends no FUSE request."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and any(_is_below(link, path) for link in _links(f"/proc/{entry}")):
            found[int(entry)] = _process_name(entry)
    return found


def _links(process: str) -> list[str]:
    links = []
    with contextlib.suppress(OSError):
        for name in ["cwd", *(f"fd/{fd}" for fd in os.listdir(f"{process}/fd"))]:
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"{process}/{name}"))
    return links


def _is_below(link: str, path: str) -> bool:
    return link == path or link.startswith(path + "/")


def _process_name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
