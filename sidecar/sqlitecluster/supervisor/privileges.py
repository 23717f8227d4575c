"""Giving rights away for good: another user, no capabilities, no way to get them back.

Called by the template before it forks anything (``runAs``), and by the opener, which
keeps one capability. The supervisor itself never calls it.
"""

from __future__ import annotations

import ctypes
import os

CAP_DAC_OVERRIDE = 1  # linux/capability.h

_CAP_LAST = 63  # more than any kernel has
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x2008_0522

_libc = ctypes.CDLL(None, use_errno=True)


def drop(uid: int, gid: int, *, keep: int | None = None) -> None:
    """Become ``uid``:``gid`` in no other group, with no capability but ``keep``.

    Raises:
        OSError: the process has not the right to do so; nothing may be done in its name then.
    """
    capabilities = 0 if keep is None else 1 << keep
    for capability in range(_CAP_LAST + 1):
        if capability != keep and _prctl(_PR_CAPBSET_READ, capability, may_fail=True) == 1:
            _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, may_fail=True)
    _prctl(_PR_SET_KEEPCAPS, int(keep is not None))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _set_capabilities(capabilities)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root, and starting a program takes half a second


def _set_capabilities(mask: int) -> None:
    """Effective and permitted as told, nothing inheritable."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def _prctl(option: int, value: int, *, may_fail: bool = False) -> int:
    result: int = _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)
    if result < 0 and not may_fail:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    return result
