"""Lane ``special``: the corners of SQLite and of file systems, one case each.

The cases are in ``lanes.special_*``: large and odd databases, ways of using SQLite,
and what happens around the node (power cut, upgrade).
"""

from __future__ import annotations

import sys

from lanes import special_around, special_large, special_usage
from support import lane

CASES = {**special_usage.CASES, **special_large.CASES, **special_around.CASES}


def main() -> int:
    """Entry of ``python -m lanes.special``."""
    return lane.lane_main("special", "cases", CASES)


if __name__ == "__main__":
    sys.exit(main())
