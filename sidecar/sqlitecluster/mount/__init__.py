"""The process that serves the mount: FUSE requests in, files below the data directory out.

    process      start, ready, stop
    takeover     a live connection handed to this process (INIT, resend)
    channel      the connection: answers about bytes (byte_requests), the rest to and from pyfuse3
    driver       the loop that takes requests and steps pyfuse3; parking; a few threads for slow calls
    operations, name_operations      the thin edge below pyfuse3: one method per request, errors to errno
    tree         names <-> nodes;  layout: which name lives where (pure)
    files, tracked, database         bytes of each kind of file, and what must be noted about them
    waltrack (pure), dirty           what the replicator is told about writes
    roles (pure), virtual, space, names, cpuwake

Rules:
    1. One thread handles requests; the pool's threads only make one blocking call each.
    2. Namespace requests (create, unlink, rename) never park: the kernel holds the directory meanwhile.
    3. Inode numbers and handles are numbers that a successor can read without a table.
    4. The replicator is told through ``sqlitecluster.shared`` only.
"""

import sys
import types


def _import_pyfuse3() -> None:
    """Import pyfuse3 with a stand-in for trio, which it imports and which never runs here (``driver.install``).

    It spares each start of a node a tenth of a second, and each process the memory.
    """
    known = sys.modules.get("trio")
    sys.modules["trio"] = known or types.ModuleType("trio")
    try:
        import pyfuse3  # noqa: F401
    finally:
        if known is None:
            del sys.modules["trio"]


_import_pyfuse3()
