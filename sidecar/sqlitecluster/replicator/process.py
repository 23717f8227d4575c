"""Entry point of the replicator process; forked by the template, run until SIGTERM.

Rules: nothing is started at import; ``run`` returns only when everything is stopped.
"""

from __future__ import annotations

import asyncio
import sys

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.replicator import node

_SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another wants it: capture, apply and
the event loop hand small pieces to each other, and a commit's way to a replica crosses
three of them."""


def run(config: NodeConfig, fds: dict[str, int]) -> None:
    """Capture or apply, stream and serve HTTP until told to stop."""
    sys.setswitchinterval(_SWITCH_S)
    asyncio.run(node.main(config, fds))
