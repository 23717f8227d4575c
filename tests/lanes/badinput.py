"""Lane ``badinput``: whatever is wrong, a user gets one clear message and no damage.

The cases are in ``lanes.badinput_*``. A refusal must come with a code of
``docs/errors.md`` and a text that names what is wrong.
"""

from __future__ import annotations

import sys

from lanes import badinput_disk, badinput_peers, badinput_start
from support import lane

CASES = {**badinput_start.CASES, **badinput_disk.CASES, **badinput_peers.CASES}


def main() -> int:
    """Entry of ``python -m lanes.badinput``."""
    return lane.lane_main("badinput", "cases", CASES)


if __name__ == "__main__":
    sys.exit(main())
