"""``python -m sqlitecluster.supervisor <config fd> <notify fd>``: one node.

Started by ``sqlitecluster node`` with exec, so that nothing of the command line's
imports stays in memory. The configuration is JSON, already validated, in a memfd.
``<notify fd>`` is a pipe for milestones or -1.
"""

from __future__ import annotations

import os
import sys
import time

from sqlitecluster.supervisor import lock
from sqlitecluster.supervisor.lines import Log, Style
from sqlitecluster.supervisor.process import Inherited, Supervisor
from sqlitecluster.supervisor.settings import Settings

EXIT_REFUSED = 4  # as errors.StoreLocked has it


def main() -> int:
    """Run the node; returns the exit code."""
    config_fd, notify_fd = int(sys.argv[1]), int(sys.argv[2])
    with os.fdopen(config_fd, encoding="utf-8") as file:
        config_json = file.read()
    if notify_fd >= 0:
        os.set_inheritable(notify_fd, False)
    settings = Settings.from_json(config_json)
    log = Log(Style(settings.name, settings.log_format, colour=sys.stderr.isatty()), settings.log_level)
    os.chdir("/")
    try:
        lock_fd = lock.acquire(settings.data_dir)
    except lock.DataLocked as error:
        log.say("error", str(error), code="StoreLocked")
        return EXIT_REFUSED
    started = time.monotonic()
    status = Supervisor(settings, config_json, log, Inherited(lock_fd, notify_fd)).run()
    log.say("debug", f"ran for {time.monotonic() - started:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
