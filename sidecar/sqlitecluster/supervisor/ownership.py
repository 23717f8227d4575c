"""Giving a node's folders to the user that its workers run as. Called by the supervisor before they start.

Rules:
    1. O(1) when it is right already: the folder itself is looked at, and given away last.
    2. Links are not followed, other file systems are not entered: whoever may write here is not root.
"""

from __future__ import annotations

import contextlib
import os
import stat


def give(folder: str, uid: int, gid: int) -> bool:
    """Make ``folder`` and all that is in it the user's; False when nothing was to be done."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        seen = os.fstat(fd)
        if seen.st_uid == uid:  # the group may be the pod's fsGroup
            return False
        _give_content(fd, seen.st_dev, uid, gid)
        os.fchown(fd, uid, gid)
        if seen.st_mode & 0o700 != 0o700:
            os.fchmod(fd, stat.S_IMODE(seen.st_mode) | 0o700)
    finally:
        os.close(fd)
    return True


def _give_content(fd: int, device: int, uid: int, gid: int) -> None:
    for name in os.listdir(fd):
        with contextlib.suppress(FileNotFoundError):
            seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if seen.st_dev != device:
                continue
            if stat.S_ISDIR(seen.st_mode):
                _give_folder(name, fd, device, uid, gid)
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)


def _give_folder(name: str, above: int, device: int, uid: int, gid: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        _give_content(fd, device, uid, gid)
    finally:
        os.close(fd)
