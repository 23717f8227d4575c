"""Found by the interpreters of a node that runs with a bug (``support.planting``), before anything else of theirs.

Only the template imports what the bug changes: mount and replicator are its forks.
"""

from __future__ import annotations

import os
import sys

if any("sqlitecluster.template" in argument for argument in sys.orig_argv):
    from support.planting import BUGS, VARIABLE

    BUGS[os.environ[VARIABLE]]()
