"""Reading tokens that the kubelet puts into a pod.

With ``fsGroup`` they are closed to everybody but root and that group, and so to the user of
``runAs``. Then the supervisor's opener is asked; the replicator says how, at its start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

TOKEN_BYTES_MAX: Final = 256 * 1024

_ask: Callable[[Path], int] | None = None


def ask_for(opener: Callable[[Path], int] | None) -> None:
    """Set at start: gives a descriptor of a file that was refused."""
    global _ask
    _ask = opener


def read_token(path: Path) -> bytes:
    """The file, up to one byte more than a token may have.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if _ask is None:
            raise
        fd = _ask(path)
    try:
        return os.read(fd, TOKEN_BYTES_MAX + 1)
    finally:
        os.close(fd)
