"""Free port ranges for clusters under test, so that two lanes can run at once.

A base port P stands for the ports P … P+99 (ten for each node). A range is taken
by binding an abstract Unix socket named after it, which the kernel frees with the
process, and by looking whether every port of the range can be bound now. The ranges
lie below the kernel's own choice of ports for outgoing connections.
"""

from __future__ import annotations

import random
import socket

LOWEST = 20_300
HIGHEST = 32_600
STEP = 100

_held: dict[int, socket.socket] = {}


def take_base(ports: int = 60) -> int:
    """Reserve a free range for this process and return its base port.

    Raises:
        OSError: no range is free.
    """
    bases = list(range(LOWEST, HIGHEST - STEP, STEP))
    random.SystemRandom().shuffle(bases)
    for base in bases:
        if _reserve(base):
            if all(is_free(base + i) for i in range(ports)):
                return base
            give_back(base)
    raise OSError("no free range of ports")


def give_back(base: int) -> None:
    """Free a range for others."""
    holder = _held.pop(base, None)
    if holder is not None:
        holder.close()


def is_free(port: int) -> bool:
    """True when a listener could be opened on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _reserve(base: int) -> bool:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0sqlitecluster-ports-{base}")
    except OSError:
        holder.close()
        return False
    _held[base] = holder
    return True
