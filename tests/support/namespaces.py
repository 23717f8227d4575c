"""Networks of their own for a test's processes, without names: gone with the last one who uses them.

A ``Namespace`` has one TUN device, ``eth0``; what processes in it send comes out of ``tun``
as IP packets, and what is written there arrives (``support.chaosnet`` carries them).

Rules:
    1. No network namespace gets a name and no device lies in the machine's own network, so
       nothing can be left behind: the kernel removes both with the last descriptor and process.
    2. Threads of ``call`` and ``thread`` are inside; what they start or connect is inside too.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

MTU: Final = 9000
CALLERS: Final = 6
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUN_NO_INFO: Final = 0x1001

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network with one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.tun = -1
        self._net = -1
        made: list[BaseException] = []
        maker = threading.Thread(target=self._make, args=(made,))
        maker.start()
        maker.join()
        if made:
            raise made[0]
        self._pool = ThreadPoolExecutor(CALLERS, thread_name_prefix=address, initializer=self.enter)

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Do something inside, and wait for it."""
        return self._pool.submit(function, *arguments, **options).result()

    def thread(self, function: Callable[[], None]) -> threading.Thread:
        """A thread of its own inside."""

        def run() -> None:
            self.enter()
            function()

        started = threading.Thread(target=run, daemon=True)
        started.start()
        return started

    def enter(self) -> None:
        """Bring the calling thread inside."""
        _check(_libc.setns(self._net, _CLONE_NEWNET), "setns")

    def close(self) -> None:
        """Let it go; what still runs inside loses its network."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for fd in (self.tun, self._net):
            os.close(fd)

    def _make(self, errors: list[BaseException]) -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            self._net = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH", b"eth0", _TUN_NO_INFO))
            lines = f"link set lo up\naddr add {self.address}/24 dev eth0\nlink set eth0 mtu {MTU} up\n"
            subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, capture_output=True, timeout=30)
        except BaseException as error:  # it is raised in the thread that asked
            errors.append(error)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
