"""Entry point of the replicator process; forked by the template, run until SIGTERM.

Rules: nothing is started at import; ``run`` returns only when everything is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.replicator import node

log = logging.getLogger(__name__)

_EXIT_THREAD_DIED = 70
_SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another wants it: capture, apply and
the event loop hand small pieces to each other, and a commit's way to a replica crosses
three of them."""


def run(config: NodeConfig, fds: dict[str, int]) -> None:
    """Capture or apply, stream and serve HTTP until told to stop."""
    sys.setswitchinterval(_SWITCH_S)
    threading.excepthook = _thread_died
    asyncio.run(node.main(config, fds))


def _thread_died(event: threading.ExceptHookArgs) -> None:
    """A node without one of its threads looks alive and does nothing: end, the supervisor starts another."""
    name = event.thread.name if event.thread is not None else "unknown"
    log.critical("thread %s ended by an unexpected error", name, exc_info=event.exc_value)
    os._exit(_EXIT_THREAD_DIED)
