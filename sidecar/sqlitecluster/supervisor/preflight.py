"""Checks before a node starts: each failure is an error with a code and what to do about it.

Called by the command line, before the supervisor replaces it. Changes nothing except
that it makes missing folders. Cheap checks come first; the data directory is locked
before anything that a dying predecessor may still hold (mount point, ports) is looked at.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from pathlib import Path
from typing import Final

from sqlitecluster.config.model import NodeConfig, RunAs
from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import (
    AddressInUse,
    BadFolder,
    MountPointInUse,
    NoFuseDevice,
    NotPermitted,
    PreflightError,
    StoreLocked,
)
from sqlitecluster.supervisor import lock, mountpoint

_CAP_SYS_ADMIN: Final = 1 << 21  # linux/capability.h
_SETTLE_S: Final = 3.0  # a killed predecessor's mount and sockets are gone long before


def check(config: NodeConfig, *, fuse_device: str = "/dev/fuse") -> int:
    """Check everything; returns the descriptor that holds the lock of the data directory.

    Raises:
        PreflightError: or one of its kinds; ``StoreLocked`` when another node uses the data directory.
    """
    runtime = runtime_dir(config)
    is_new = not runtime.exists()
    try:
        return _check(config, fuse_device)
    except PreflightError:
        if is_new:
            with contextlib.suppress(OSError):
                runtime.rmdir()  # in memory, under a name that nobody would look for
        raise


def _check(config: NodeConfig, fuse_device: str) -> int:
    check_folders(config)
    check_rights(fuse_device)
    if config.run_as is not None:
        check_user(config, config.run_as)
    try:
        lock_fd = lock.acquire(str(config.data_dir))
    except lock.DataLockedError as error:
        raise StoreLocked(str(error)) from error
    try:
        check_mount_point(config.mount_dir)
        check_addresses(config)
    except PreflightError:
        os.close(lock_fd)
        raise
    return lock_fd


def check_rights(fuse_device: str, status_file: str = "/proc/self/status") -> None:
    """The FUSE device and the right to mount."""
    if not _may_mount(status_file):
        raise NotPermitted(
            f"mounting needs root or CAP_SYS_ADMIN, and this is user {os.geteuid()} without it; "
            "use sudo, or give the container the capability"
        )
    try:
        os.close(os.open(fuse_device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as error:
        text = f"{fuse_device} is missing: load the kernel module (modprobe fuse), or give the container the device"
        raise NoFuseDevice(text) from error
    except OSError as error:
        raise NoFuseDevice(f"cannot open {fuse_device}: {error.strerror}; the container may lack the device") from error


def check_user(config: NodeConfig, user: RunAs) -> None:
    """That workers can become ``runAs``, and reach their folders then."""
    if os.geteuid() != 0:
        raise NotPermitted(f"runAs: only root can become user {user.uid}, and this is user {os.geteuid()}")
    for what, folder in (("data directory", config.data_dir), ("runtime directory", runtime_dir(config))):
        for above in folder.parents:
            if not _may_pass(os.stat(above), user):
                raise NotPermitted(
                    f"runAs: user {user.uid} cannot reach the {what}: {above} is closed to it (chmod o+x)"
                )


def check_folders(config: NodeConfig) -> None:
    """Data, runtime and temporary folders; and that data and mount do not contain one another."""
    data, mount = config.data_dir, config.mount_dir
    _check_apart(Path(os.path.realpath(data)), mount)
    _make_folder("data directory", data)
    _make_folder("runtime directory", runtime_dir(config))
    temporary = os.environ.get("TMPDIR")
    if temporary:
        _check_writable("temporary directory (TMPDIR)", Path(temporary))


def check_mount_point(mount: Path) -> None:
    """An empty folder, or what a dead node left mounted."""
    mounts = mountpoint.mounts_at(str(mount))
    if mounts:
        _check_dead(mount, mounts[-1].kind)
        return
    try:
        mode = os.lstat(mount).st_mode
    except FileNotFoundError:
        _make_folder("mount point", mount)
        return
    except OSError as error:
        raise BadFolder(f"mount point {mount}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise BadFolder(f"mount point {mount} is no folder; name an empty folder")
    if os.listdir(mount):
        raise BadFolder(
            f"mount point {mount} is not empty; the mount would hide what is in it, so name an empty folder"
        )


def check_addresses(config: NodeConfig) -> None:
    """That each configured address can be listened on."""
    listen = config.listen
    for key, address in (("peers", listen.peers), ("metrics", listen.metrics), ("api", listen.api)):
        if address:
            _check_address(f"listen.{key}", address)


def _may_mount(status_file: str) -> bool:
    with open(status_file, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
    return os.geteuid() == 0


def _may_pass(seen: os.stat_result, user: RunAs) -> bool:
    if seen.st_uid == user.uid:
        return bool(seen.st_mode & stat.S_IXUSR)
    return bool(seen.st_mode & (stat.S_IXGRP if seen.st_gid == user.gid else stat.S_IXOTH))


def _check_apart(data: Path, mount: Path) -> None:
    if data == mount or data.is_relative_to(mount) or mount.is_relative_to(data):
        raise BadFolder(f"dataDir {data} and mountDir {mount} must not contain one another; put them side by side")


def _make_folder(what: str, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise BadFolder(f"{what} {path} is no folder") from error
    except NotADirectoryError as error:
        raise BadFolder(f"{what} {path}: a part of this path is no folder") from error
    except OSError as error:
        raise NotPermitted(f"cannot make the {what} {path}: {error.strerror}") from error
    if what != "mount point":
        _check_writable(what, path)


def _check_writable(what: str, path: Path) -> None:
    probe = path / f".probe-{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        raise NotPermitted(f"cannot write into the {what} {path}: {error.strerror}") from error


def _check_dead(mount: Path, kind: str) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while kind == mountpoint.KIND and time.monotonic() < deadline:
        if mountpoint.is_dead(str(mount)):
            return
        time.sleep(0.05)
    raise MountPointInUse(f"something is mounted at {mount} already ({kind}); unmount it, or use another mountDir")


def _check_address(key: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise AddressInUse(f"{key}: {host} is no address of this machine ({error.strerror})") from error
    family, _, _, _, target = found[0]
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(target)
        except OSError as error:
            why = "the port is in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
            raise AddressInUse(f"{key}: cannot listen on {address}: {why}") from error
