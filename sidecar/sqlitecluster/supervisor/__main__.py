"""``python -m sqlitecluster.supervisor <config fd> <lock fd> <notify fd>``: one node.

Started by ``sqlitecluster node`` with exec, so that nothing of the command line's
imports stays in memory. The configuration is JSON, already validated, in a memfd; the
data directory is locked already. ``<notify fd>`` is a pipe for milestones or -1.
"""

from __future__ import annotations

import os
import sys

from sqlitecluster.supervisor.lines import Log, Style
from sqlitecluster.supervisor.node import Inherited
from sqlitecluster.supervisor.process import Supervisor
from sqlitecluster.supervisor.settings import Settings


def main() -> int:
    """Run the node; returns the exit code."""
    config_fd, lock_fd, notify_fd = (int(argument) for argument in sys.argv[1:4])
    with os.fdopen(config_fd, encoding="utf-8") as file:
        config_json = file.read()
    for fd in (lock_fd, notify_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    settings = Settings(config_json)
    log = Log(Style(settings.name, settings.log_format, colour=sys.stderr.isatty()), settings.log_level)
    os.chdir("/")  # no folder of the user's is kept busy
    return Supervisor(settings, config_json, log, Inherited(lock_fd, notify_fd)).run()


if __name__ == "__main__":
    sys.exit(main())
