"""Open handles: numbers that say everything, so that a successor needs no table.

bits  0-47   inode number of the backing file
bits 48-59   generation of the slot's handles (or a directory's serial number)
bit  60      opened for writing
bits 61, 62  as in the inode number: virtual file; file on tmpfs
bit  63      opened by the replicator
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlitecluster.mount.files import File

_NUMBER: Final = (1 << 48) - 1
_SPACES: Final = 3 << 61
_GENERATION_AT: Final = 48
_GENERATION_MASK: Final = 0xFFF
_WRITING: Final = 1 << 60
_PRIVILEGED: Final = 1 << 63


@dataclass(slots=True)
class Handle:
    """One open file as a program sees it; equal numbers share it."""

    file: File
    writing: bool
    privileged: bool
    generation: int
    poisoned: bool = False
    """Every read and write answers EIO: the program must open the database again."""


def pack(ino: int, *, writing: bool = False, privileged: bool = False, generation: int = 0) -> int:
    """The number of a handle."""
    number = ino | (generation & _GENERATION_MASK) << _GENERATION_AT
    return number | (_WRITING if writing else 0) | (_PRIVILEGED if privileged else 0)


def ino_of(number: int) -> int:
    """The inode number in a handle."""
    return number & (_NUMBER | _SPACES)


def is_writing(number: int) -> bool:
    """Opened for writing."""
    return bool(number & _WRITING)


def is_privileged(number: int) -> bool:
    """Opened by the replicator."""
    return bool(number & _PRIVILEGED)


def generation_of(number: int) -> int:
    """The lowest 12 bits of the generation."""
    return number >> _GENERATION_AT & _GENERATION_MASK
