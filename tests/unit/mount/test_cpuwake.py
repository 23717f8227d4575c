"""Keeping CPUs awake on a device that somebody else opened: the wish is made, and written away again."""

from __future__ import annotations

import os

from sqlitecluster.mount.cpuwake import CpuWake

WISH, NO_WISH = bytes(4), b"\xff" * 4


def test_a_given_device_is_never_closed_but_told_that_the_wish_is_over() -> None:
    reader, device = os.pipe()
    cpus = CpuWake(enabled=True, device=device)
    assert os.read(reader, 100) == NO_WISH  # a predecessor may have died while it held
    cpus.touch(now_ns=1)
    cpus.touch(now_ns=2)
    assert os.read(reader, 100) == WISH
    cpus.expire(now_ns=3)
    assert cpus.held_until_ns is not None
    cpus.expire(now_ns=10**12)
    assert os.read(reader, 100) == NO_WISH
    assert cpus.held_until_ns is None
    cpus.touch(now_ns=10**12)
    assert os.read(reader, 100) == WISH
    os.close(reader)
    os.close(device)


def test_a_device_that_refuses_is_not_used_again() -> None:
    reader, device = os.pipe()
    cpus = CpuWake(enabled=True, device=reader)  # cannot be written
    cpus.touch(now_ns=1)
    assert cpus.held_until_ns is None
    os.close(reader)
    os.close(device)
