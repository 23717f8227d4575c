"""Bytes that SQLite locks, and on which file.

On the database (``PENDING`` … ``SHARED``): rollback modes, and SHARED also in WAL mode. On
``-shm``: one byte for each lock of WAL mode. Source: SQLite's os.h, wal.c, os_unix.c.
"""

from __future__ import annotations

from typing import Final

PENDING: Final = 0x4000_0000
RESERVED: Final = PENDING + 1
SHARED_FIRST: Final = PENDING + 2
SHARED_SIZE: Final = 510

WRITE: Final = 120
CKPT: Final = 121
RECOVER: Final = 122
READ0: Final = 123
READ_LOCKS: Final = 5  # READ0 … READ4 are bytes 123 … 127
DMS: Final = 128  # held shared by every connection; exclusively by who truncates -shm
