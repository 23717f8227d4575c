"""System calls that Python has no function for, by ctypes.

Called by the supervisor, the template and the preflight. Every function raises
OSError with the errno and the path it was given.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os

MS_NOSUID = 2
MS_NODEV = 4
MNT_FORCE = 1
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h, 64-bit: _IOR('f', 1, long)
_FS_IOC_SETFLAGS = 0x40086602  # linux/fs.h, 64-bit: _IOW('f', 2, long)
_FS_IMMUTABLE_FL = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, *, flags: int, options: str) -> None:
    """mount(2)."""
    result = _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(result, target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2); never follows a symbolic link."""
    umount_nofollow = 8
    _check(_libc.umount2(os.fsencode(target), flags | umount_nofollow), target)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send a signal to this process when its parent ends.

    The caller compares ``os.getppid()`` afterwards: the parent may have ended before.
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "")


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent ends."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "")


def name_process(name: str) -> None:
    """Set what ``ps`` shows as the command, up to 15 bytes."""
    _check(_libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0), "")


def set_immutable(fd: int, *, on: bool) -> bool:
    """Set or clear the immutable flag; False when the file system or our rights do not allow it."""
    try:
        before = _inode_flags(fd)
        after = before | _FS_IMMUTABLE_FL if on else before & ~_FS_IMMUTABLE_FL
        if after != before:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, array.array("l", [after]))
    except OSError:
        return False
    return True


def _inode_flags(fd: int) -> int:
    flags = array.array("l", [0])
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
    return flags[0]


def _check(result: int, path: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path or None)
