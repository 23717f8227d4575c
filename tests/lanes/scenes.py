"""Lane ``scenes``: what a user sees of replication, one short story each.

Two nodes; whatever a SQLite client writes below ``n1/mnt`` is read below ``n2/mnt``;
a write on ``n2`` is refused with the promised message; readers never wait. The stories
are in ``lanes.scenes_*``, by subject.
"""

from __future__ import annotations

import sys

from lanes import scenes_checkpoints, scenes_files, scenes_reading, scenes_service, scenes_writing
from support import lane

CASES = {
    **scenes_writing.CASES,
    **scenes_reading.CASES,
    **scenes_files.CASES,
    **scenes_service.CASES,
    **scenes_checkpoints.CASES,
}


def main() -> int:
    """Entry of ``python -m lanes.scenes``."""
    return lane.lane_main("scenes", "scenes", CASES)


if __name__ == "__main__":
    sys.exit(main())
