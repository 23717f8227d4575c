"""Which boot of the machine this is: mapped words of an earlier one may be a mixture."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def boot_id() -> int:
    """A number of this boot (64 bits of the kernel's random boot id); 0 where it is unknown."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return 0
    return int(text.strip().replace("-", "")[:16], 16)
