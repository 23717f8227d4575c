"""Files of u64 words, mapped, without holding a descriptor each.

``mmap.mmap`` keeps a descriptor per mapping; a node with thousands of databases would
run out of them. ``WordFile`` maps through libc and closes the file at once.

Rules:
    1. Room is taken (fallocate) before it is mapped: a store into a hole on a full disk
       would kill the process by SIGBUS.
    2. A mapping lives as long as any view of it; growing makes a new mapping.
    3. Words are single aligned stores; who needs several at once uses a sequence word.

Used by ``state`` and ``checksums``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sqlitecluster.store.disk import Disk

Words = npt.NDArray[np.uint64]

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_MS_SYNC: Final = 4


class _Mapping:
    """Keeps the address range alive for the arrays made of it."""

    def __init__(self, fd: int, size: int) -> None:
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, prot, mmap.MAP_SHARED, fd, 0)
        if address is None or address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.address: int = address
        self.size = size

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "data": (self.address, False), "shape": (self.size // 8,), "typestr": "<u8"}

    def sync(self) -> None:
        if _libc.msync(self.address, self.size, _MS_SYNC) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def __del__(self) -> None:
        if hasattr(self, "address"):
            _libc.munmap(self.address, self.size)


class WordFile:
    """A mapped file of at least ``words`` u64 words; ``array`` and ``cells`` see the same memory."""

    def __init__(self, path: Path, words: int, disk: Disk) -> None:
        self.path = path
        self._disk = disk
        self._map(words)

    def _map(self, words: int) -> None:
        fd = self._disk.open(self.path)
        try:
            size = max(words * 8, os.fstat(fd).st_size)
            size += -size % 4096
            self._disk.allocate(fd, size)
            self._mapping = _Mapping(fd, size)
        finally:
            os.close(fd)
        self.array: Words = np.asarray(self._mapping)
        self.cells = self.array.data.cast("B").cast("Q")
        """Single words: four times faster than the array."""

    def grow(self, words: int) -> None:
        """Make room for at least ``words`` words."""
        if words > len(self.array):
            self._map(words)

    def sync(self) -> None:
        """Make the content durable."""
        self._mapping.sync()
