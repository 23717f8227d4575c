"""Places where a test can have this process killed, between two durable steps.

A failpoint is a name. It is armed by a file: the environment variable
``SQLITECLUSTER_FAILPOINTS`` names a folder, and a file called after the failpoint in
it means "kill yourself here, once" (the file is removed first). Without the variable
``hit`` is one comparison.
"""

from __future__ import annotations

import os
import signal

_folder: str | None = os.environ.get("SQLITECLUSTER_FAILPOINTS")


def hit(name: str) -> None:
    """Die by SIGKILL when the failpoint ``name`` is armed."""
    if _folder is None:
        return
    try:
        os.unlink(os.path.join(_folder, name))
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
